"""Engines compute spans of layers. `api.py` is the protocol; each engine passes one conformance suite."""
