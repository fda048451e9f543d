"""Engines compute spans of layers. `api.py` is the protocol; each engine passes one conformance suite."""

import os

# Since version 1.29 onnxruntime writes an id and a database below the user's home when it is imported, and
# sends Microsoft what models are loaded. A peer talks to its peers alone, so this is said before any import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
