"""The log in memory against a plain dictionary, and what it refuses to start from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.errors import DecodeError, StorageError
from p2pinfer.raft.log import Log
from p2pinfer.raft.packing import encode_configuration, unpack_entries
from p2pinfer.raft.types import Configuration, Entry, EntryKind, Snapshot
from tests.raft.cluster import member

ONE = Configuration.of(member(1))
TWO = Configuration.of(member(1), member(2))


def entries_of(*terms: int, first: int = 1) -> tuple[Entry, ...]:
    return tuple(Entry(index, term, b"%d" % index) for index, term in enumerate(terms, first))


def snapshot_at(index: int, term: int) -> Snapshot:
    return Snapshot.of(index, term, ONE, b"state")


def test_an_empty_log_matches_at_the_place_before_the_first_entry() -> None:
    log = Log((), None)
    assert (log.first_index, log.last_index, log.last_term) == (1, 0, 0)
    assert log.term_at(0) == 0
    assert log.term_at(1) is None
    assert log.configuration == Configuration()


def test_terms_outside_are_not_known() -> None:
    log = Log(entries_of(2, 2, first=5), snapshot_at(4, 1))
    assert [log.term_at(index) for index in (0, 3, 4, 5, 6, 7)] == [None, None, 1, 2, 2, None]


def test_trailing_entries_may_reach_before_the_snapshot() -> None:
    log = Log(entries_of(1, 1, 2, 2, first=3), snapshot_at(5, 2))
    assert (log.first_index, log.last_index, log.snapshot_index) == (3, 6, 5)
    assert log.term_at(2) is None, "nobody knows the term of what went"


@pytest.mark.parametrize(
    ("entries", "snapshot"),
    [
        ((Entry(1, 1), Entry(3, 1)), None),
        ((Entry(2, 1),), None),
        ((Entry(7, 1),), snapshot_at(5, 1)),
        ((Entry(1, 1),), snapshot_at(5, 1)),
        ((Entry(1, 2), Entry(2, 1)), None),
        ((Entry(5, 2), Entry(6, 2)), snapshot_at(5, 1)),
    ],
)
def test_a_log_that_contradicts_itself_is_refused(
    entries: tuple[Entry, ...], snapshot: Snapshot | None
) -> None:
    with pytest.raises(StorageError):
        Log(entries, snapshot)


def test_appending_where_an_entry_stands_drops_it_and_all_after() -> None:
    log = Log(entries_of(1, 1, 1), None)
    assert log.append([Entry(2, 2, b"new")]) == 2
    assert log.between(1, 9) == (Entry(1, 1, b"1"), Entry(2, 2, b"new"))


def test_the_last_configuration_is_in_force_and_a_truncation_brings_back_the_one_before() -> None:
    log = Log((), None)
    log.append([Entry(1, 1, encode_configuration(ONE), EntryKind.CONFIGURATION), Entry(2, 1)])
    log.append([Entry(3, 1, encode_configuration(TWO), EntryKind.CONFIGURATION)])
    assert (log.configuration, log.configuration_index) == (TWO, 3)
    assert log.configuration_at(2) == ONE
    assert log.next_configuration_index(1) == 3
    log.truncate(3)
    assert (log.configuration, log.configuration_index) == (ONE, 1)


def test_a_damaged_configuration_changes_nothing() -> None:
    log = Log(entries_of(1, 1), None)
    with pytest.raises(DecodeError):
        log.append([Entry(2, 2), Entry(3, 2, b"\xff", EntryKind.CONFIGURATION)])
    assert log.last_index == 2
    assert log.term_at(2) == 1


def test_compaction_keeps_trailing_entries_and_the_configuration() -> None:
    log = Log((), None)
    log.append(
        [Entry(1, 1, encode_configuration(ONE), EntryKind.CONFIGURATION), *entries_of(1, 1, 1, 1, first=2)]
    )
    assert log.compact(Snapshot.of(4, 1, ONE, b"s"), keep_count=2) == 2
    assert (log.first_index, log.last_index, log.configuration) == (3, 5, ONE)
    assert log.term_at(2) == 1, "the place before the first entry still matches"
    assert log.compact(Snapshot.of(5, 1, ONE, b"s"), keep_count=0) == 5
    assert (log.first_index, log.last_index, log.last_term) == (6, 5, 1)


def test_a_membership_survives_two_compactions() -> None:
    log = Log((), None)
    log.append(
        [Entry(1, 1, encode_configuration(ONE), EntryKind.CONFIGURATION), *entries_of(1, 1, 1, first=2)]
    )
    for index in (2, 4):
        log.compact(Snapshot.of(index, 1, log.configuration_at(index), b"s"), keep_count=0)
    assert log.configuration == ONE


def test_a_batch_keeps_to_its_bounds_and_is_packed_once() -> None:
    log = Log(entries_of(1, 1, 1, 1), None)
    count, batch = log.batch(2, count_max=10, bytes_max=30)
    assert unpack_entries(batch, 2) == log.between(2, 3)
    assert count == 2
    assert log.batch(2, count_max=10, bytes_max=30)[1] is batch
    assert log.batch(1, count_max=1, bytes_max=30)[0] == 1
    assert log.batch(3, count_max=10, bytes_max=1)[0] == 1, "a large entry goes alone"
    log.append([Entry(2, 2, b"other")])
    assert unpack_entries(log.batch(2, 10, 30)[1], 2) == (Entry(2, 2, b"other"),)


def test_the_last_place_that_may_match_steps_over_whole_terms() -> None:
    log = Log(entries_of(1, 1, 3, 3, 3, 5), None)
    assert log.last_match(6, 4) == (5, 3)
    assert log.last_match(5, 2) == (2, 1)
    assert log.last_match(9, 9) == (6, 5)
    assert log.last_match(4, 0) == (0, 0)


@given(st.lists(st.integers(1, 3), max_size=8), st.lists(st.integers(1, 3), max_size=8), st.integers(1, 9))
def test_the_first_conflict_is_what_comparing_one_by_one_finds(
    here: list[int], there: list[int], first: int
) -> None:
    log = Log(entries_of(*sorted(here)), None)
    theirs = entries_of(*sorted(there), first=min(first, log.last_index + 1))
    own = {each.index: each.term for each in log.between(1, log.last_index)}
    expected = next((each.index for each in theirs if own.get(each.index) != each.term), None)
    assert log.first_conflict(theirs) == expected
