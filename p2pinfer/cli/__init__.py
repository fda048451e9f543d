"""What people type: one module for each command, and the few helpers they share."""
