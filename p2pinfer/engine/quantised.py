"""Weights as they lie in a GGUF file, in the forms that onnxruntime multiplies without unpacking them.

MatMulNBits of com.microsoft takes 4 or 8 bits a weight and one scale for each block of a power of two of at
least 16 weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockProduct", "DenseMatrix", "Matrix", "QuantisedMatrix"]

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockProduct:
    """One MatMulNBits node: `y += x @ W.T` with W = (code - zero point) * scale.

    Shapes:
        packed: (N, K / block_size, block_size * bits / 8), two codes a byte where bits is 4, the lower first.
        scales: (N, K / block_size).
        zero_points: packed alike, one for each block; None stands for 8 or 128, the node's own default.
    """

    bits: int
    block_size: int
    packed: U8
    scales: F32
    zero_points: U8 | None = None


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A matrix W (N, K) = (out, in) for `y = x @ W.T`: the sum of its products and of its offsets' share.

    Shapes:
        offsets: (K / 32, N); y += sums of each 32 neighbours in x @ offsets.
    """

    row_count: int
    """N."""
    column_count: int
    """K."""
    products: tuple[BlockProduct, ...]
    offsets: F32 | None = None
    loss: float = 0.0
    """Relative root mean square error against the weights of the file; 0 where the form is exact."""


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """A matrix of floats, transposed for `y = x @ weight`.

    Shapes:
        weight: (K, N).
    """

    weight: F32


Matrix = QuantisedMatrix | DenseMatrix
