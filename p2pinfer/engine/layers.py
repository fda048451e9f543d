"""The arithmetic of a llama layer, each piece in a few lines of float32 numpy.

Rules:

1. A function sees one session alone, so nothing of its bits depends on the rest of a batch.
2. Every line that changes a shape says the new one. T: positions of the step, D: hidden size, H: heads,
   K: heads of keys and values, G = H / K: heads that share one, S: size of a head, L: positions so far.
3. How the work is cut depends on the shapes alone, never on the machine's load or on timing.

Source: Llama (arXiv 2302.13971), grouped-query attention (arXiv 2305.13245), SwiGLU (arXiv 2002.05202).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUERY_TILE_COUNT", "attention", "rms_norm", "swiglu"]

F32 = NDArray[np.float32]

QUERY_TILE_COUNT = 64
"""Positions whose scores exist at one time: bounds them to 64 H L numbers, 19 MB for 9 heads and 8,192
positions; measured as fast as larger tiles, because what lies beyond a tile's last key is never computed."""


def rms_norm(x: F32, weight: F32, epsilon: float) -> F32:
    """Scale each row to a root mean square of 1, then each column by its weight.

    Shapes:
        x: (T, D); weight: (D,); result: (T, D).
    """
    mean_square: F32 = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)  # (T, 1)
    scale: F32 = np.sqrt(mean_square + np.float32(epsilon))  # (T, 1)
    result: F32 = x / scale * weight  # (T, D)
    return result


def swiglu(gate_up: F32) -> F32:
    """Return silu(gate) * up.

    Shapes:
        gate_up: (T, 2F), the gate in the first half; result: (T, F).
    """
    half = gate_up.shape[-1] // 2
    gate, up = gate_up[:, :half], gate_up[:, half:]  # (T, F) each
    # exp overflows to infinity below -88, and the quotient is then the right zero
    decay: F32 = np.exp(-gate)
    result: F32 = gate / (decay + np.float32(1.0)) * up  # (T, F)
    return result


def attention(query: F32, keys: F32, values: F32) -> F32:
    """Let the last T positions look at themselves and all before them.

    Shapes:
        query: (T, H, S), keys and values: (K, L, S) with L >= T; result: (T, H * S).
    """
    count, head_count, size = query.shape
    kv_count, length, _ = keys.shape
    group = head_count // kv_count
    base = length - count
    scaled = query * np.float32(size**-0.5)
    grouped = scaled.reshape(count, kv_count, group, size).transpose(1, 2, 0, 3)  # (K, G, T, S)
    result = np.empty((count, head_count * size), np.float32)
    for start in range(0, count, QUERY_TILE_COUNT):
        end = min(start + QUERY_TILE_COUNT, count)
        tile = grouped[:, :, start:end].reshape(kv_count, group * (end - start), size)  # (K, G t, S)
        seen = base + end
        mixed = _tile(tile, keys[:, :seen], values[:, :seen], end - start)  # (K, G, t, S)
        result[start:end] = mixed.transpose(2, 0, 1, 3).reshape(end - start, head_count * size)
    return result


def _tile(query: F32, keys: F32, values: F32, count: int) -> F32:
    """Attention of a few positions; the last `count` keys are their own.

    Shapes:
        query: (K, G t, S), keys and values: (K, l, S); result: (K, G, t, S).
    """
    kv_count, rows, size = query.shape
    scores: F32 = query @ keys.transpose(0, 2, 1)  # (K, G t, l)
    scores = scores.reshape(kv_count, rows // count, count, -1)  # (K, G, t, l)
    if count > 1:
        scores[..., -count:] += _later_is_hidden(count)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: F32 = scores.reshape(kv_count, rows, -1) @ values  # (K, G t, S)
    return mixed.reshape(kv_count, rows // count, count, size)


def _later_is_hidden(count: int) -> F32:
    """Return 0 where a position may look and -infinity where the key comes later: (t, t)."""
    return np.triu(np.full((count, count), -np.inf, np.float32), k=1)
