"""Weights of types that have no exact product, rounded to eight bits.

The rare formats (grids of vectors, ternary digits) are decoded by the package gguf and stored as Q8_0. What
that adds to their own error is measured, and stated with the matrix.
"""

from __future__ import annotations

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from p2pinfer.engine.ggml_blocks import LAYOUTS
from p2pinfer.errors import UnsupportedModel

__all__ = ["requantised"]

_CHUNK_BYTES = 1 << 18


def requantised(
    name: str, raw: NDArray[np.uint8], kind: GGMLQuantizationType
) -> tuple[NDArray[np.uint8], float]:
    """Return a tensor's rows as Q8_0, and their relative root mean square error.

    Raises:
        UnsupportedModel: The type cannot be dequantised, or its blocks do not fill blocks of 32.
    """
    weight_count, block_bytes = GGML_QUANT_SIZES[kind]
    record = LAYOUTS[GGMLQuantizationType.Q8_0].record
    column_count = raw.shape[1] // block_bytes * weight_count
    if column_count % 32:
        raise UnsupportedModel(f"the tensor {name!r} of type {kind.name} has {column_count} columns, no 32s")
    blocks = np.zeros((len(raw), column_count // 32), record)
    lost = total = 0.0
    rows = max(1, _CHUNK_BYTES // raw.shape[1])
    for start in range(0, len(raw), rows):
        try:
            weights = quants.dequantize(raw[start : start + rows], kind).reshape(-1, column_count // 32, 32)
        except NotImplementedError as error:
            raise UnsupportedModel(
                f"the tensor {name!r} is of type {kind.name}, which is not known"
            ) from error
        chunk = blocks[start : start + rows]
        chunk["d"] = np.abs(weights).max(axis=-1) / 127
        scales = chunk["d"].astype(np.float32)[..., None]
        steps = np.divide(weights, scales, out=np.zeros_like(weights), where=scales != 0)
        chunk["qs"] = np.rint(np.clip(steps, -127, 127))
        errors = chunk["qs"] * scales - weights
        lost += float(np.vdot(errors, errors))
        total += float(np.vdot(weights, weights))
    return blocks.view(np.uint8), float(np.sqrt(lost / total)) if total else 0.0
