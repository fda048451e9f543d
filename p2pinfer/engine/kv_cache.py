"""Keys and values of the positions that a session has been through: a cache for each session.

Rules:

1. A session reserves for all positions it may reach, which may be raised, and its size is known to the byte
   before. Memory is taken only as it is used: a layer's arrays start small and double up to `positions_max`.
2. A step is appended in two moves, `write` for each layer and `keep` at the end, so that a step that fails
   leaves a shorter cache and never a wrong one.
3. A position's numbers do not depend on how often its arrays have grown.

Source: growth by doubling instead of the pages of PagedAttention (arXiv 2309.06180): numpy has no gather
that costs nothing, and a contiguous (L, S) block for each head is what BLAS wants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.step_input import StepRefused
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import SessionId, Span

__all__ = ["CAPACITY_COUNT_MIN", "CacheShape", "CacheTable", "KVCache", "Positions"]

F32 = NDArray[np.float32]

CAPACITY_COUNT_MIN = 64
"""Positions that a layer's arrays hold at first: one chat turn; 96 kB a layer for SmolLM2-135M."""
_ITEM_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a cache holds for each position."""

    span: Span
    kv_head_count: int
    head_size: int

    def size_bytes(self, positions_max: int) -> int:
        """What the keys and values of a full session take, exactly."""
        return 2 * len(self.span) * self.kv_head_count * positions_max * self.head_size * _ITEM_SIZE_BYTES


class Positions:
    """How far a session has come in the layers that it uses.

    Invariant: 0 <= length <= positions_max.
    """

    def __init__(self, positions_max: int) -> None:
        self._positions_max = positions_max
        self._length = 0
        self._layers: Span | None = None

    @property
    def length(self) -> int:
        """Positions kept."""
        return self._length

    @property
    def layers(self) -> Span | None:
        """The layers that it uses, once it has taken a step."""
        return self._layers

    @property
    def positions_max(self) -> int:
        """Positions that it may reach."""
        return self._positions_max

    def extend(self, positions_max: int) -> None:
        """Let it reach more positions from now on."""
        self._positions_max = positions_max

    def begin(self, layers: Span, base: int, count: int) -> None:
        """Cut back to `base` and make ready for `count` positions in these layers.

        Raises:
            StepRefused: `base` is beyond what is kept, the step does not fit, or the session uses other
                layers; the cache is as it was.
        """
        if self._layers is not None and layers != self._layers:
            raise StepRefused(f"the session runs layers {self._layers} here, not {layers}")
        if not 0 <= base <= self._length:
            raise StepRefused(f"base {base} is beyond the {self._length} positions kept")
        if base + count > self._positions_max:
            raise StepRefused(f"the cache is full: {base + count} of {self._positions_max} positions")
        self._layers = layers
        self._length = base

    def keep(self, count: int) -> None:
        """Count the step's positions in, once they are written in every layer."""
        self._length += count


class KVCache(Positions):
    """One session's keys and values; positions from `length` on are never looked at."""

    def __init__(self, shape: CacheShape, positions_max: int) -> None:
        super().__init__(positions_max)
        self._shape = shape
        self._arrays: dict[int, F32] = {}  # layer -> (2, K, capacity, S): keys, then values

    @property
    def size_bytes(self) -> int:
        """Memory taken now."""
        return sum(array.nbytes for array in self._arrays.values())

    def write(self, layer: int, start: int, keys: F32, values: F32) -> tuple[F32, F32]:
        """Put a step's keys and values at its positions; return them and all before, as views.

        Args:
            layer: The layer.
            start: Where: behind what is kept and what was written before in this layer.
            keys: Of the step's positions.
            values: Of the same.

        Shapes:
            keys, values: (T, K, S); result: twice (K, L, S) with L = start + T.

        Raises:
            StepRefused: The system has no memory left.
        """
        end = start + keys.shape[0]
        array = self._grown(layer, end)
        array[0, :, start:end] = keys.transpose(1, 0, 2)  # (K, T, S)
        array[1, :, start:end] = values.transpose(1, 0, 2)
        return array[0, :, :end], array[1, :, :end]

    def _grown(self, layer: int, end: int) -> F32:
        array = self._arrays.get(layer)
        old_capacity = 0 if array is None else array.shape[2]
        if array is not None and end <= old_capacity:
            return array
        capacity = min(max(end, 2 * old_capacity, CAPACITY_COUNT_MIN), self._positions_max)
        shape = self._shape
        try:
            larger = np.empty((2, shape.kv_head_count, capacity, shape.head_size), np.float32)
        except MemoryError as error:
            raise StepRefused(f"no memory for a cache of {capacity} positions") from error
        if array is not None:
            larger[:, :, :old_capacity] = array
        self._arrays[layer] = larger
        return larger


