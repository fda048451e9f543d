"""What becomes of proposals: every one gets an outcome, and the outcome is true."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from p2pinfer.effects import Effect
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import CommittedAt, ProposalDone, Refused, Unknown
from p2pinfer.raft.packing import pack_commands, record_of
from p2pinfer.raft.types import Entry, Role, Snapshot
from p2pinfer.wire.messages.raft import (
    AppendEntries,
    Forward,
    ForwardReply,
    ForwardResult,
    InstallSnapshot,
    OutcomeCode,
)
from tests.raft.cluster import Cluster, news_of, sends_of
from tests.raft.single import THREE, Single, initial


def leading(config: RaftConfig | None = None) -> Single:
    node = Single(config=config)
    node.lead()
    return node


def outcomes(effects: Sequence[Effect]) -> list[object]:
    return [each.outcome for each in news_of(effects, ProposalDone)]


def test_without_a_leader_a_proposal_is_refused_and_worth_another_try() -> None:
    requests, effects = Single().core.propose([b"a", b"b"], 1000.0)
    assert requests == range(1, 3)
    assert outcomes(effects) == [Refused("no leader is known", retry=True)] * 2


def test_an_oversized_proposal_is_refused_for_good_and_the_others_go_on() -> None:
    node = leading(RaftConfig(proposal_size_bytes_max=10))
    requests, effects = node.core.propose([b"a", bytes(11), b"b"], node.now)
    assert news_of(effects) == [
        ProposalDone(requests[1], Refused("a proposal has at most 10 bytes", retry=False))
    ]
    node.save(effects)
    assert news_of(node.acknowledge(2), ProposalDone) == [
        ProposalDone(requests[0], CommittedAt(3, 2)),
        ProposalDone(requests[2], CommittedAt(4, 2)),
    ]


def test_what_is_not_committed_is_bounded_in_bytes() -> None:
    node = leading(RaftConfig(proposal_size_bytes_max=10, uncommitted_bytes_max=25))
    _, effects = node.core.propose([bytes(10)] * 4, node.now)
    assert outcomes(effects) == [Refused("too much is not committed yet", retry=True)] * 2
    node.save(effects)
    node.acknowledge(2)
    assert outcomes(node.core.propose([bytes(10)], node.now)[1]) == []


def test_what_is_open_is_bounded_in_number() -> None:
    node = leading(RaftConfig(proposals_open_max=2))
    _, effects = node.core.propose([b"a", b"b", b"c"], node.now)
    assert outcomes(effects) == [Refused("too much is not committed yet", retry=True)]


def test_what_is_overwritten_by_the_next_leader_is_refused_once_that_is_certain() -> None:
    node = leading()
    _, effects = node.core.propose([b"a", b"b"], node.now)
    node.save(effects)
    effects = node.append(Entry(3, 5, b"other"), source=3, term=5, prev_index=2, prev_term=2)
    assert outcomes(effects) == [], "nothing is certain yet"
    node.save(effects)
    effects = node.append(Entry(4, 5, b"other"), source=3, term=5, commit=4)
    assert (
        outcomes(node.save(effects))
        == [Refused("another leader's entry was committed there", retry=True)] * 2
    )


def test_what_survives_the_leader_is_told_as_committed() -> None:
    node = leading()
    _, effects = node.core.propose([b"a", b"b"], node.now)
    node.save(effects)
    effects = node.append(Entry(4, 5, b"other"), source=3, term=5, prev_index=3, prev_term=2, commit=4)
    assert outcomes(node.save(effects)) == [
        CommittedAt(3, 2),
        Refused("another leader's entry was committed there", retry=True),
    ]


def test_what_is_not_decided_in_time_is_unknown_and_told_once() -> None:
    node = leading()
    _, effects = node.core.propose([b"a"], node.now)
    node.save(effects)
    node.append(source=3, term=5, prev_index=2, prev_term=2)
    node.now += node.config.proposal_timeout_s
    assert outcomes(node.core.tick(node.now)) == [Unknown("it was not committed in time")]
    effects = node.append(source=3, term=5, prev_index=3, prev_term=2, commit=3)
    assert outcomes(effects) == []


def test_a_follower_forwards_and_tells_the_outcome() -> None:
    node = Single()
    node.append()
    requests, effects = node.core.propose([b"a", b"b"], node.now)
    (forward,) = sends_of(effects)
    assert (forward.target, forward.term, forward.proposals) == (2, 1, pack_commands([b"a", b"b"]))
    result = ForwardResult(count=2, code=OutcomeCode.COMMITTED.value, index=7, index_term=1)
    effects = node.hear_of(ForwardReply, request=forward.request, results=(result,))
    assert news_of(effects) == [
        ProposalDone(requests[0], CommittedAt(7, 1)),
        ProposalDone(requests[1], CommittedAt(8, 1)),
    ]
    assert node.hear_of(ForwardReply, request=forward.request, results=(result,)) == []


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (OutcomeCode.REFUSED, Refused("why", retry=False)),
        (OutcomeCode.RETRY, Refused("why", retry=True)),
        (OutcomeCode.UNKNOWN, Unknown("why")),
    ],
)
def test_every_outcome_comes_back_as_it_was(code: OutcomeCode, outcome: object) -> None:
    node = Single()
    node.append()
    _, effects = node.core.propose([b"a"], node.now)
    (forward,) = sends_of(effects)
    result = ForwardResult(count=1, code=code.value, reason="why")
    assert outcomes(node.hear_of(ForwardReply, request=forward.request, results=(result,))) == [outcome]


def test_a_reply_that_does_not_fit_or_comes_from_another_is_not_believed() -> None:
    node = Single()
    node.append()
    _, effects = node.core.propose([b"a"], node.now)
    (forward,) = sends_of(effects)
    result = ForwardResult(count=2, code=0, index=1)
    assert node.hear_of(ForwardReply, request=forward.request, results=(result,)) == []
    assert node.hear_of(ForwardReply, request=forward.request, results=()) == []
    one = ForwardResult(count=1, code=0, index=1)
    assert node.hear_of(ForwardReply, 3, request=forward.request, results=(one,)) == []


def test_no_answer_means_unknown_and_soon_when_the_leader_is_gone() -> None:
    node = Single()
    node.append()
    node.core.propose([b"a"], node.now)
    node.core.forget_leader(2, node.now)
    node.now += node.config.election_timeout_s
    assert outcomes(node.core.tick(node.now)) == [Unknown("the leader did not answer in time")]


def forward(node: Single, number: int = 7, **fields: Any) -> list[Effect]:
    return node.hear_of(Forward, request=number, proposals=pack_commands([b"a"]), **fields)


def test_a_leader_answers_a_forward_when_it_is_decided() -> None:
    node = leading()
    effects = node.hear_of(Forward, request=7, proposals=pack_commands([b"a", b"b"]))
    node.save(effects)
    replies = [each for each in sends_of(node.acknowledge(3)) if isinstance(each, ForwardReply)]
    assert [each.results for each in replies] == [(ForwardResult(count=2, code=0, index=3, index_term=2),)]


def test_a_forward_repeated_is_proposed_once() -> None:
    node = leading()
    forward(node)
    assert forward(node) == []
    assert node.core.log.last_index == 3
    assert node.core.statistics()["repeated_forwards"] == 1


def refusals(effects: Sequence[Effect]) -> list[tuple[int, str]]:
    replies = [each for each in sends_of(effects) if isinstance(each, ForwardReply)]
    return [(result.code, result.reason) for each in replies for result in each.results]


def test_a_forward_meant_for_the_leader_of_another_term_is_refused() -> None:
    node = leading()
    assert refusals(forward(node, term=3)) == [(OutcomeCode.RETRY, "the node asked does not lead this term")]
    assert node.core.role is Role.LEADER, "a term in a forward deposes nobody"


def test_what_an_earlier_life_may_have_taken_is_unknown() -> None:
    node = Single(initial(term=4, vote=1))
    for term in (3, 4):
        assert [code for code, _ in refusals(forward(node, term, term=term))] == [OutcomeCode.UNKNOWN]
    assert [code for code, _ in refusals(forward(node, 5, term=5))] == [OutcomeCode.RETRY]
    other = Single(initial(term=4, vote=2))
    assert [code for code, _ in refusals(forward(other, term=4))] == [OutcomeCode.RETRY]


def test_a_forward_too_large_or_malformed_is_refused_or_counted() -> None:
    node = leading(RaftConfig(proposal_size_bytes_max=10))
    effects = node.hear_of(Forward, request=1, proposals=pack_commands([bytes(11)]))
    assert refusals(effects) == [(OutcomeCode.REFUSED, "a proposal is too large")]
    assert node.hear_of(Forward, request=2, proposals=b"\xff") == []
    assert node.core.statistics()["malformed"] == 1


def test_many_proposals_are_forwarded_in_messages_that_fit() -> None:
    node = Single()
    node.append()
    requests, effects = node.core.propose([bytes(1 << 20)] * 7, node.now)
    assert [len(each.proposals) >> 20 for each in sends_of(effects)] == [3, 3, 1]
    assert len(requests) == 7
    assert node.core.statistics()["open_proposal_count"] == 7


def test_a_cluster_serves_its_followers_as_its_leader() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    requests = [(node, cluster.propose(node, b"of %d" % node)) for node in (1, 2, 3)]
    cluster.settle()
    for node, made in requests:
        assert [each.request for each in cluster.news(node, ProposalDone)] == list(made)
    cluster.run(0.2)
    assert len({tuple(at.state) for at in cluster.nodes.values()}) == 1
    assert not cluster.messages(AppendEntries)


def test_what_a_snapshot_took_the_place_of_is_unknown() -> None:
    node = leading()
    _, effects = node.core.propose([b"a"], node.now)
    node.save(effects)
    snapshot = Snapshot.of(9, 5, THREE, b"s")
    effects = node.hear_of(
        InstallSnapshot,
        3,
        term=5,
        index=9,
        index_term=5,
        configuration=record_of(THREE),
        size_bytes=1,
        digest=snapshot.meta.digest,
        offset=0,
        crc=zlib.crc32(b"s"),
        data=b"s",
        round=1,
    )
    assert outcomes(node.save(effects)) == [Unknown("a snapshot took the place of the log")]


def test_a_forward_once_refused_is_not_taken_when_it_comes_again() -> None:
    node = leading()
    node.core.transfer(2, node.now)
    assert refusals(forward(node)) == [(OutcomeCode.RETRY, "the leadership is being handed over")]
    node.now += node.config.election_timeout_s
    node.acknowledge(2)
    node.acknowledge(3)
    node.core.tick(node.now)
    assert node.is_now(Role.LEADER)
    assert forward(node) == []
    assert len(node.hear_of(Forward, request=8, proposals=pack_commands([b"a"]))) == 3
