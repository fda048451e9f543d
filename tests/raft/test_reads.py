"""Linearizable reads at a leader and at a follower; none is early, stale or lost."""

from __future__ import annotations

from collections.abc import Sequence

from p2pinfer.effects import Deliver, Effect
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import ReadFailed, ReadReady
from p2pinfer.raft.types import Role
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, ReadReply, ReadRequest, RequestVote
from tests.raft.cluster import Cluster, news_of, sends_of
from tests.raft.single import Single


def leading(config: RaftConfig | None = None) -> Single:
    node = Single(config=config)
    node.lead()
    return node


def rounds(effects: Sequence[Effect]) -> list[int]:
    """The rounds of the messages that want an answer."""
    return [each.round for each in sends_of(effects) if isinstance(each, AppendEntries) and each.wants_reply]


def next_round(node: Single) -> int:
    """Let time pass until the next heartbeat; returns its round."""
    while not (begun := rounds(node.time_out())):
        pass
    return begun[0]


def test_a_leader_asks_a_quorum_before_it_answers() -> None:
    node = leading()
    request, effects = node.core.read(node.now)
    assert rounds(effects) == [2, 2]
    assert node.acknowledge(2, round=1) == [], "an answer to what was sent before the question"
    assert node.acknowledge(2, round=2) == [Deliver(ReadReady(request, 2))]


def test_reads_asked_during_a_round_share_the_next() -> None:
    node = leading()
    first, _ = node.core.read(node.now)
    later = [node.core.read(node.now) for _ in range(5)]
    assert [effects for _, effects in later] == [[]] * 5
    effects = node.acknowledge(2, round=2)
    assert news_of(effects, ReadReady) == [ReadReady(first, 2)]
    assert rounds(effects) == [3, 3]
    effects = node.acknowledge(3, round=3)
    assert news_of(effects, ReadReady) == [ReadReady(request, 2) for request, _ in later]


def test_a_lost_round_is_made_good_by_the_next_heartbeat() -> None:
    node = leading()
    request, _ = node.core.read(node.now)
    later = next_round(node)
    assert later > 2
    assert news_of(node.acknowledge(2, round=later), ReadReady) == [ReadReady(request, 2)]


def test_no_index_is_given_before_the_first_entry_of_the_term_is_committed() -> None:
    node = Single()
    effects = node.become_leader()
    request, asked = node.core.read(node.now)
    assert asked == []
    assert news_of(node.acknowledge(2, 1, round=1), ReadReady) == []
    node.save(effects)
    effects = node.acknowledge(2, 2, round=1)
    assert rounds(effects)[-2:] == [2, 2]
    assert node.acknowledge(2, 2, round=2) == [Deliver(ReadReady(request, 2))]


def test_a_read_waits_until_its_index_is_applied_here() -> None:
    node = leading()
    effects = node.core.propose([b"a"], node.now)[1]
    node.acknowledge(2)
    node.acknowledge(3)
    request, _ = node.core.read(node.now)
    assert news_of(node.acknowledge(2, round=2), ReadReady) == [], "the own disk does not have entry 3"
    assert news_of(node.save(effects))[-1] == ReadReady(request, 3)


def test_a_follower_asks_its_leader_once_for_all_that_wait() -> None:
    node = Single()
    node.append()
    first, effects = node.core.read(node.now)
    (question,) = sends_of(effects)
    assert (question.target, type(question)) == (2, ReadRequest)
    second, effects = node.core.read(node.now)
    assert effects == []
    effects = node.hear_of(ReadReply, request=question.request, index=1)
    assert news_of(effects) == [ReadReady(first, 1)]
    (question,) = sends_of(effects)
    assert news_of(node.hear_of(ReadReply, request=question.request, index=1)) == [ReadReady(second, 1)]


def test_an_old_answer_answers_no_new_question() -> None:
    node = Single()
    node.append()
    _, effects = node.core.read(node.now)
    (question,) = sends_of(effects)
    assert node.hear_of(ReadReply, request=question.request - 1, index=1) == []
    assert node.core.statistics()["stale_read_replies"] == 1


def test_a_question_is_put_again_when_no_answer_comes_and_to_the_next_leader() -> None:
    node = Single()
    node.append()
    node.core.read(node.now)
    node.now += node.config.election_timeout_s / 2
    assert [each.target for each in sends_of(node.core.tick(node.now))] == [2]
    node.append(source=3, term=5, prev_index=1, prev_term=1)
    node.now += node.config.election_timeout_s / 2
    asked = [each.target for each in sends_of(node.core.tick(node.now)) if isinstance(each, ReadRequest)]
    assert asked == [3]


