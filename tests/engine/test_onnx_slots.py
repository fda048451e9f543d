"""Slots of address space: what they take of memory, that it comes back, and how sessions share blocks."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.engine.kv_slots import CAPACITY_MIN, SLOT_COUNT, SPARE_COUNT, KVSlots, SlotBlock, neighbours
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import SessionId, Span
from tests.engine.tiny import tiny_config

SPAN = Span(1, 4)


def session(number: int) -> SessionId:
    return SessionId(number.to_bytes(16, "big"))


def slots() -> KVSlots:
    return KVSlots(tiny_config(head_size=16), SPAN)


def fill(held: KVSlots, number: int, count: int, mark: float = 1.0) -> None:
    """Write positions as the engine does: behind what is kept, in every layer."""
    slot = held.get(session(number))
    slot.begin(SPAN, slot.length, count)
    for layer in range(SPAN.start, SPAN.end):
        for array in slot.block.layer(layer, slot.index, 1):
            array[0, :, slot.length : slot.length + count + SPARE_COUNT] = mark * (layer + 1)
    slot.keep(count)


def resident_bytes(block: SlotBlock) -> int:
    """What of a block is in memory, as the system counts it."""
    address = block.layer(SPAN.start, 0, 1)[0].ctypes.data
    found = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            start, end = (int(part, 16) for part in name.split("-"))
            inside = start <= address < end
        elif inside and name == "Rss:":
            found += 1024 * int(rest[0])
    return found


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
@pytest.mark.parametrize("positions_max", [1, 62, 63, 64, 1000, CAPACITY_MIN - SPARE_COUNT])
def test_a_full_session_takes_what_was_promised_to_the_page_and_gives_it_back(positions_max: int) -> None:
    held = slots()
    held.open(session(1), positions_max)
    block = held.get(session(1)).block
    assert resident_bytes(block) == 0
    fill(held, 1, positions_max)
    assert resident_bytes(block) == held.shape.size_bytes(positions_max)
    held.open(session(2), positions_max)
    fill(held, 2, positions_max)
    assert resident_bytes(block) == 2 * held.shape.size_bytes(positions_max)
    held.drop(session(1))
    assert resident_bytes(block) == held.shape.size_bytes(positions_max)
    held.drop(session(2))
    assert resident_bytes(block) == 0


@on_linux
def test_memory_is_taken_as_it_is_used() -> None:
    held = slots()
    held.open(session(1), 1000)
    fill(held, 1, 10)
    assert resident_bytes(held.get(session(1)).block) == held.shape.size_bytes(10)


def test_a_session_has_the_lowest_free_slot_so_that_batches_stay_together() -> None:
    held = slots()
    for number in range(4):
        held.open(session(number), 100)
    held.drop(session(1))
    held.drop(session(2))
    held.open(session(9), 100)
    assert [held.get(session(number)).index for number in (0, 9, 3)] == [0, 1, 3]


def test_a_full_block_is_followed_by_another_and_larger_sessions_have_larger_slots() -> None:
    held = slots()
    for number in range(SLOT_COUNT + 1):
        held.open(session(number), 100)
    held.open(session(99), CAPACITY_MIN)
    blocks = [held.get(session(number)).block for number in (0, SLOT_COUNT - 1, SLOT_COUNT, 99)]
    assert blocks[0] is blocks[1]
    assert blocks[0] is not blocks[2]
    assert [block.capacity for block in blocks[1:]] == [CAPACITY_MIN, CAPACITY_MIN, 4 * CAPACITY_MIN]
    assert len(held) == SLOT_COUNT + 2
    held.clear()
    assert len(held) == 0


def test_extending_moves_a_session_once_and_takes_its_positions_along() -> None:
    held = slots()
    held.open(session(1), 100)
    held.open(session(2), 100)
    fill(held, 1, 100, 5.0)
    fill(held, 2, 7, 3.0)
    before = held.get(session(1)).block
    held.extend(session(1), CAPACITY_MIN - SPARE_COUNT)
    assert held.get(session(1)).block is before, "the slot suffices"
    held.extend(session(1), CAPACITY_MIN)
    moved = held.get(session(1))
    assert moved.block.capacity == 4 * CAPACITY_MIN
    for layer in range(SPAN.start, SPAN.end):
        for array in moved.block.layer(layer, moved.index, 1):
            np.testing.assert_array_equal(array[0, :, :100], 5.0 * (layer + 1))
    fill(held, 1, CAPACITY_MIN - 100)
    held.open(session(3), 100)
    assert held.get(session(3)).index == 0, "the slot that was left is free"
    with pytest.raises(StepRefused, match="the cache is full"):
        moved.begin(SPAN, moved.length, 1)


def test_what_cannot_be_opened_or_extended_is_refused() -> None:
    held = slots()
    held.open(session(1), 100)
    with pytest.raises(LocalProtocolError, match="has a cache already"):
        held.open(session(1), 100)
    with pytest.raises(LocalProtocolError, match="at least 1 position"):
        held.open(session(2), 0)
    with pytest.raises(LocalProtocolError, match="no cache to extend"):
        held.extend(session(2), 5)
    with pytest.raises(LocalProtocolError, match="more than 99"):
        held.extend(session(1), 99)
    held.drop(session(2))
    with pytest.raises(StepRefused, match="has no cache here"):
        held.get(session(2))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.sets(st.integers(0, 31), min_size=1), st.integers(0, 4))
def test_ranges_hold_every_slot_once_and_cross_no_wide_gap(indices: set[int], gap_max: int) -> None:
    ranges = list(neighbours(sorted(indices), gap_max))
    covered = [index for first, count in ranges for index in range(first, first + count)]
    assert indices <= set(covered)
    assert len(covered) == len(set(covered))
    for first, count in ranges:
        inside = sorted(indices & set(range(first, first + count)))
        assert inside[0] == first
        assert inside[-1] == first + count - 1
        assert all(after - before <= gap_max + 1 for before, after in itertools.pairwise(inside))
    for (first, count), (after, _) in itertools.pairwise(ranges):
        assert after - (first + count - 1) > gap_max + 1
