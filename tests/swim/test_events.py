"""The order in which broadcasts are heard, and what is forgotten, refused and skipped."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.swim.events import (
    BROADCASTS_PER_S,
    BURST_COUNT,
    HELD_COUNT_MAX,
    HELD_PER_SENDER_COUNT_MAX,
    LIFETIME_S,
    SENDERS_COUNT_MAX,
    Allowance,
    Heard,
    Inbox,
    LamportClock,
)
from p2pinfer.wire.messages.events import RECENT_COUNT_MAX, UserEvent
from tests.swim.swarm import key

WAIT_S = 1.6
steady = settings(deadline=None, derandomize=True, max_examples=80, database=None)


def event(
    sender: int, number: int, *, recent: int = 0, kept: int | None = None, time_us: int = 0
) -> UserEvent:
    return UserEvent(
        public_key=key(sender),
        sequence=number,
        time_us=time_us,
        recent=recent,
        kept=recent if kept is None else kept,
        name="e",
        payload=b"",
    )


def take(inbox: Inbox, one: UserEvent, now: float = 0.0, *, oldest_us: int = -1) -> list[int] | None:
    ready = inbox.take(one.owner, one, now, oldest_us=oldest_us)
    return None if ready is None else numbers(ready)


def numbers(ready: list[Heard]) -> list[int]:
    return [each.broadcast.sequence for each in ready]


# ---------------------------------------------------------------------- Lamport time


def test_lamport_1978_ir1_each_event_of_one_process_has_a_later_time() -> None:
    clock = LamportClock()
    times = [clock.stamp(5.0) for _ in range(3)] + [clock.stamp(4.0)]
    assert times == sorted(set(times))


def test_lamport_1978_ir2_what_is_sent_after_hearing_has_a_later_time_than_what_was_heard() -> None:
    clock = LamportClock()
    clock.witness(9_000_000)
    assert clock.stamp(5.0) > 9_000_000
    clock.witness(1)
    assert clock.stamp(5.0) > 9_000_001


def test_kulkarni_2014_the_time_stays_at_the_real_time_where_nobody_is_ahead() -> None:
    clock = LamportClock()
    clock.witness(1_000_000)
    assert clock.stamp(5.0) == 5_000_000, "a newcomer that heard nothing old stamps like everybody"


# ---------------------------------------------------------------------- allowance


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(2.0, 3, 10.0)
    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.wait_s(10.0) == pytest.approx(0.5)
    assert not allowance.take(10.4)
    assert allowance.take(10.5)
    assert not allowance.take(9.0), "a time gone back gives nothing"
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]


# ---------------------------------------------------------------------- order


def test_broadcasts_are_heard_once_and_in_the_senders_order() -> None:
    inbox = Inbox(0.0)
    assert take(inbox, event(1, 100)) == [100]
    assert take(inbox, event(1, 102, recent=2)) == []
    assert take(inbox, event(1, 103, recent=3)) == []
    assert take(inbox, event(1, 102, recent=2)) is None
    assert take(inbox, event(1, 101, recent=1)) == [101, 102, 103]
    assert take(inbox, event(1, 101, recent=1)) is None
    assert inbox.counters == {"broadcasts_repeated": 2}
    assert inbox.held_count == 0
    assert inbox.deadline(WAIT_S) == math.inf


def test_senders_do_not_wait_for_each_other() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100))
    assert take(inbox, event(1, 102, recent=2)) == []
    assert take(inbox, event(2, 7)) == [7]


def test_the_first_that_is_heard_of_a_sender_waits_only_for_those_on_their_way() -> None:
    inbox = Inbox(0.0)
    assert take(inbox, event(1, 105, recent=2)) == []
    assert take(inbox, event(1, 102)) is None, "history that nobody asked for"
    assert take(inbox, event(1, 103)) == [103]
    assert take(inbox, event(1, 104, recent=1)) == [104, 105]
    assert take(inbox, event(2, 900)) == [900], "nothing is on its way before it"


def test_a_gap_is_waited_for_and_then_skipped_and_counted() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100), 0.0)
    take(inbox, event(1, 102, recent=2), 1.0)
    take(inbox, event(1, 103, recent=3), 1.5)
    take(inbox, event(1, 105, recent=5), 2.0)
    assert inbox.deadline(WAIT_S) == 1.0 + WAIT_S
    assert inbox.expire(1.0 + WAIT_S - 0.01, WAIT_S) == []
    assert numbers(inbox.expire(1.0 + WAIT_S, WAIT_S)) == [102, 103]
    assert inbox.deadline(WAIT_S) == 2.0 + WAIT_S
    assert numbers(inbox.expire(9.0, WAIT_S)) == [105]
    assert inbox.deadline(WAIT_S) == math.inf
    assert inbox.counters["broadcast_gaps"] == 2
    assert take(inbox, event(1, 101), 9.0) is None, "too late: later ones were heard"


def test_a_gap_is_waited_for_as_long_as_others_before_it_come() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100), 0.0)
    take(inbox, event(1, 105, recent=5), 1.0)
    assert take(inbox, event(1, 101, recent=1), 2.0) == [101]
    assert inbox.deadline(WAIT_S) == 2.0 + WAIT_S, "a burst is on its way, if slowly"
    assert inbox.expire(1.0 + WAIT_S, WAIT_S) == []
    assert numbers(inbox.expire(2.0 + WAIT_S, WAIT_S)) == [105]


def test_a_peer_that_was_stopped_skips_no_gap_for_that() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100), 0.0)
    take(inbox, event(1, 102, recent=2), 1.0)
    inbox.postpone(10.0)
    assert inbox.deadline(WAIT_S) == 11.0 + WAIT_S
    take(inbox, event(1, 103, recent=3), 11.0)
    assert inbox.expire(12.0, WAIT_S) == []
    assert take(inbox, event(1, 101, recent=1), 12.0) == [101, 102, 103]


def test_a_gap_that_the_sender_knows_to_be_old_is_not_waited_for() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100))
    assert take(inbox, event(1, 103, recent=3)) == []
    assert take(inbox, event(1, 110)) == [103, 110], "what is held comes first"
    assert inbox.counters["broadcast_gaps"] == 1


def test_what_others_still_keep_is_waited_for_but_not_by_newcomers() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100))
    assert take(inbox, event(1, 104, kept=4)) == [], "it can be had from others"
    assert take(inbox, event(2, 104, kept=4)) == [104], "but a newcomer wants no history"
    assert take(inbox, event(3, 104, kept=4), LIFETIME_S) == [], "and this one is new no longer"


def test_a_gap_is_waited_for_in_bounded_company() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 100))
    for place in range(HELD_PER_SENDER_COUNT_MAX):
        assert take(inbox, event(1, 102 + place, recent=2 + place)) == []
    last = 102 + HELD_PER_SENDER_COUNT_MAX
    assert take(inbox, event(1, last, recent=34)) == list(range(102, last + 1))
    assert inbox.counters["broadcast_gaps"] == 1


def test_a_restarted_sender_is_heard_at_once() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 1_000))
    take(inbox, event(1, 1_002, recent=1))
    assert take(inbox, event(1, 50_000)) == [1_002, 50_000]
    assert take(inbox, event(1, 1_003)) is None


def test_a_sender_whose_clock_went_back_is_heard_when_all_it_said_is_void() -> None:
    inbox = Inbox(0.0)
    take(inbox, event(1, 50_000, time_us=1_000_000), 1.0, oldest_us=0)
    assert take(inbox, event(1, 10_000, time_us=2_000_000), 2.0, oldest_us=900_000) is None
    assert take(inbox, event(1, 10_001, time_us=90_000_000), 90.0, oldest_us=1_000_001) == [10_001]


# ---------------------------------------------------------------------- bounds


def test_who_floods_loses_its_own_broadcasts_and_nobody_elses() -> None:
    inbox = Inbox(0.0)
    flood = [take(inbox, event(1, 1000 + place)) for place in range(500)]
    heard = sum(each is not None for each in flood)
    assert BURST_COUNT <= heard <= 2 * BURST_COUNT
    assert inbox.counters["broadcasts_too_fast"] == 500 - heard
    assert all(take(inbox, event(2, 10 + place)) == [10 + place] for place in range(BURST_COUNT))
    later = [take(inbox, event(1, 2000 + place), 1.0) is not None for place in range(500)]
    assert sum(later) == 2 * BROADCASTS_PER_S


def test_all_senders_together_hold_a_bounded_number() -> None:
    inbox = Inbox(0.0)
    for sender in range(60):
        take(inbox, event(sender, 100))
        for place in range(20):
            take(inbox, event(sender, 102 + place, recent=2 + place))
    assert inbox.held_count <= HELD_COUNT_MAX
    held_count = inbox.held_count
    assert held_count > HELD_COUNT_MAX - 21
    assert len(inbox.expire(1e9, WAIT_S)) == held_count
    assert inbox.held_count == 0


def test_a_sender_is_forgotten_only_when_all_it_said_is_void() -> None:
    inbox = Inbox(0.0)
    for sender in range(SENDERS_COUNT_MAX):
        assert take(inbox, event(sender, 5, time_us=1000 + sender)) == [5]
    newcomer = event(SENDERS_COUNT_MAX, 5, time_us=10_000)
    assert take(inbox, newcomer, oldest_us=1000) is None
    assert inbox.counters["broadcasts_without_room"] == 1
    assert take(inbox, newcomer, oldest_us=1001) == [5]
    assert len(inbox) == SENDERS_COUNT_MAX


def test_who_was_silent_for_longest_makes_room() -> None:
    inbox = Inbox(0.0)
    for sender in range(SENDERS_COUNT_MAX):
        take(inbox, event(sender, 5, time_us=1000))
    take(inbox, event(0, 6, time_us=9000))
    assert take(inbox, event(SENDERS_COUNT_MAX, 5, time_us=9000), oldest_us=2000) == [5]
    assert take(inbox, event(0, 6, time_us=9000), oldest_us=2000) is None, "this one was not forgotten"


LETTERS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 90),
        st.integers(0, RECENT_COUNT_MAX),
        st.floats(0, 3),
        st.integers(0, 9),
    ),
    max_size=250,
)


@given(LETTERS)
@steady
def test_whatever_comes_each_sender_is_heard_upwards_and_memory_is_bounded(
    letters: list[tuple[int, int, int, float, int]],
) -> None:
    inbox = Inbox(0.0)
    now = 0.0
    heard: dict[bytes, list[int]] = {}
    for sender, number, recent, passed_s, place in letters:
        now += passed_s
        one = event(sender, number, recent=recent, time_us=int(now * 1e6) + place)
        oldest_us = int((now - 5.0) * 1e6)
        ready = (inbox.take(one.owner, one, now, oldest_us=oldest_us) or []) + inbox.expire(now, WAIT_S)
        for each in ready:
            heard.setdefault(each.broadcast.public_key, []).append(each.broadcast.sequence)
        deadline = inbox.deadline(WAIT_S)
        assert deadline > now
        assert inbox.held_count <= HELD_COUNT_MAX
        assert (inbox.held_count == 0) == (deadline == math.inf)
        assert len(inbox) <= 5
    if sum(each[3] for each in letters) < 5.0:  # nothing grew void: then not one number comes twice
        for sequence in heard.values():
            assert sequence == sorted(set(sequence))


@given(st.integers(0, 1 << 32), st.integers(1, 30))
@steady
def test_any_mixing_and_repeating_of_what_is_on_its_way_gives_the_senders_order(
    seed: int, count: int
) -> None:
    rng = random.Random(seed)
    sent = [event(1, 500 + place, recent=min(place, RECENT_COUNT_MAX)) for place in range(count)]
    inbox = Inbox(0.0)
    heard: list[int] = []
    arriving = [each for each in sent for _ in range(rng.randint(1, 3))]
    rng.shuffle(arriving)
    for each in arriving:
        heard += take(inbox, each) or []
    assert heard == [each.sequence for each in sent]
    assert inbox.held_count == 0
