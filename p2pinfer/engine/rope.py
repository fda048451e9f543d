"""Rotary position embedding in the interleaved form that GGUF's llama weights want.

Neighbours (2i, 2i + 1) of a head are one complex number, turned by an angle that grows with the position.
Hugging Face turns the pairs (i, i + n/2) instead; GGUF's converter permutes the rows of q and k, so that
both say the same.

Angles are computed in float64 and each from its own position alone, so that a position has the same angle
in whatever step it comes. At position 8,000 a float32 angle would be wrong by 5e-4.

Source: RoFormer (arXiv 2104.09864), section 3.4.2; llama 3's factors and linear scaling as llama.cpp's
`ggml_rope_ext` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.errors import UnsupportedModel

__all__ = ["RopeSettings", "rotate", "turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSettings:
    """How fast each pair of a head turns.

    Raises:
        UnsupportedModel: A value is outside its range, which a file can say but no model means.
    """

    base: float = 10_000.0
    """theta: the slowest pair turns once in about 2 pi base positions. RoFormer; 100,000 for SmolLM2."""
    dimension_count: int = 64
    """Numbers of a head that turn, from its start; even. Where it is less than the head, the rest stays."""
    scale: float = 1.0
    """Positions are divided by this: linear scaling (arXiv 2306.15595); 1 where the file says nothing."""
    factors: tuple[float, ...] = ()
    """What each pair's frequency is divided by: llama 3's `rope_freqs`; empty where the file has none."""

    def __post_init__(self) -> None:
        if self.dimension_count < 2 or self.dimension_count % 2:
            raise UnsupportedModel(f"rope dimension_count must be even and positive: {self.dimension_count}")
        if not (0.0 < self.base < float("inf") and 0.0 < self.scale < float("inf")):
            raise UnsupportedModel(f"rope base and scale must be positive: {self.base}, {self.scale}")
        if self.factors and len(self.factors) != self.dimension_count // 2:
            raise UnsupportedModel(
                f"rope has {len(self.factors)} factors for {self.dimension_count // 2} pairs of a head"
            )
        if not all(0.0 < factor < float("inf") for factor in self.factors):
            raise UnsupportedModel("a rope factor is not a positive number")

    def frequencies(self) -> NDArray[np.float64]:
        """Return the angle that each pair turns in one position.

        Shapes:
            result: (dimension_count / 2,) float64.
        """
        pairs = np.arange(0, self.dimension_count, 2, dtype=np.float64)  # (n/2,)
        frequencies: NDArray[np.float64] = self.base ** (-pairs / self.dimension_count) / self.scale
        if self.factors:
            frequencies /= np.array(self.factors, np.float64)
        return frequencies


def turns(frequencies: NDArray[np.float64], base: int, count: int) -> NDArray[np.complex64]:
    """Return what to multiply the pairs of `count` positions from `base` on with.

    Shapes:
        frequencies: (n/2,)
        result: (T, 1, n/2): one turn for all heads of a position.
    """
    positions = np.arange(base, base + count, dtype=np.float64)  # (T,)
    angles = positions[:, None] * frequencies  # (T, n/2)
    result = np.empty(angles.shape, np.complex64)
    result.real = np.cos(angles)
    result.imag = np.sin(angles)
    return result[:, None, :]  # (T, 1, n/2)


def rotate(heads: NDArray[np.float32], turn: NDArray[np.complex64]) -> None:
    """Turn the pairs of every head in place.

    Shapes:
        heads: (T, heads, head_size), the last axis contiguous.
        turn: (T, 1, n/2).
    """
    turning = heads[..., : 2 * turn.shape[-1]].view(np.complex64)  # (T, heads, n/2)
    turning *= turn
