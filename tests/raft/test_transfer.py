"""Handing the leadership over: under load, to nobody, and to one who does not take it."""

from __future__ import annotations

import pytest

from p2pinfer.raft.news import ProposalDone, Refused, TransferDone
from p2pinfer.raft.types import NodeId, Role
from p2pinfer.wire.messages.raft import TimeoutNow
from tests.raft.cluster import Cluster, news_of, sends_of
from tests.raft.single import Single


def leading() -> Single:
    node = Single()
    node.lead()
    return node


def test_a_follower_with_the_whole_log_is_told_at_once() -> None:
    node = leading()
    assert node.core.transfer(2, node.now) == [node.said(TimeoutNow, 2)]


def test_one_that_lags_is_told_when_it_has_caught_up_and_no_proposals_come_between() -> None:
    node = leading()
    _, effects = node.core.propose([b"a"], node.now)
    node.save(effects)
    assert node.core.transfer(2, node.now) == []
    _, effects = node.core.propose([b"b"], node.now)
    assert [each.outcome for each in news_of(effects, ProposalDone)] == [
        Refused("the leadership is being handed over", retry=True)
    ]
    assert [type(each) for each in sends_of(node.acknowledge(2))] == [TimeoutNow]


def test_one_that_does_not_take_over_in_time_loses_its_chance() -> None:
    node = leading()
    node.core.transfer(2, node.now)
    start = node.now
    effects: list[object] = []
    while not effects:
        effects = news_of(node.time_out(), TransferDone)
        for follower in (2, 3):
            node.acknowledge(follower)
    assert effects == [TransferDone(2, "the target did not take over in time")]
    assert node.now - start <= node.config.election_timeout_s + node.config.heartbeat_interval_s
    assert node.core.role is Role.LEADER
    _, proposed = node.core.propose([b"b"], node.now)
    assert news_of(proposed, ProposalDone) == [], "and is accepted again"


@pytest.mark.parametrize(("target", "reason"), [(9, "no live voter is there to take it"), (1, "")])
def test_a_transfer_to_a_stranger_is_refused_and_to_oneself_is_done(target: NodeId, reason: str) -> None:
    node = leading()
    assert news_of(node.core.transfer(target, node.now)) == [TransferDone(target, reason)]


def test_only_a_leader_hands_over_and_one_at_a_time() -> None:
    assert news_of(Single().core.transfer(2, 1000.0)) == [TransferDone(2, "this node does not lead")]
    node = leading()
    node.core.transfer(2, node.now)
    assert news_of(node.core.transfer(3, node.now)) == [TransferDone(3, "another transfer is under way")]


@pytest.mark.parametrize("target", [None, 3])
def test_a_transfer_works_under_write_load_and_loses_nothing(target: NodeId | None) -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for step in range(50):
        cluster.propose(1, b"%d" % step)
        if step == 25:
            cluster.do(1, cluster.core(1).transfer(target, cluster.now))
        for _ in range(3):
            cluster.deliver() if cluster.wire else cluster.sync_all()
    cluster.settle()
    assert cluster.leader == target if target else cluster.leader in (2, 3)
    assert cluster.news(1, TransferDone) == [TransferDone(cluster.leader)]
    cluster.run(0.5)
    done = cluster.news(1, ProposalDone)
    assert len(done) == 50
    refused = sum(isinstance(each.outcome, Refused) for each in done)
    assert 0 < refused < 50
    assert sum(len(state) > 4 for state in cluster.nodes[2].state[1:]) == 50 - refused


def test_pre_vote_does_not_stand_in_the_way_of_a_transfer() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.do(1, cluster.core(1).transfer(4, cluster.now))
    cluster.settle()
    assert cluster.leader == 4
