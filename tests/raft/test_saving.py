"""What reaches the disk, and what happens when it refuses."""

from __future__ import annotations

import pytest

from p2pinfer.effects import Deliver, Save
from p2pinfer.errors import StorageError
from p2pinfer.raft.news import LeaderChanged, SteppedDown
from p2pinfer.raft.types import Entry, HardState, Initial, LogWrite, Role, Snapshot
from p2pinfer.wire.messages.raft import AppendReply, RequestVote, VoteReply
from tests.raft.cluster import CLUSTER, Cluster, saves_of, sends_of
from tests.raft.single import THREE, Single, first_entry, initial

A, B = Entry(2, 1, b"a"), Entry(3, 1, b"b")


def after_failure(node: Single) -> float:
    return node.now + node.config.election_timeout_s / 4


def test_after_a_failure_nothing_is_acknowledged_until_a_whole_write_worked() -> None:
    node = Single()
    node.append(A)
    assert node.core.save_failed(node.now) == []
    assert sends_of(node.append(A)) == [], "the disk is given a pause, and nothing is promised in it"
    node.now = after_failure(node)
    effects = node.append(A, B)
    assert effects == [
        Save(LogWrite(2, truncate_from=2, entries=(A, B), hard_state=HardState(1, None, 1))),
        node.said(AppendReply, success=True, index=3, round=1, last_index=3),
    ]


def test_a_failed_write_is_tried_again_by_itself() -> None:
    node = Single()
    node.append(A)
    node.core.save_failed(node.now)
    assert node.core.deadline == after_failure(node)
    assert [write.entries for write in saves_of(node.time_out())] == [(A,)]


def test_a_vote_is_not_said_when_its_write_failed_and_still_binds() -> None:
    node = Single()
    request = {"term": 2, "last_index": 1, "last_term": 1, "pre": False}
    node.hear_of(RequestVote, 2, **request)
    node.core.save_failed(node.now)
    node.now = after_failure(node)
    effects = node.hear_of(RequestVote, 3, **request)
    assert [write.hard_state for write in saves_of(effects)] == [HardState(2, 2, 1)]
    assert sends_of(effects) == [node.said(VoteReply, 3, pre=False, granted=False).message]


def test_a_leader_steps_down_when_its_disk_refuses() -> None:
    node = Single()
    node.lead()
    node.core.propose([b"x"], node.now)
    effects = node.core.save_failed(node.now)
    assert effects == [
        Deliver(SteppedDown(2, "the disk refused a write")),
        Deliver(LeaderChanged(None, 2)),
    ]
    assert node.core.role is Role.FOLLOWER


def test_nobody_stands_while_its_disk_refuses() -> None:
    node = Single()
    node.append(A)
    node.now += 10
    node.core.save_failed(node.now)
    assert node.core.tick(node.now) == []
    assert node.core.role is Role.FOLLOWER


def test_failures_of_two_truncating_writes_are_made_good_by_one() -> None:
    node = Single(initial(A, B, Entry(4, 1), term=3))
    node.append(Entry(4, 2), prev_index=3, prev_term=1)
    node.append(Entry(3, 3), prev_index=2, prev_term=1)
    node.core.save_failed(node.now)
    node.now = after_failure(node)
    (write,) = saves_of(node.core.tick(node.now))
    assert (write.truncate_from, write.entries) == (3, (Entry(3, 3),))


def test_a_confirmation_says_nothing_of_what_was_dropped_meanwhile() -> None:
    node = Single(initial(term=3))
    node.append(Entry(2, 2), Entry(3, 2), prev_index=1, prev_term=1)
    node.append(Entry(2, 3), prev_index=1, prev_term=1)
    node.core.saved(1, node.now)
    assert node.core.durable_index == 1
    node.core.saved(2, node.now)
    assert node.core.durable_index == 2


def test_one_confirmation_may_stand_for_several_writes() -> None:
    node = Single()
    node.append(A)
    node.append(B)
    effects = node.core.saved(2, node.now)
    assert node.core.durable_index == 3
    assert effects == []
    assert node.core.saved(7, node.now) == []
    assert node.core.statistics()["unexpected_saved"] == 1


def test_a_disk_that_fails_now_and_then_costs_nothing_that_was_acknowledged() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for step in range(30):
        cluster.propose(cluster.leader, b"%d" % step)
        cluster.fail(1 + step % 3)
        cluster.run(3.0, step_s=0.1)
    states = {node: at.state for node, at in cluster.nodes.items()}
    assert states[1] == states[2] == states[3]
    assert len(states[1]) > 20


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (Initial(1, CLUSTER, HardState(1, None, 5), (first_entry(),)), "entries are lost"),
        (Initial(1, CLUSTER, HardState(0, None, 0), (first_entry(),)), "the node's own is 0"),
        (Initial(0, CLUSTER), "no node id"),
        (Initial(1, CLUSTER, HardState(1), (Entry(1, 1, b"?", first_entry().kind),)), "damaged"),
        (
            Initial(1, CLUSTER, HardState(1), (), Snapshot(Snapshot.of(1, 1, THREE, b"a").meta, b"b")),
            "damaged",
        ),
    ],
)
def test_storage_that_contradicts_itself_is_refused(storage: Initial, reason: str) -> None:
    with pytest.raises(StorageError, match=reason):
        Single(storage)


def test_a_candidate_whose_disk_hangs_waits_and_asks_for_no_tick_at_once() -> None:
    node = Single()
    node.become_candidate()
    for _ in range(20):
        before = node.now
        node.time_out()
        assert node.core.deadline is not None
        assert node.core.deadline > node.now >= before
    assert node.term == 2, "it began no further election"


def test_promises_that_wait_for_a_hanging_disk_are_bounded() -> None:
    node = Single()
    node.append(A)
    for _ in range(4200):
        assert sends_of(node.append()) == []
    assert node.core.statistics()["promises_dropped"] == 4201 - 4096 - 1
    assert len(node.core.saved(1, node.now)) == 4096
