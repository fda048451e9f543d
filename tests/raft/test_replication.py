"""A leader's sending: probe, stream, window, batches, commitment and rounds."""

from __future__ import annotations

from p2pinfer.effects import Deliver, Save, Send
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import Committed, CommittedAt, LogLost, ProposalDone
from p2pinfer.raft.packing import pack_entries, unpack_entries
from p2pinfer.raft.types import Entry, HardState, LogWrite, Role
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply
from tests.raft.cluster import Cluster, news_of, saves_of, sends_of
from tests.raft.single import Single

SMALL = RaftConfig(append_entries_max=2, inflight_messages_max=3)


def leading(config: RaftConfig | None = None) -> Single:
    node = Single(config=config)
    node.lead()
    return node


def test_many_proposals_are_one_message_to_each_and_one_write() -> None:
    node = leading()
    effects = node.core.propose([b"a", b"b"], node.now)[1]
    entries = (Entry(3, 2, b"a"), Entry(4, 2, b"b"))
    append = {"prev_index": 2, "prev_term": 2, "commit": 2, "round": 1, "entries": pack_entries(entries)}
    assert effects == [
        node.said(AppendEntries, 2, **append),
        node.said(AppendEntries, 3, **append),
        Save(LogWrite(3, entries=entries, hard_state=HardState(2, 1, 2))),
    ]
    first, second = sends_of(effects)
    assert first.entries is second.entries, "packed once for both"


def test_a_quorum_with_the_own_disk_commits() -> None:
    node = leading()
    effects = node.core.propose([b"a"], node.now)[1]
    assert node.acknowledge(2) == [], "the own disk does not have it"
    done = [Deliver(Committed((Entry(3, 2, b"a"),))), Deliver(ProposalDone(1, CommittedAt(3, 2)))]
    assert node.save(effects) == done


def test_two_followers_commit_without_the_leaders_disk_and_it_is_handed_out_with_it() -> None:
    node = leading()
    effects = node.core.propose([b"a"], node.now)[1]
    node.acknowledge(2)
    assert node.acknowledge(3) == []
    assert node.core.hard_state.commit == 3
    assert [each.entries for each in news_of(node.save(effects), Committed)] == [(Entry(3, 2, b"a"),)]


def test_the_window_stops_the_stream_and_answers_open_it() -> None:
    node = leading(SMALL)
    effects = node.core.propose([b"%d" % step for step in range(20)], node.now)[1]
    sent = [each for each in sends_of(effects) if each.target == 2]
    assert [(each.prev_index, len(unpack_entries(each.entries, 1))) for each in sent] == [
        (2, 2),
        (4, 2),
        (6, 2),
    ]
    effects = node.acknowledge(2, 6)
    assert [each.prev_index for each in sends_of(effects)] == [8, 10]


def test_a_follower_that_refuses_is_probed_with_one_message_at_a_time() -> None:
    node = leading(SMALL)
    node.core.propose([b"%d" % step for step in range(20)], node.now)
    refusal = {"success": False, "round": 1, "hint_index": 2, "hint_term": 2, "last_index": 2}
    effects = node.hear_of(AppendReply, 2, index=4, **refusal)
    assert [each.prev_index for each in sends_of(effects)] == [2]
    assert node.hear_of(AppendReply, 2, index=6, **refusal) == [], "it is known already"
    effects = node.acknowledge(2, 4)
    assert [each.prev_index for each in sends_of(effects)] == [4, 6, 8], "in step again"


def test_a_broken_stream_is_taken_up_where_the_follower_was() -> None:
    node = leading()
    node.core.propose([b"a"], node.now)
    node.core.disconnected(
        node.said(AppendEntries, 2, prev_index=0, prev_term=0, commit=0, round=0).to, node.now
    )
    effects = node.time_out()
    beats = [each for each in sends_of(effects) if each.target == 2 and each.wants_reply]
    while not beats:
        beats = [each for each in sends_of(node.time_out()) if each.target == 2 and each.wants_reply]
    assert (beats[0].prev_index, beats[0].entries) == (2, b"")
    effects = node.acknowledge(2, 2, round=beats[0].round)
    assert [unpack_entries(each.entries, 3) for each in sends_of(effects)] == [(Entry(3, 2, b"a"),)]


def test_followers_learn_soon_that_more_is_committed() -> None:
    node = leading()
    effects = node.core.propose([b"a"], node.now)[1]
    node.save(effects)
    node.acknowledge(2)
    assert node.core.deadline == node.now + node.config.commit_notice_s
    notices = sends_of(node.time_out())
    assert [(each.target, each.commit, each.wants_reply) for each in notices] == [
        (2, 3, False),
        (3, 3, False),
    ]
    assert not [each for each in sends_of(node.core.tick(node.now)) if not each.wants_reply], "and once"


def test_answers_from_nowhere_are_counted_and_change_nothing() -> None:
    node = leading()
    assert node.acknowledge(9, 2) == []
    assert node.acknowledge(2, 99) == []
    assert node.acknowledge(2, 2, round=99) == []
    assert node.acknowledge(2, 2, term=1) == []
    statistics = node.core.statistics()
    assert (
        statistics["replies_of_strangers"],
        statistics["absurd_replies"],
        statistics["stale_replies"],
    ) == (1, 2, 1)


def test_a_wiped_disk_with_an_old_id_is_noticed_and_no_longer_counted() -> None:
    node = leading()
    node.time_out(), node.time_out()
    effects = node.hear_of(
        AppendReply, 3, success=False, index=2, round=2, hint_index=0, hint_term=0, last_index=0
    )
    assert effects == [Deliver(LogLost(3))]
    assert [each.state for each in node.core.followers()] == ["replicate", "lost"]
    effects = node.core.propose([b"a"], node.now)[1]
    assert [each.target for each in sends_of(effects)] == [2]
    node.save(effects)
    node.acknowledge(3, 3)
    assert node.core.hard_state.commit == 2, "what it says counts for nothing"
    node.acknowledge(2, 3)
    assert node.core.hard_state.commit == 3, "the cluster goes on"


def test_a_refusal_on_its_way_while_more_was_acknowledged_is_no_lost_log() -> None:
    node = leading()
    node.core.propose([b"a"], node.now)
    node.acknowledge(3, 3)
    effects = node.hear_of(
        AppendReply, 3, success=False, index=3, round=1, hint_index=2, hint_term=2, last_index=2
    )
    assert news_of(effects, LogLost) == []


def test_a_follower_that_was_away_gets_what_it_missed_in_order() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    for step in range(200):
        cluster.propose(1, b"%d" % step)
        cluster.settle()
    cluster.heal()
    cluster.run(1.0)
    assert cluster.nodes[3].state == cluster.nodes[1].state
    assert cluster.core(3).statistics()["snapshot_index"] == 0


def test_a_learner_gets_everything_and_decides_nothing() -> None:
    cluster = Cluster(2, learners=1)
    cluster.elect(1)
    cluster.isolate(2)
    cluster.propose(1, b"a")
    cluster.settle()
    assert cluster.core(3).log.last_index == 3
    assert cluster.core(1).hard_state.commit == 2
    cluster.heal()
    cluster.run(0.3)
    assert [len(at.state) for at in cluster.nodes.values()] == [3, 3, 3]


def test_every_effect_of_a_leader_is_sent_to_where_its_configuration_says() -> None:
    node = leading()
    effects = node.core.propose([b"a"], node.now)[1]
    assert {each.to for each in effects if isinstance(each, Send)} == {
        node.core.configuration.contact_of(2),
        node.core.configuration.contact_of(3),
    }
    assert saves_of(effects)
    assert node.core.role is Role.LEADER
