"""What the end-to-end tests share: a tiny model in a store of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pinfer.models.store import ModelStore
from tests.models.tiny import write_tiny_llama

TINY = "tiny:latest"
TINY_LAYER_COUNT = 6


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory whose store knows a model of six layers with random weights."""
    directory = tmp_path_factory.mktemp("cache")
    path = write_tiny_llama(
        directory / "tiny.gguf", layers=TINY_LAYER_COUNT, hidden=64, heads=4, kv_heads=2, seed=7
    )
    ModelStore(directory / "models").import_file(path, TINY)
    return directory