def test_a_read_without_a_leader_fails_when_its_time_is_over() -> None:
    node = Single()
    request, effects = node.core.read(node.now)
    assert effects == []
    node.now += node.config.read_timeout_s
    assert news_of(node.core.tick(node.now), ReadFailed) == [
        ReadFailed(request, "no leader confirmed it in time")
    ]


def test_too_many_reads_fail_at_once() -> None:
    node = Single(config=RaftConfig(reads_open_max=1))
    node.core.read(node.now)
    _, effects = node.core.read(node.now)
    assert [each.reason for each in news_of(effects, ReadFailed)] == ["too many reads are open"]


def test_who_does_not_lead_says_so_to_a_follower() -> None:
    node = Single()
    effects = node.hear_of(ReadRequest, request=7)
    assert [(each.request, each.ok) for each in sends_of(effects)] == [(7, False)]


def test_a_leader_deposed_gives_its_readers_to_the_next_and_tells_the_others() -> None:
    node = leading()
    request, _ = node.core.read(node.now)
    node.hear_of(ReadRequest, request=7)
    effects = node.append(source=3, term=9, prev_index=2, prev_term=2)
    answers = [each for each in sends_of(effects) if isinstance(each, ReadReply | ReadRequest)]
    assert [(each.target, type(each)) for each in answers] == [(2, ReadReply), (3, ReadRequest)]
    assert isinstance(answers[0], ReadReply)
    assert not answers[0].ok
    effects = node.hear_of(ReadReply, 3, request=answers[1].request, index=2)
    assert news_of(effects) == [ReadReady(request, 2)]


def test_a_leader_cut_off_confirms_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    request, effects = cluster.core(1).read(cluster.now)
    cluster.do(1, effects)
    cluster.run(8)
    assert cluster.news(1, ReadReady) == []
    assert [each.request for each in cluster.news(1, ReadFailed)] == [request]


def test_a_read_at_a_follower_sees_what_was_committed_before_it() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"a")
    cluster.settle()
    request, effects = cluster.core(2).read(cluster.now)
    cluster.do(2, effects)
    cluster.settle()
    assert cluster.news(2, ReadReady) == [ReadReady(request, 3)]
    assert len(cluster.nodes[2].state) == 3


def test_with_a_lease_a_leader_answers_alone_until_the_lease_is_over() -> None:
    node = leading(RaftConfig(lease_reads=True))
    node.acknowledge(2, round=next_round(node))
    begun = node.now
    request, effects = node.core.read(node.now)
    assert effects == [Deliver(ReadReady(request, 2))]
    node.now = begun + node.config.election_timeout_s * (1 - node.config.clock_drift_max)
    _, effects = node.core.read(node.now)
    assert rounds(effects), "the lease is over: a quorum is asked"


def test_after_a_transfer_began_no_lease_is_relied_on() -> None:
    node = leading(RaftConfig(lease_reads=True))
    node.acknowledge(2, round=next_round(node))
    node.core.transfer(2, node.now)
    _, effects = node.core.read(node.now)
    assert news_of(effects) == []


def test_with_leases_a_node_that_restarts_waits_before_it_votes() -> None:
    node = Single(config=RaftConfig(lease_reads=True))
    fields = {"term": 2, "last_index": 1, "last_term": 1, "pre": True}
    assert node.hear_of(RequestVote, **fields) == []
    node.now += node.config.election_timeout_s
    assert sends_of(node.hear_of(RequestVote, **fields))[0].granted


def test_a_stale_refusal_does_not_end_a_read() -> None:
    node = leading()
    request, _ = node.core.read(node.now)
    node.hear_of(AppendReply, 2, success=False, index=0, round=1, last_index=2)
    assert node.core.role is Role.LEADER
    assert node.acknowledge(3, round=2) == [Deliver(ReadReady(request, 2))]


def test_a_leader_that_cannot_answer_is_asked_again_a_little_later() -> None:
    node = Single()
    node.append()
    request, effects = node.core.read(node.now)
    (question,) = sends_of(effects)
    assert node.hear_of(ReadReply, request=question.request, index=0, ok=False) == []
    node.now += node.config.heartbeat_interval_s
    (again,) = sends_of(node.core.tick(node.now))
    assert again.request != question.request
    assert news_of(node.hear_of(ReadReply, request=again.request, index=1)) == [ReadReady(request, 1)]
