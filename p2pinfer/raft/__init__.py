"""Raft: one log for a few nodes that may crash, lose messages and lose power, as one pure core."""
