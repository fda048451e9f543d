"""Keys and values where onnxruntime reads and writes them in place: slots of address space.

Rules:

1. A block has slots of one capacity, and for each layer one array of keys and one of values over all slots,
   so that neighbouring slots are a batch without a copy. It takes address space for all of them, and memory
   page by page as positions are written.
2. A session has one slot, the lowest free one of a block whose capacity suffices. Growing beyond that moves
   it, once, to a block whose slots are four times as large.
3. A slot's memory goes back to the system when its session is dropped: at once where the system has a call
   for that (Linux, macOS), else with the last session of the block.
4. What a session takes is known before, to the page: `SlotShape.size_bytes`.

Source: vLLM's pages (arXiv 2309.06180) with the system's own page table in the place of a block table, as
vAttention does on GPUs (arXiv 2405.04437).
"""

from __future__ import annotations

import heapq
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.kv_cache import Positions
from p2pinfer.engine.rope import turns
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.engine.weights import EngineConfig
from p2pinfer.errors import InternalError, LocalProtocolError, Overloaded
from p2pinfer.ids import SessionId, Span

__all__ = ["CAPACITY_MIN", "SLOT_COUNT", "KVSlots", "Slot", "SlotBlock", "SlotShape", "neighbours"]

F32 = NDArray[np.float32]

SLOT_COUNT = 32
"""Sessions of a block: as many as one batch holds at most. Unused ones cost address space only."""
CAPACITY_MIN = 1024
"""Positions of the smallest slots; a multiple of every page size, so that each head begins on a page."""
SPARE_COUNT = 1
"""Positions behind a session's last: a step writes a row of zeros behind its own."""
_CAPACITY_FACTOR = 4
_ITEM_SIZE_BYTES = 4
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # Python names it from 3.13 on
_GIVES_BACK = {"linux": "MADV_DONTNEED", "darwin": "MADV_FREE"}.get(sys.platform, "")


