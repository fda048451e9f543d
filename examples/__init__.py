"""Examples, one idea each."""