class CacheTable:
    """The caches of an engine's sessions, and what they may take together."""

    def __init__(self, shape: CacheShape, size_bytes_max: int | None = None) -> None:
        self._shape = shape
        self._size_bytes_max = size_bytes_max
        self._caches: dict[SessionId, KVCache] = {}
        self._reserved: dict[SessionId, int] = {}

    def __len__(self) -> int:
        return len(self._caches)

    @property
    def reserved_bytes(self) -> int:
        """What all sessions may come to take."""
        return sum(self._reserved.values())

    @property
    def size_bytes(self) -> int:
        """Memory taken now."""
        return sum(cache.size_bytes for cache in self._caches.values())

    def can_open(self, positions_max: int) -> bool:
        """Whether a session of that many positions fits beside the others."""
        return self._has_room(self._shape.size_bytes(positions_max))

    def open(self, session: SessionId, positions_max: int) -> None:
        """Reserve for a session.

        Raises:
            LocalProtocolError: The session is open already, or has no positions.
            Overloaded: It does not fit; ask `can_open` first.
        """
        if positions_max < 1:
            raise LocalProtocolError(f"a cache holds at least 1 position, not {positions_max}")
        if session in self._caches:
            raise LocalProtocolError(f"session {session.short} has a cache already; drop it first")
        if not self.can_open(positions_max):
            raise Overloaded(f"no room for a cache of {positions_max} positions; close a session first")
        self._caches[session] = KVCache(self._shape, positions_max)
        self._reserved[session] = self._shape.size_bytes(positions_max)

    def extend(self, session: SessionId, positions_max: int) -> None:
        """Reserve more for a session.

        Raises:
            LocalProtocolError: The session has no cache, or one for more positions already.
            Overloaded: It does not fit; the session has what it had.
        """
        size_bytes = self._shape.size_bytes(positions_max)
        if session not in self._caches:
            raise LocalProtocolError(f"session {session.short} has no cache to extend; open it first")
        if size_bytes < self._reserved[session]:
            raise LocalProtocolError(
                f"session {session.short} may reach more than {positions_max} positions already"
            )
        if not self._has_room(size_bytes - self._reserved[session]):
            raise Overloaded(f"no room for a cache of {positions_max} positions; close a session first")
        self._caches[session].extend(positions_max)
        self._reserved[session] = size_bytes

    def get(self, session: SessionId) -> KVCache:
        """Return a session's cache.

        Raises:
            StepRefused: There is none.
        """
        cache = self._caches.get(session)
        if cache is None:
            raise StepRefused(f"session {session.short} has no cache here: it was never opened, or dropped")
        return cache

    def drop(self, session: SessionId) -> None:
        """Give a session's memory back; an unknown one is ignored."""
        self._caches.pop(session, None)
        self._reserved.pop(session, None)

    def clear(self) -> None:
        """Drop all."""
        self._caches.clear()
        self._reserved.clear()

    def _has_room(self, size_bytes: int) -> bool:
        return self._size_bytes_max is None or self.reserved_bytes + size_bytes <= self._size_bytes_max
