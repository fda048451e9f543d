"""What a leader may send to a follower: probe, replicate, snapshot, and the window."""

from __future__ import annotations

from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.progress import Progress, ProgressState
from p2pinfer.raft.types import Configuration, Snapshot
from tests.raft.cluster import contact

CONFIG = RaftConfig(inflight_messages_max=3, inflight_bytes_max=1 << 20)


def replicating(match: int = 5) -> Progress:
    progress = Progress(contact(2), match + 1, 0.0)
    progress.acknowledged(match, 1)
    progress.become_replicate()
    return progress


def test_a_follower_begins_in_probe_where_the_log_ended() -> None:
    progress = Progress(contact(2), 11, 0.0)
    assert (progress.state, progress.match, progress.next) == (ProgressState.PROBE, 0, 11)


def test_the_window_is_bounded_in_messages() -> None:
    progress = replicating()
    for last in (6, 7, 8):
        assert not progress.is_full(CONFIG)
        progress.sent(last, 10)
    assert progress.is_full(CONFIG)
    assert progress.acknowledged(7, 1)
    assert (progress.inflight_count, progress.next, progress.match) == (1, 9, 7)
    assert not progress.is_full(CONFIG)


def test_the_window_is_bounded_in_bytes_and_always_takes_one_message() -> None:
    progress = replicating()
    progress.sent(6, 2 << 20)
    assert progress.is_full(CONFIG)
    progress.acknowledged(6, 1)
    assert not progress.is_full(CONFIG)


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    progress = replicating(5)
    progress.sent(9, 10)
    assert not progress.acknowledged(3, 1)
    assert (progress.match, progress.next) == (5, 10)


def test_a_refusal_of_what_is_known_to_match_is_old() -> None:
    progress = replicating(5)
    assert not progress.refused(5, 2)
    assert progress.state is ProgressState.REPLICATE


def test_a_refusal_ends_the_stream_and_begins_after_what_matches() -> None:
    progress = replicating(5)
    progress.sent(9, 10)
    assert progress.refused(9, 7)
    assert (progress.state, progress.next, progress.inflight_count) == (ProgressState.PROBE, 6, 0)


def test_a_probe_moves_to_the_hint_and_only_once() -> None:
    progress = Progress(contact(2), 11, 0.0)
    progress.is_waiting = True
    assert progress.refused(10, 4)
    assert (progress.next, progress.is_waiting) == (5, False)
    assert not progress.refused(10, 4), "the same answer again"
    assert progress.next == 5


def test_a_hint_never_leads_below_what_matches_nor_upwards() -> None:
    progress = Progress(contact(2), 11, 0.0)
    progress.acknowledged(6, 1)
    progress.become_probe()
    progress.next = 11
    assert progress.refused(10, 0)
    assert progress.next == 7
    progress.next = 11
    assert progress.refused(10, 99)
    assert progress.next == 10


def test_a_snapshot_ends_the_stream() -> None:
    progress = replicating(5)
    progress.sent(9, 10)
    snapshot = Snapshot.of(8, 1, Configuration(), b"x")
    progress.become_snapshot(snapshot, 3.0)
    assert (progress.state, progress.snapshot, progress.offset) == (ProgressState.SNAPSHOT, snapshot, 0)
    assert progress.inflight_count == 0
    assert not progress.refused(9, 0)


def test_who_lost_its_log_counts_for_nothing() -> None:
    progress = replicating(5)
    progress.acked_round = 7
    progress.become_lost()
    assert (progress.match, progress.acked_round, progress.state) == (0, 0, ProgressState.LOST)
