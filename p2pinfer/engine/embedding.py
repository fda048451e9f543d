"""The embedding as it lies in the file: only the rows that are asked for become floats.

A float32 copy of a large vocabulary would take more memory than a span's layers; the pages of a mapped file
are taken as they are touched, and a conversation touches few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

__all__ = ["EmbeddingTable"]


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Rows of a quantised matrix.

    Shapes:
        raw: (V, bytes of a row).
    """

    raw: NDArray[np.uint8]
    kind: GGMLQuantizationType

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Look token ids up: (T,) to (T, D), an array of its own."""
        with np.errstate(all="ignore"):  # what a damaged scale gives is found in the layers' results
            return np.asarray(quants.dequantize(self.raw[tokens], self.kind), np.float32)
