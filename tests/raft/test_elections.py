"""Standing, voting and protecting a leader, as whole lists of effects."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.effects import Deliver, Effect, Save
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import BecameLeader, LeaderChanged, SteppedDown
from p2pinfer.raft.packing import pack_entries
from p2pinfer.raft.types import Configuration, Entry, EntryKind, HardState, LogWrite, Role
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, RequestVote, TimeoutNow, VoteReply
from tests.raft.cluster import Cluster, member, saves_of, sends_of
from tests.raft.single import Single, initial


def test_who_hears_no_leader_asks_whether_it_would_be_elected_and_changes_nothing() -> None:
    node = Single()
    before = node.core.hard_state
    effects = node.time_out()
    request = {"term": 2, "last_index": 1, "last_term": 1, "pre": True, "forced": False}
    assert effects == [node.said(RequestVote, 2, **request), node.said(RequestVote, 3, **request)]
    assert node.core.hard_state == before
    assert node.is_now(Role.PRE_CANDIDATE)


def test_with_the_pre_vote_the_term_begins_and_is_durable_before_anybody_is_asked() -> None:
    node = Single()
    effects = node.become_candidate()
    request = {"term": 2, "last_index": 1, "last_term": 1, "pre": False, "forced": False}
    assert effects == [
        Save(LogWrite(1, hard_state=HardState(2, 1, 1))),
        node.said(RequestVote, 2, **request),
        node.said(RequestVote, 3, **request),
    ]


def test_the_own_vote_counts_only_once_it_is_durable() -> None:
    node = Single()
    effects = node.become_candidate()
    assert node.hear_of(VoteReply, pre=False, granted=True) == []
    assert node.is_now(Role.CANDIDATE)
    node.save(effects)
    assert node.is_now(Role.LEADER)


def test_the_winner_appends_an_entry_of_its_term_and_sends_it_before_its_own_write() -> None:
    node = Single()
    effects = node.become_leader()
    entry = Entry(2, 2, b"", EntryKind.NOOP)
    append = {"prev_index": 1, "prev_term": 1, "commit": 1, "round": 1, "entries": pack_entries([entry])}
    assert effects == [
        Deliver(BecameLeader(2)),
        node.said(AppendEntries, 2, **append),
        node.said(AppendEntries, 3, **append),
        Deliver(LeaderChanged(1, 2)),
        Save(LogWrite(2, entries=(entry,), hard_state=HardState(2, 1, 1))),
    ]


def test_a_vote_said_twice_counts_once() -> None:
    five = Configuration.of(*(member(node) for node in range(1, 6)))
    node = Single(initial(configuration=five))
    node.time_out()
    node.hear_of(VoteReply, 2, term=2, pre=True, granted=True)
    effects = node.hear_of(VoteReply, 3, term=2, pre=True, granted=True)
    node.save(effects)
    for _ in range(5):
        node.hear_of(VoteReply, 2, pre=False, granted=True)
    assert node.is_now(Role.CANDIDATE)
    node.hear_of(VoteReply, 3, pre=False, granted=True)
    assert node.is_now(Role.LEADER)


def test_votes_of_strangers_and_of_earlier_terms_count_for_nothing() -> None:
    node = Single()
    node.save(node.become_candidate())
    node.hear_of(VoteReply, 9, pre=False, granted=True)
    node.hear_of(VoteReply, 2, term=1, pre=False, granted=True)
    assert node.is_now(Role.CANDIDATE)
    assert node.core.statistics()["votes_of_strangers"] == 1
    assert node.core.statistics()["stale_votes"] == 1


def test_a_majority_of_refusals_ends_the_election() -> None:
    node = Single()
    node.time_out()
    node.hear_of(VoteReply, 2, pre=True, granted=False)
    node.hear_of(VoteReply, 3, pre=True, granted=False)
    assert node.is_now(Role.FOLLOWER)


def ask(node: Single, source: int = 2, *, term: int = 2, pre: bool = False, **fields: Any) -> list[Effect]:
    request = {"last_index": 1, "last_term": 1, "forced": False, **fields}
    return node.hear_of(RequestVote, source, term=term, pre=pre, **request)


def test_a_vote_is_durable_before_it_is_said() -> None:
    node = Single()
    assert ask(node) == [
        Save(LogWrite(1, hard_state=HardState(2, 2, 1))),
        node.said(VoteReply, 2, term=2, pre=False, granted=True),
    ]


def test_a_vote_asked_for_again_waits_for_the_write_that_is_under_way() -> None:
    node = Single()
    ask(node)
    assert ask(node) == []
    assert node.core.saved(1, node.now) == [node.said(VoteReply, 2, term=2, pre=False, granted=True)]


def test_the_second_candidate_of_a_term_gets_no_vote() -> None:
    node = Single()
    node.core.saved(saves_of(ask(node))[0].number, node.now)
    assert ask(node, 3) == [node.said(VoteReply, 3, pre=False, granted=False)]


def test_the_vote_is_remembered_over_a_restart() -> None:
    node = Single(initial(term=2, vote=3))
    assert ask(node, 2) == [node.said(VoteReply, 2, pre=False, granted=False)]
    assert ask(node, 3) == [node.said(VoteReply, 3, pre=False, granted=True)]


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"), [(2, 2, False), (3, 1, False), (3, 2, True), (4, 1, True)]
)
def test_only_a_log_as_complete_as_the_own_gets_the_vote(
    last_term: int, last_index: int, granted: bool
) -> None:
    node = Single(initial(Entry(2, 3)))
    effects = ask(node, term=9, last_term=last_term, last_index=last_index)
    assert sends_of(effects)[-1].granted is granted


def test_a_pre_vote_changes_neither_term_nor_vote_nor_timer() -> None:
    node = Single()
    deadline = node.core.deadline
    assert ask(node, pre=True) == [node.said(VoteReply, 2, term=2, pre=True, granted=True)]
    assert ask(node, 3, pre=True) == [node.said(VoteReply, 3, term=2, pre=True, granted=True)]
    assert node.core.hard_state == HardState(1, None, 1)
    assert node.core.deadline == deadline


def test_a_refused_pre_vote_tells_the_term_so_that_the_asker_catches_up() -> None:
    node = Single(initial(term=7))
    assert ask(node, term=3, pre=True) == [node.said(VoteReply, 2, term=7, pre=True, granted=False)]
    asker = Single()
    asker.time_out()
    effects = asker.hear_of(VoteReply, term=7, pre=True, granted=False)
    assert effects == [Save(LogWrite(1, hard_state=HardState(7, None, 1)))]


def test_who_hears_a_leader_answers_no_candidate_until_the_timeout_is_over() -> None:
    node = Single()
    node.append()
    assert ask(node, 3, pre=True) == []
    assert ask(node, 3, term=9) == []
    assert node.term == 1
    node.now += node.config.election_timeout_s
    assert sends_of(ask(node, 3, pre=True))[0].granted


def test_an_election_that_the_leader_asked_for_is_not_refused_for_its_sake() -> None:
    node = Single()
    node.append()
    assert sends_of(ask(node, 3, forced=True))[0].granted


def test_a_leader_with_a_quorum_gives_no_votes() -> None:
    node = Single()
    node.lead()
    assert ask(node, 3, term=9) == []
    assert node.is_now(Role.LEADER)


def test_a_dead_leader_forgotten_no_longer_stands_in_the_way() -> None:
    node = Single()
    node.append()
    assert node.core.forget_leader(2, node.now) == [Deliver(LeaderChanged(None, 1))]
    assert sends_of(ask(node, 3, pre=True))[0].granted
    deadline = node.core.deadline
    assert deadline is not None
    assert deadline <= node.now + node.config.hint_delay_s_max
    assert {each.pre for each in sends_of(node.time_out())} == {True}


def test_word_of_another_death_changes_nothing() -> None:
    node = Single()
    node.append()
    assert node.core.forget_leader(3, node.now) == []
    assert node.core.leader == 2
    lease = Single(config=RaftConfig(lease_reads=True))
    lease.append()
    assert lease.core.forget_leader(2, lease.now) == [], "a lease relies on followers that wait"


def test_a_pre_candidate_asks_again_whoever_did_not_answer() -> None:
    node = Single()
    node.time_out()
    node.hear_of(VoteReply, 3, pre=True, granted=False)
    effects = node.time_out()
    assert [(each.target, each.pre) for each in sends_of(effects)] == [(2, True)]


def test_told_by_its_leader_a_node_stands_at_once_and_says_why() -> None:
    node = Single()
    node.append()
    effects = node.hear_of(TimeoutNow)
    assert [(each.pre, each.forced, each.term) for each in sends_of(effects)] == [(False, True, 2)] * 2
    assert node.hear_of(TimeoutNow, 3) == [], "and only by its leader"


def test_a_later_term_ends_a_leadership() -> None:
    node = Single()
    node.lead()
    term = node.term
    effects = node.hear_of(AppendReply, term=term + 3, success=False, index=0, round=0)
    assert effects[:2] == [
        Deliver(SteppedDown(term, "there is a later term")),
        Deliver(LeaderChanged(None, term + 3)),
    ]
    assert saves_of(effects)[0].hard_state == HardState(term + 3, None, 2)


def test_who_was_removed_cannot_depose_a_leader_with_a_term_raised_in_vain() -> None:
    node = Single()
    node.lead()
    assert node.hear_of(AppendReply, 9, term=99, success=False, index=0, round=0) == []
    assert node.is_now(Role.LEADER)


def test_a_leader_that_hears_no_quorum_steps_down_within_the_timeout() -> None:
    node = Single()
    node.lead()
    start = node.now
    while node.is_now(Role.LEADER):
        node.time_out()
    assert node.now - start <= node.config.election_timeout_s + 2 * node.config.heartbeat_interval_s


def test_a_leader_whose_disk_hangs_steps_down_though_all_answer() -> None:
    node = Single()
    node.lead()
    node.core.propose([b"x"], node.now)
    start = node.now
    while node.is_now(Role.LEADER):
        effects = node.time_out()
        for message in sends_of(effects):
            if isinstance(message, AppendEntries):
                node.acknowledge(message.target, 2, round=message.round)
    assert node.now - start <= node.config.election_timeout_s + 2 * node.config.heartbeat_interval_s
    assert node.core.statistics()["leaderships_lost"] == 1


def test_learners_and_strangers_do_not_stand_and_do_vote() -> None:
    learner = Single(initial(configuration=Configuration.of(member(2), member(3), learners=(member(1),))))
    assert learner.core.deadline is None
    assert sends_of(ask(learner))[0].granted, "it may have been promoted by what it has not heard yet"


def test_one_voter_elects_itself_once_its_disk_has_the_vote() -> None:
    node = Single(initial(configuration=Configuration.of(member(1))))
    effects = node.time_out()
    assert node.is_now(Role.CANDIDATE)
    node.save(effects)
    assert node.is_now(Role.LEADER)


def test_a_second_leader_of_one_term_is_not_believed() -> None:
    node = Single()
    node.append(source=2)
    assert node.append(source=3) == []
    assert node.core.leader == 2
    assert node.core.statistics()["second_leaders"] == 1


def test_two_of_three_elect_a_leader_though_the_third_is_ahead_in_terms() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.run(10)
    assert cluster.core(3).hard_state.term == 2, "a pre-candidate raises no term"
    cluster.heal()
    cluster.isolate(1)
    cluster.run(5)
    assert cluster.leader in (2, 3)
    assert cluster.core(1).role is not Role.LEADER


def test_without_pre_vote_and_check_quorum_a_rejoining_node_deposes_the_leader() -> None:
    config = RaftConfig(pre_vote=False, check_quorum=False)
    cluster = Cluster(3, config=config)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.run(10)
    assert cluster.core(3).hard_state.term > 4
    cluster.heal()
    cluster.run(5)
    assert cluster.core(cluster.leader).hard_state.term > 4
