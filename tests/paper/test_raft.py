"""What the papers of Raft promise and we rely on, one test for each, named by its section.

"Paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm (Extended)", 2014;
"thesis" is Ongaro, "Consensus: Bridging Theory and Practice", 2014.
"""

from __future__ import annotations

import random

from p2pinfer.effects import Save, Send
from p2pinfer.raft.confchange import leave_joint, plan_change
from p2pinfer.raft.core import RaftCore
from p2pinfer.raft.news import CommittedAt, ProposalDone, ReadReady, SteppedDown
from p2pinfer.raft.packing import encode_configuration
from p2pinfer.raft.types import Change, ChangeKind, Configuration, Entry, EntryKind, Role
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, RequestVote, VoteReply
from tests.raft.cluster import Cluster, contact, member, news_of, saves_of, sends_of
from tests.raft.single import NOW, Single, initial


def entries(*terms: int) -> list[Entry]:
    """Entries 2, 3, ... of these terms, after the configuration."""
    return [Entry(index, term, b"%d" % index) for index, term in enumerate(terms, 2)]


# ---------------------------------------------------------------------- paper, section 5.1


def test_5_1_a_request_with_a_stale_term_is_rejected() -> None:
    node = Single(initial(term=5))
    (reply,) = sends_of(node.append(term=4))
    assert (reply.success, reply.term) == (False, 5)
    vote = {"last_index": 9, "last_term": 9, "pre": False}
    (reply,) = sends_of(node.hear_of(RequestVote, term=4, **vote))
    assert (reply.granted, reply.term) == (False, 5)


def test_5_1_candidates_and_leaders_become_followers_in_a_later_term() -> None:
    candidate, leader = Single(), Single()
    candidate.become_candidate()
    leader.lead()
    for node in (candidate, leader):
        node.hear_of(VoteReply, term=9, pre=False, granted=False)
        assert (node.core.role, node.term) == (Role.FOLLOWER, 9)


# ---------------------------------------------------------------------- paper, section 5.2


def test_5_2_timeouts_are_spread_over_one_to_two_election_timeouts() -> None:
    config = Single().config
    waits = []
    for seed in range(200):
        core = RaftCore(initial(), config, random.Random(seed), NOW)
        core.tick(NOW)
        assert core.deadline is not None
        waits.append(core.deadline - NOW)
    assert config.election_timeout_s <= min(waits) < 1.1 * config.election_timeout_s
    assert 1.9 * config.election_timeout_s < max(waits) <= 2 * config.election_timeout_s


def test_5_2_a_heartbeat_keeps_followers_from_standing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(30)
    assert cluster.core(1).hard_state.term == 2
    assert {at.core.statistics().get("elections_begun", 0) for at in cluster.nodes.values()} == {0, 1}


def test_5_2_votes_are_first_come_first_served_one_in_a_term() -> None:
    node = Single()
    vote = {"term": 2, "last_index": 1, "last_term": 1, "pre": False}
    assert sends_of(node.hear_of(RequestVote, 2, **vote))[0].granted
    node.core.saved(1, node.now)
    assert not sends_of(node.hear_of(RequestVote, 3, **vote))[0].granted


def test_5_2_a_split_vote_ends_with_a_new_term() -> None:
    node = Single()
    node.save(node.become_candidate())
    node.time_out()
    while not node.is_now(Role.PRE_CANDIDATE):
        node.time_out()
    assert {each.term for each in sends_of(node.time_out())} == {3}


# ---------------------------------------------------------------------- paper, section 5.3


def test_5_3_an_append_is_refused_where_the_logs_do_not_match() -> None:
    node = Single(initial(*entries(1, 2)))
    refused = sends_of(node.append(Entry(4, 3), prev_index=3, prev_term=3, term=3))[-1]
    assert (refused.success, refused.index) == (False, 3)
    assert node.core.log.last_index == 3


def test_5_3_a_conflicting_entry_and_all_that_follow_are_replaced() -> None:
    node = Single(initial(*entries(1, 1, 2, 2)))
    effects = node.append(Entry(4, 3, b"new"), prev_index=3, prev_term=1, term=3)
    assert [entry.term for entry in node.core.log.between(1, 9)] == [1, 1, 1, 3]
    assert saves_of(effects)[0].truncate_from == 4


