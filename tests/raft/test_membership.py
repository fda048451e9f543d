"""Changes of the membership in a running cluster: joint, one at a time, ended by whoever leads."""

from __future__ import annotations

from collections.abc import Sequence

from p2pinfer.effects import Effect
from p2pinfer.raft.news import CommittedAt, ConfigurationChanged, ProposalDone, Refused, Unknown
from p2pinfer.raft.types import Change, ChangeKind, Entry, NodeId, Role
from tests.raft.cluster import Cluster, contact, news_of
from tests.raft.single import Single


def change(cluster: Cluster, changes: Sequence[Change], node: NodeId = 1) -> int:
    request, effects = cluster.core(node).change(changes, cluster.now)
    cluster.do(node, effects)
    return request


def add(node: NodeId) -> Change:
    return Change(ChangeKind.ADD_VOTER, node, contact(node))


def remove(node: NodeId) -> Change:
    return Change(ChangeKind.REMOVE, node)


def outcome_of(cluster: Cluster, request: int, node: NodeId = 1) -> object:
    found = [each.outcome for each in cluster.news(node, ProposalDone) if each.request == request]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_voter_is_added_and_the_joint_configuration_left_by_itself() -> None:
    cluster = Cluster(3, spare=1)
    cluster.elect(1)
    request = change(cluster, [add(4)])
    cluster.run(0.5)
    assert outcome_of(cluster, request) == CommittedAt(4, 2), "that of the configuration after the joint one"
    for node in (1, 2, 3, 4):
        assert cluster.core(node).configuration.voters == (1, 2, 3, 4)
        assert not cluster.core(node).configuration.is_joint
    told = [
        (each.configuration.is_joint, each.is_committed) for each in cluster.news(2, ConfigurationChanged)
    ]
    assert told[-1] == (False, True)
    assert (True, False) in told


def test_all_voters_are_replaced_at_once_and_the_old_leader_steps_down() -> None:
    cluster = Cluster(3, spare=3)
    cluster.elect(1)
    cluster.propose(1, b"before")
    request = change(cluster, [*map(add, (4, 5, 6)), *map(remove, (1, 2, 3))])
    cluster.run(3)
    assert isinstance(outcome_of(cluster, request), CommittedAt)
    assert cluster.core(1).role is Role.FOLLOWER
    assert cluster.leader in (4, 5, 6)
    cluster.propose(cluster.leader, b"after")
    cluster.run(0.3)
    assert all(cluster.nodes[node].state[-1][4:] == b"after" for node in (4, 5, 6))
    assert all(cluster.core(node).configuration.voters == (4, 5, 6) for node in (1, 2, 3)), (
        "told before they went"
    )


def test_a_leader_that_is_removed_hands_over_without_waiting_for_a_timeout() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    change(cluster, [remove(1)])
    cluster.settle()
    assert cluster.leader in (2, 3), "no time has passed"


def test_the_joint_configuration_needs_both_majorities() -> None:
    cluster = Cluster(3, spare=2)
    cluster.elect(1)
    cluster.isolate(4)
    cluster.isolate(5)
    request = change(cluster, [add(4), add(5), remove(2), remove(3)])
    cluster.run(0.5)
    assert outcome_of(cluster, request) is None, "the old majority has it, the new one has not"
    assert cluster.core(1).configuration.is_joint
    cluster.heal()
    cluster.run(3)
    assert cluster.core(cluster.leader).configuration.voters == (1, 4, 5)


def test_another_leader_ends_the_change_that_one_began() -> None:
    cluster = Cluster(3, spare=1)
    cluster.elect(1)
    change(cluster, [add(4)])
    while not cluster.core(2).configuration.is_joint or not cluster.core(3).configuration.is_joint:
        cluster.deliver() if cluster.wire else cluster.sync_all()
    cluster.sync_all()
    cluster.isolate(1)
    cluster.run(5)
    assert cluster.leader != 1
    configuration = cluster.core(cluster.leader).configuration
    assert (configuration.voters, configuration.is_joint) == ((1, 2, 3, 4), False)


def test_changes_do_not_overlap() -> None:
    cluster = Cluster(3, spare=2)
    cluster.elect(1)
    first = change(cluster, [add(4)])
    second = change(cluster, [add(5)])
    assert outcome_of(cluster, second) == Refused("another change of the membership is under way", retry=True)
    cluster.run(0.5)
    assert isinstance(outcome_of(cluster, first), CommittedAt)
    assert isinstance(outcome_of(cluster, change(cluster, [add(5)])), CommittedAt | None)
    cluster.run(0.5)
    assert cluster.core(1).configuration.voters == (1, 2, 3, 4, 5)


