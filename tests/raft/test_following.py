"""A follower's log: what it appends, refuses, drops and acknowledges."""

from __future__ import annotations

import pytest

from p2pinfer.effects import Deliver, Save
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import Committed, LeaderChanged
from p2pinfer.raft.packing import pack_entries
from p2pinfer.raft.types import Entry, EntryKind, HardState, LogWrite, Role
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply
from tests.raft.cluster import saves_of, sends_of
from tests.raft.single import Single, initial

A, B, C = Entry(2, 1, b"a"), Entry(3, 1, b"b"), Entry(4, 1, b"c")


def following(*entries: Entry, commit: int = 1, term: int | None = None) -> Single:
    node = Single(initial(*entries, commit=commit, term=term))
    node.append()
    return node


def test_entries_are_acknowledged_after_they_are_durable() -> None:
    node = Single()
    assert node.append(A, B) == [
        Deliver(LeaderChanged(2, 1)),
        Save(LogWrite(1, entries=(A, B), hard_state=HardState(1, None, 1))),
        node.said(AppendReply, success=True, index=3, round=1, last_index=3),
    ]


def test_a_repeated_message_is_acknowledged_only_when_the_first_write_is_durable() -> None:
    node = following()
    node.append(A)
    assert node.append(A) == []
    assert node.core.saved(1, node.now) == [
        node.said(AppendReply, success=True, index=2, round=1, last_index=2)
    ]


def test_what_is_committed_is_handed_out_when_the_own_disk_has_it() -> None:
    node = following()
    effects = node.append(A, B, commit=2)
    assert node.save(effects) == [Deliver(Committed((A,)))]
    assert node.append(commit=3, wants_reply=False) == [Deliver(Committed((B,)))]


def test_a_commit_index_beyond_what_matches_is_not_believed() -> None:
    node = following(A, B)
    node.append(Entry(2, 1, b"a"), commit=3)
    assert node.core.hard_state.commit == 2, "entry 3 may be another leader's"


@pytest.mark.parametrize(
    ("prev", "hint"),
    [((5, 1), (4, 1)), ((9, 9), (4, 1)), ((4, 2), (4, 1))],
)
def test_a_gap_is_refused_with_the_last_place_that_may_match(
    prev: tuple[int, int], hint: tuple[int, int]
) -> None:
    node = following(A, B, C, term=9)
    effects = node.append(prev_index=prev[0], prev_term=prev[1])
    refusal = {"success": False, "index": prev[0], "hint_index": hint[0], "hint_term": hint[1]}
    assert effects == [node.said(AppendReply, round=1, last_index=4, **refusal)]


def test_a_conflict_drops_what_follows_it_and_nothing_before() -> None:
    node = following(A, B, C, term=2)
    new = Entry(3, 2, b"other")
    effects = node.append(new, prev_index=2, prev_term=1)
    assert effects == [
        Save(LogWrite(1, truncate_from=3, entries=(new,), hard_state=HardState(2, None, 1))),
        node.said(AppendReply, success=True, index=3, round=1, last_index=3),
    ]


def test_a_late_message_drops_nothing() -> None:
    node = following(A, B, C)
    assert node.append(A) == [node.said(AppendReply, success=True, index=2, round=1, last_index=4)]
    assert node.core.log.last_index == 4


def test_what_is_committed_is_never_dropped() -> None:
    node = following(A, B, commit=3, term=2)
    effects = node.append(Entry(2, 2, b"evil"), Entry(3, 2, b"evil"), prev_index=1, prev_term=1)
    assert saves_of(effects) == []
    assert node.core.log.between(2, 3) == (A, B)


def test_entries_that_reach_before_what_is_committed_are_joined_on() -> None:
    node = following(A, B, commit=3)
    effects = node.append(A, B, C, prev_index=1, prev_term=1)
    assert saves_of(effects)[0].entries == (C,)


def test_an_earlier_leader_is_told_of_the_later_term() -> None:
    node = Single(initial(term=5))
    effects = node.append(term=4)
    assert effects == [node.said(AppendReply, success=False, index=0, round=0, last_index=1)]
    assert node.core.leader is None


def test_a_candidate_of_the_same_term_follows_the_winner() -> None:
    node = Single()
    node.save(node.become_candidate())
    node.append(prev_index=1, prev_term=1)
    assert (node.core.role, node.core.leader) == (Role.FOLLOWER, 2)


@pytest.mark.parametrize(
    "batch",
    [
        b"x",
        pack_entries([A])[:-1],
        pack_entries([Entry(2, 99)]),
        pack_entries([Entry(2, 1, b"\xff", EntryKind.CONFIGURATION)]),
    ],
)
def test_a_batch_that_is_none_is_counted_and_changes_nothing(batch: bytes) -> None:
    node = following()
    effects = node.hear_of(AppendEntries, prev_index=1, prev_term=1, commit=1, round=1, entries=batch)
    assert effects == []
    assert node.core.log.last_index == 1
    assert node.core.statistics()["malformed"] == 1


def test_a_notice_of_commitment_is_not_answered() -> None:
    node = following(A)
    assert sends_of(node.append(commit=2, wants_reply=False)) == []


def test_many_entries_are_handed_out_in_pieces_and_in_order() -> None:
    entries = tuple(Entry(index, 1, bytes(3000)) for index in range(2, 10))
    node = Single(initial(*entries, commit=9), RaftConfig(delivery_bytes_max=8192))
    handed = [
        each.item.entries
        for each in node.started
        if isinstance(each, Deliver) and isinstance(each.item, Committed)
    ]
    assert [entry.index for run in handed for entry in run] == list(range(1, 10))
    assert max(len(run) for run in handed) <= 3
