"""The sliding window against a dumb twin that remembers everything."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError, ReplayError
from p2pinfer.ids import PeerId
from p2pinfer.wire.replay import ReplayWindow

ALICE, BOB, CAROL = (PeerId(bytes((i,)) * 32) for i in range(3))


def take(
    window: ReplayWindow, sender: PeerId, sequence: int, time_ms: int = 1000, oldest_ms: int = 0
) -> bool:
    try:
        window.check(sender, sequence, oldest_ms)
    except ReplayError:
        return False
    window.advance(sender, sequence, time_ms)
    return True


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from([ALICE, BOB]), st.integers(1, 60)), max_size=80))
def test_the_window_agrees_with_a_set_of_all_numbers(steps: list[tuple[PeerId, int]]) -> None:
    window, seen = ReplayWindow(window_count=16), dict[PeerId, set[int]]()
    for sender, sequence in steps:
        known = seen.setdefault(sender, set())
        fresh = sequence not in known and (not known or sequence > max(known) - 16)
        assert take(window, sender, sequence) == fresh
        if fresh:
            known.add(sequence)


def test_reordering_within_the_window_is_taken_once() -> None:
    window, rng = ReplayWindow(), random.Random(1)
    numbers = list(range(10_000, 11_000))
    rng.shuffle(numbers)
    assert all(take(window, ALICE, number) for number in numbers)
    assert not any(take(window, ALICE, number) for number in numbers)


def test_a_jump_of_any_size_costs_nothing_and_closes_the_past() -> None:
    window = ReplayWindow()
    assert take(window, ALICE, 1)
    assert take(window, ALICE, (1 << 63) - 1)
    assert not take(window, ALICE, 2)
    assert take(window, ALICE, (1 << 63) - 1024)
    assert not take(window, ALICE, (1 << 63) - 1025)


def test_checking_alone_changes_nothing() -> None:
    window = ReplayWindow()
    window.check(ALICE, 1 << 62, 0)
    assert len(window) == 0
    assert take(window, ALICE, 5)
    window.check(ALICE, 1 << 62, 0)
    assert take(window, ALICE, 6), "a forger who never signed cannot move the window"


def test_newcomers_wait_until_an_old_sender_cannot_be_replayed_any_more() -> None:
    window = ReplayWindow(senders_count_max=2)
    assert take(window, ALICE, 1, time_ms=1000)
    assert take(window, BOB, 1, time_ms=1500)
    assert not take(window, CAROL, 1, time_ms=1600, oldest_ms=900)
    assert take(window, ALICE, 2, time_ms=1700), "those that are known go on"
    assert not take(window, CAROL, 1, time_ms=1600, oldest_ms=1500)
    assert take(window, CAROL, 1, time_ms=1600, oldest_ms=1501), "all that Bob said is too old by now"
    assert len(window) == 2
    assert not take(window, ALICE, 2), "Alice is remembered: she was heard after Bob"


def test_a_late_datagram_does_not_make_its_sender_look_older() -> None:
    window = ReplayWindow(senders_count_max=1)
    assert take(window, ALICE, 2, time_ms=2000)
    assert take(window, ALICE, 1, time_ms=1000)
    assert not take(window, BOB, 1, oldest_ms=1500)


def test_memory_is_bounded_whatever_comes() -> None:
    window, rng = ReplayWindow(senders_count_max=50), random.Random(2)
    for step in range(2000):
        take(window, PeerId(rng.randbytes(32)), rng.getrandbits(62), time_ms=step, oldest_ms=step - 60)
        assert len(window) <= 50


@pytest.mark.parametrize(("window_count", "senders_count_max"), [(0, 1), (1, 0)])
def test_limits_are_positive(window_count: int, senders_count_max: int) -> None:
    with pytest.raises(ConfigError):
        ReplayWindow(window_count, senders_count_max)