def test_a_change_that_makes_no_sense_is_refused_for_good() -> None:
    node = Single()
    node.lead()
    _, effects = node.core.change([remove(9)], node.now)
    assert news_of(effects) == [
        ProposalDone(1, Refused("node 9 does not belong to the cluster", retry=False))
    ]


def test_only_a_leader_that_has_committed_in_its_term_changes_anything() -> None:
    node = Single()
    _, effects = node.core.change([remove(3)], node.now)
    assert news_of(effects) == [ProposalDone(1, Refused("this node does not lead", retry=True))]
    node.become_leader()
    _, effects = node.core.change([remove(3)], node.now)
    reason = "the leader has not committed an entry of its term yet"
    assert news_of(effects) == [ProposalDone(2, Refused(reason, retry=True))]


def test_a_learner_catches_up_and_is_promoted_and_then_votes() -> None:
    cluster = Cluster(2, spare=1)
    cluster.elect(1)
    for step in range(30):
        cluster.propose(1, b"%d" % step)
    change(cluster, [Change(ChangeKind.ADD_LEARNER, 3, contact(3))])
    cluster.run(0.5)
    assert cluster.nodes[3].state == cluster.nodes[1].state
    assert [(each.node, each.state) for each in cluster.core(1).followers()] == [
        (2, "replicate"),
        (3, "replicate"),
    ]
    change(cluster, [Change(ChangeKind.ADD_VOTER, 3)])
    cluster.run(0.5)
    cluster.isolate(1)
    cluster.run(5)
    assert cluster.leader in (2, 3), "with the vote of who was a learner"


def test_one_of_two_voters_is_removed_and_the_other_goes_on() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    change(cluster, [remove(2)])
    cluster.run(0.3)
    cluster.isolate(2)
    cluster.propose(1, b"alone")
    cluster.run(3)
    assert cluster.core(1).role is Role.LEADER
    assert cluster.nodes[1].state[-1][4:] == b"alone"


def test_one_becomes_two_and_three() -> None:
    cluster = Cluster(1, spare=2)
    cluster.run(0.5)
    for node in (2, 3):
        request = change(cluster, [add(node)])
        cluster.run(0.5)
        assert isinstance(outcome_of(cluster, request), CommittedAt)
    cluster.isolate(1)
    cluster.run(5)
    assert cluster.leader in (2, 3)


def test_who_was_removed_disturbs_nobody() -> None:
    cluster = Cluster(4)
    cluster.elect(1)
    change(cluster, [remove(4)])
    cluster.run(20)
    assert cluster.core(1).role is Role.LEADER
    assert cluster.core(1).hard_state.term == 2


def test_a_membership_comes_back_after_a_restart_without_being_committed() -> None:
    cluster = Cluster(3, spare=1)
    cluster.elect(1)
    cluster.isolate(1)
    change(cluster, [add(4)])
    cluster.sync_all()
    cluster.crash(1)
    assert cluster.core(1).configuration.is_joint
    cluster.heal()
    cluster.run(5)
    assert len({cluster.core(node).configuration for node in (1, 2, 3)}) == 1


def deposed(*entries: Entry, commit: int) -> tuple[Single, list[Effect]]:
    """A leader that asked for a change, and what it tells when another leader's entries are committed."""
    node = Single()
    node.lead()
    node.save(node.core.change([remove(3)], node.now)[1])
    effects = node.append(*entries, source=2, term=5, prev_index=2, prev_term=2, commit=commit)
    return node, node.save(effects)


def test_a_change_that_another_leader_overwrites_is_refused_and_its_configuration_taken_back() -> None:
    node, effects = deposed(Entry(3, 5), commit=3)
    reason = "another leader's entry was committed there"
    assert news_of(effects, ProposalDone) == [ProposalDone(1, Refused(reason, retry=True))]
    assert node.core.configuration.voters == (1, 2, 3)


def test_a_change_that_is_not_decided_in_time_is_unknown() -> None:
    node, effects = deposed(commit=2)
    assert news_of(effects, ProposalDone) == []
    node.now += node.config.proposal_timeout_s
    told = news_of(node.core.tick(node.now), ProposalDone)
    assert told == [ProposalDone(1, Unknown("it was not committed in time"))]


def test_no_membership_changes_while_the_leadership_is_handed_over() -> None:
    node = Single()
    node.lead()
    node.core.transfer(2, node.now)
    _, effects = node.core.change([remove(3)], node.now)
    assert [each.outcome.reason for each in news_of(effects)] == ["the leadership is being handed over"]