@dataclass(frozen=True, slots=True)
class SlotShape:
    """What a slot holds for each position."""

    span: Span
    kv_head_count: int
    head_size: int

    @property
    def row_size_bytes(self) -> int:
        """One position of one head's keys."""
        return self.head_size * _ITEM_SIZE_BYTES

    @property
    def part_count(self) -> int:
        """Stretches of memory of a session: keys and values of each head in each layer."""
        return 2 * len(self.span) * self.kv_head_count

    def size_bytes(self, positions_max: int) -> int:
        """What the pages of a full session take, exactly."""
        pages = -(-(positions_max + SPARE_COUNT) * self.row_size_bytes // mmap.PAGESIZE)
        return self.part_count * pages * mmap.PAGESIZE


class SlotBlock:
    """Slots of one capacity.

    Shapes:
        keys(layer), values(layer): (slots, K, C, S), uninitialised beyond each session's positions.
        cosines, sines: (C, n/2).
    """

    def __init__(self, shape: SlotShape, capacity: int, cosines: F32, sines: F32) -> None:
        """Take the address space.

        Raises:
            Overloaded: The system has none left.
        """
        self.capacity = capacity
        self.cosines = cosines
        self.sines = sines
        self.bindings: dict[object, object] = {}
        self._shape = shape
        self._free = list(range(SLOT_COUNT))
        self._slot_size_bytes = shape.kv_head_count * capacity * shape.row_size_bytes
        self._memory = _address_space(2 * len(shape.span) * SLOT_COUNT * self._slot_size_bytes)
        dimensions = (len(shape.span), 2, SLOT_COUNT, shape.kv_head_count, capacity, shape.head_size)
        self._arrays: F32 = np.frombuffer(self._memory, np.float32).reshape(dimensions)

    @property
    def used_count(self) -> int:
        """Slots taken."""
        return SLOT_COUNT - len(self._free)

    def layer(self, layer: int, first: int, count: int) -> tuple[F32, F32]:
        """Return keys and values of a layer in neighbouring slots, as views."""
        keys, values = self._arrays[layer - self._shape.span.start, :, first : first + count]
        return keys, values

    def take(self) -> int | None:
        """Return the lowest free slot, which is then taken; None if all are."""
        return heapq.heappop(self._free) if self._free else None

    def give_back(self, index: int) -> None:
        """Let a slot be taken by another session, and its memory by anybody."""
        if _GIVES_BACK:
            for part in range(2 * len(self._shape.span)):
                start = (part * SLOT_COUNT + index) * self._slot_size_bytes
                self._memory.madvise(getattr(mmap, _GIVES_BACK), start, self._slot_size_bytes)
        heapq.heappush(self._free, index)

    def copy(self, index: int, slot: Slot) -> None:
        """Copy a session's positions from its slot in another block, in the layers that it uses."""
        for layer in () if slot.layers is None else range(slot.layers.start, slot.layers.end):
            for mine, theirs in zip(
                self.layer(layer, index, 1), slot.block.layer(layer, slot.index, 1), strict=True
            ):
                mine[:, :, : slot.length] = theirs[:, :, : slot.length]


class Slot(Positions):
    """One session's place."""

    def __init__(self, block: SlotBlock, index: int, positions_max: int) -> None:
        super().__init__(positions_max)
        self.block = block
        self.index = index


class KVSlots:
    """The slots of an engine's sessions."""

    def __init__(self, config: EngineConfig, span: Span) -> None:
        self.shape = SlotShape(span, config.kv_head_count, config.head_size)
        self._frequencies = config.rope.frequencies()
        self._tables = self._rotation_tables(CAPACITY_MIN)
        self._blocks: list[SlotBlock] = []
        self._slots: dict[SessionId, Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def open(self, session: SessionId, positions_max: int) -> None:
        """Give a session a slot.

        Raises:
            LocalProtocolError: The session has one already, or has no positions.
            Overloaded: The system has no address space left.
        """
        if positions_max < 1:
            raise LocalProtocolError(f"a cache holds at least 1 position, not {positions_max}")
        if session in self._slots:
            raise LocalProtocolError(f"session {session.short} has a cache already; drop it first")
        block, index = self._free_slot(positions_max)
        self._slots[session] = Slot(block, index, positions_max)

    def extend(self, session: SessionId, positions_max: int) -> None:
        """Let a session reach more positions; where its slot is too small, it moves.

        Raises:
            LocalProtocolError: The session has no slot, or may reach more positions already.
            Overloaded: The system has no address space left; the session has what it had.
        """
        slot = self._slots.get(session)
        if slot is None:
            raise LocalProtocolError(f"session {session.short} has no cache to extend; open it first")
        if positions_max < slot.positions_max:
            raise LocalProtocolError(
                f"session {session.short} may reach more than {positions_max} positions already"
            )
        if positions_max + SPARE_COUNT > slot.block.capacity:
            block, index = self._free_slot(positions_max)
            block.copy(index, slot)
            self._give_back(slot)
            slot.block, slot.index = block, index
        slot.extend(positions_max)

    def get(self, session: SessionId) -> Slot:
        """Return a session's slot.

        Raises:
            StepRefused: There is none.
        """
        slot = self._slots.get(session)
        if slot is None:
            raise StepRefused(f"session {session.short} has no cache here: it was never opened, or dropped")
        return slot

    def drop(self, session: SessionId) -> None:
        """Give a session's memory back; an unknown one is ignored."""
        slot = self._slots.pop(session, None)
        if slot is not None:
            self._give_back(slot)

    def forget_bindings(self) -> None:
        """Let go of what sessions of onnxruntime have bound: they are replaced."""
        for block in self._blocks:
            block.bindings.clear()

    def clear(self) -> None:
        """Drop all."""
        self._slots.clear()
        self._blocks.clear()

    def _free_slot(self, positions_max: int) -> tuple[SlotBlock, int]:
        capacity = CAPACITY_MIN
        while capacity < positions_max + SPARE_COUNT:
            capacity *= _CAPACITY_FACTOR
        for block in self._blocks:
            if block.capacity == capacity and (index := block.take()) is not None:
                return block, index
        block = SlotBlock(self.shape, capacity, *self._rotations(capacity))
        self._blocks.append(block)
        index = block.take()
        if index is None:
            raise InternalError("a new block has no free slot")
        return block, index

    def _give_back(self, slot: Slot) -> None:
        slot.block.give_back(slot.index)
        if not _GIVES_BACK and not slot.block.used_count:
            self._blocks.remove(slot.block)

    def _rotations(self, capacity: int) -> tuple[F32, F32]:
        """Return cosines and sines of the first positions: (C, n/2) each, views of one table."""
        if len(self._tables[0]) < capacity:
            self._tables = self._rotation_tables(capacity)
        cosines, sines = self._tables
        return cosines[:capacity], sines[:capacity]

    def _rotation_tables(self, capacity: int) -> tuple[F32, F32]:
        table = turns(self._frequencies, 0, capacity)[:, 0]  # (C, n/2)
        return np.ascontiguousarray(table.real), np.ascontiguousarray(table.imag)


def neighbours(indices: list[int], gap_max: int) -> Iterator[tuple[int, int]]:
    """Cut ascending slots into ranges (first, count), across gaps of at most so many others."""
    first = last = indices[0]
    for index in indices[1:]:
        if index - last > gap_max + 1:
            yield first, last - first + 1
            first = index
        last = index
    yield first, last - first + 1


def _address_space(size_bytes: int) -> mmap.mmap:
    """Reserve memory that is taken page by page, as it is written."""
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size_bytes)
        space = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, MemoryError) as error:
        raise Overloaded(
            f"the system has no {size_bytes} bytes of address space for caches; close other programs"
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        try:
            space.madvise(mmap.MADV_NOHUGEPAGE)  # a page of 2 MB would be taken for one position
        except OSError:
            pass  # a system without huge pages
    return space
