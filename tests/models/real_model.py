"""Finds the real model for the tests that want it: in the store, or pulled into it."""

from __future__ import annotations

import os
from pathlib import Path

from p2pinfer.models.store import ModelStore

__all__ = ["real_model_path"]


def real_model_path() -> Path:
    """The file of smollm2:135m; P2PINFER_CACHE names the cache directory as it does for the command line."""
    cache = os.environ.get("P2PINFER_CACHE")
    return ModelStore(Path(cache) / "models" if cache else None).pull("smollm2:135m")
