"""Finds the real model for the tests that want it: in the store, or pulled into it."""

from __future__ import annotations

from pathlib import Path

from p2pinfer.models.store import ModelStore

__all__ = ["real_model_path"]


def real_model_path() -> Path:
    """The file of smollm2:135m."""
    return ModelStore().pull("smollm2:135m")