def test_5_3_figure_7_every_log_of_a_follower_becomes_the_leaders() -> None:
    leader = entries(1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    followers = [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ]
    seven = Configuration.of(*(member(node) for node in range(1, 8)))
    cluster = Cluster(7, spare=0)
    first = Entry(1, 1, encode_configuration(seven), EntryKind.CONFIGURATION)
    for node, terms in enumerate([tuple(each.term for each in leader), *followers], 1):
        disk = cluster.nodes[node].disk
        disk.entries = [first, *entries(*terms)]
        disk.hard_state = initial(term=7).hard_state
        cluster.crash(node)
    while cluster.core(1).role is not Role.LEADER:
        # Stand until those that may vote for this log have done so: (a), (b), (e), (f) of the figure.
        cluster.now = max(cluster.now, cluster.core(1).deadline or 0.0)
        cluster.tick(1)
        cluster.settle()
    cluster.run(2)
    log = cluster.core(1).log.between(1, 99)
    assert all(at.core.log.between(1, 99) == log for at in cluster.nodes.values())
    assert list(log[1:11]) == leader


def test_5_3_a_refusal_steps_over_a_whole_term_at_once() -> None:
    node = Single(initial(*entries(*[2] * 500)))
    refused = sends_of(node.append(prev_index=400, prev_term=1, term=3))[-1]
    assert (refused.hint_index, refused.hint_term) == (1, 1)


def test_5_3_a_leader_never_changes_its_own_entries() -> None:
    node = Single()
    node.lead()
    node.core.propose([b"a"], node.now)
    before = node.core.log.between(1, 9)
    assert node.append(Entry(3, 2, b"other"), prev_index=2, prev_term=2, source=3) == []
    assert node.core.log.between(1, 9) == before


# ---------------------------------------------------------------------- paper, section 5.4


def test_5_4_1_a_candidate_without_a_committed_entry_cannot_win() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(1, b"committed")
    cluster.settle()
    cluster.heal()
    cluster.isolate(1)
    cluster.run(8)
    assert cluster.leader == 2
    assert cluster.nodes[3].state == cluster.nodes[2].state


def test_5_4_2_figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    node = Single(initial(*entries(2), term=3))
    node.save(node.become_leader())
    assert node.term == 4
    node.acknowledge(2, 2)
    node.acknowledge(3, 2)
    assert node.core.hard_state.commit == 1, "a majority holds it, and a later leader may still overwrite it"
    node.acknowledge(2, 3)
    assert node.core.hard_state.commit == 3, "with an entry of the own term it is safe"


def test_5_5_a_request_that_comes_again_after_a_crash_does_no_harm() -> None:
    node = Single(initial(*entries(1, 1)))
    effects = node.append(*entries(1, 1))
    assert saves_of(effects) == []
    assert sends_of(effects)[0].index == 3


# ---------------------------------------------------------------------- paper, sections 6, 7 and 8


def test_6_a_configuration_is_used_as_soon_as_it_is_in_the_log() -> None:
    node = Single()
    joint = plan_change(node.core.configuration, [Change(ChangeKind.ADD_VOTER, 4, contact(4))])
    assert isinstance(joint, Configuration)
    node.append(Entry(2, 1, encode_configuration(joint), EntryKind.CONFIGURATION))
    assert node.core.configuration == joint
    node.append(Entry(2, 2, b"instead"), prev_index=1, prev_term=1, term=2)
    assert node.core.configuration.voters == (1, 2, 3)
    assert not node.core.configuration.is_joint, "a truncation brings the former back"


def test_6_elections_and_commitment_need_both_halves_of_a_joint_configuration() -> None:
    joint = plan_change(
        Configuration.of(member(1), member(2), member(3)),
        [
            *(Change(ChangeKind.ADD_VOTER, node, contact(node)) for node in (4, 5)),
            Change(ChangeKind.REMOVE, 3),
        ],
    )
    assert isinstance(joint, Configuration)
    node = Single(initial(Entry(2, 1, encode_configuration(joint), EntryKind.CONFIGURATION)))
    node.time_out()
    for voter in (2, 3):
        node.hear_of(VoteReply, voter, term=2, pre=True, granted=True)
    assert node.is_now(Role.PRE_CANDIDATE), "all of the old three, and two of the new four"
    node.save(node.hear_of(VoteReply, 4, term=2, pre=True, granted=True))
    for voter in (2, 4):
        node.hear_of(VoteReply, voter, pre=False, granted=True)
    assert node.is_now(Role.LEADER)


def test_6_a_leader_outside_of_the_new_configuration_steps_down_when_that_is_committed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.do(1, cluster.core(1).change([Change(ChangeKind.REMOVE, 1)], cluster.now)[1])
    cluster.settle()
    assert [each.reason for each in cluster.news(1, SteppedDown)] == ["this node is no voter any more"]
    assert cluster.core(2).configuration.voters == (2, 3)


def test_7_a_snapshot_replaces_a_log_and_carries_the_last_term_and_the_configuration() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    for step in range(60):
        cluster.propose(1, b"%d" % step)
        cluster.settle()
    cluster.compact(1)
    cluster.heal()
    cluster.run(1)
    log = cluster.core(3).log
    assert log.snapshot is not None
    assert (log.snapshot.meta.term, log.snapshot.meta.configuration.voters) == (2, (1, 2, 3))
    assert cluster.nodes[3].state == cluster.nodes[1].state


def test_8_a_leader_begins_with_an_entry_that_does_nothing() -> None:
    node = Single()
    node.become_leader()
    assert node.core.log.between(2, 9) == (Entry(2, 2, b"", EntryKind.NOOP),)


# ---------------------------------------------------------------------- thesis


def test_thesis_3_8_term_and_vote_are_written_before_any_answer_that_depends_on_them() -> None:
    node = Single()
    effects = node.hear_of(RequestVote, term=2, last_index=1, last_term=1, pre=False)
    assert [type(each) for each in effects] == [Save, Send]


def test_thesis_3_10_a_leader_hands_over_without_an_interval_of_no_leader() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    now = cluster.now
    cluster.do(1, cluster.core(1).transfer(3, cluster.now))
    cluster.settle()
    assert (cluster.leader, cluster.now) == (3, now)


def test_thesis_4_2_1_a_server_without_a_vote_catches_up_before_it_counts() -> None:
    cluster = Cluster(1, learners=1)
    cluster.run(0.5)
    cluster.isolate(2)
    cluster.propose(1, b"alone")
    cluster.settle()
    assert cluster.news(1, ProposalDone)[0].outcome == CommittedAt(3, 2)


def test_thesis_4_2_2_who_is_left_out_stands_until_that_is_committed_and_does_not_count_itself() -> None:
    two = Configuration.of(member(1), member(2))
    joint = plan_change(two, [Change(ChangeKind.REMOVE, 1)])
    assert isinstance(joint, Configuration)
    after = Entry(3, 1, encode_configuration(leave_joint(joint)), EntryKind.CONFIGURATION)
    before = Entry(2, 1, encode_configuration(joint), EntryKind.CONFIGURATION)
    node = Single(initial(before, after, commit=2, configuration=two))
    asked = sends_of(node.time_out())
    assert [each.target for each in asked] == [2], "who has not got entry 3, and so cannot win itself"
    node.save(node.hear_of(VoteReply, 2, term=2, pre=True, granted=True))
    assert node.is_now(Role.CANDIDATE)
    node.hear_of(VoteReply, 2, pre=False, granted=True)
    assert node.is_now(Role.LEADER)
    node.acknowledge(2, 4)
    assert node.is_now(Role.FOLLOWER), "now that the other has it all"
    assert Single(initial(before, after, commit=3, configuration=two)).core.deadline is None


def test_thesis_4_2_3_a_server_that_hears_a_leader_neither_votes_nor_takes_the_term() -> None:
    node = Single()
    node.append()
    assert node.hear_of(RequestVote, 3, term=50, last_index=9, last_term=9, pre=False) == []
    assert node.term == 1


def test_thesis_6_2_a_leader_without_a_majority_steps_down() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.run(2 * cluster.config.election_timeout_s)
    assert cluster.core(1).role is not Role.LEADER


def test_thesis_6_4_a_read_waits_for_a_round_that_began_after_it() -> None:
    node = Single()
    node.lead()
    request, _ = node.core.read(node.now)
    assert news_of(node.acknowledge(2, round=1), ReadReady) == []
    assert news_of(node.acknowledge(2, round=2), ReadReady) == [ReadReady(request, 2)]


def test_thesis_6_4_a_new_leader_gives_no_index_before_it_knows_what_is_committed() -> None:
    node = Single()
    node.become_leader()
    node.core.read(node.now)
    assert news_of(node.acknowledge(2, 1, round=1), ReadReady) == []
    assert node.core.hard_state.commit == 1


def test_thesis_9_6_a_partitioned_server_raises_no_term_and_deposes_nobody_when_it_is_back() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(2)
    cluster.run(20)
    cluster.heal()
    cluster.run(2)
    assert (cluster.leader, cluster.core(1).hard_state.term) == (1, 2)


def test_thesis_10_2_1_a_leader_sends_before_its_own_write_and_may_commit_without_it() -> None:
    node = Single()
    node.lead()
    effects = node.core.propose([b"a"], node.now)[1]
    assert [type(each) for each in effects] == [Send, Send, Save]
    node.acknowledge(2)
    node.acknowledge(3)
    assert node.core.hard_state.commit == 3


def test_thesis_10_2_2_appends_follow_one_another_without_waiting() -> None:
    node = Single()
    node.lead()
    sent = [sends_of(node.core.propose([b"%d" % step], node.now)[1])[0] for step in range(5)]
    assert [each.prev_index for each in sent] == [2, 3, 4, 5, 6]
    assert all(isinstance(each, AppendEntries) for each in sent)
    refusal = {"success": False, "round": 1, "hint_index": 2, "hint_term": 2, "last_index": 2}
    retry = sends_of(node.hear_of(AppendReply, 2, index=4, **refusal))
    assert [each.prev_index for each in retry] == [2], "and one that was lost is found"
