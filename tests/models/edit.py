"""Writes a tiny llama whose metadata or tensors are changed: the files that nobody should have to meet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from p2pinfer.models.gguf import GGUFFile
from tests.models.tiny import write_tiny_llama

__all__ = ["write_gguf"]


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32] | None] | None = None
) -> Path:
    """Write a tiny llama of one layer with these keys and tensors changed, added, or (None) left out."""
    base = write_tiny_llama(path.with_suffix(".base"), layers=1, hidden=32, heads=2, kv_heads=1)
    with GGUFFile.open(base) as file:
        values: dict[str, Any] = {**file.metadata, **metadata}
        weights: dict[str, NDArray[np.float32] | None] = {name: file.read(name) for name in file.tensors}
    weights.update(tensors or {})
    writer = GGUFWriter(path, str(values.pop("general.architecture")))
    for key, value in values.items():
        _add(writer, key, value)
    for name, array in weights.items():
        if array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_int64(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
