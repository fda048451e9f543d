"""Faults found in real Raft systems that could occur here, each named by where it was seen.

Those that another file tests by its own name are not repeated: votes counted twice and promoted learners
(test_elections), truncation without conflict (test_following), reads lost or early (test_reads), wrong
majorities (test_quorum), transfers under load (test_transfer), wiped disks and stray messages (test_core).
"""

from __future__ import annotations

from p2pinfer.raft.news import Committed, ProposalDone, SnapshotInstalled
from p2pinfer.raft.types import Change, ChangeKind, Configuration, Entry, HardState, Role
from tests.raft.cluster import Cluster, contact, member, news_of
from tests.raft.single import Single, initial
from tests.raft.test_snapshots import CHUNKED, SNAPSHOT, chunk


def test_a_single_voter_commits_nothing_before_its_disk_has_it() -> None:
    # etcd#14370
    node = Single(initial(configuration=Configuration.of(member(1))))
    node.save(node.save(node.time_out()))
    before = node.core.hard_state.commit
    _, effects = node.core.propose([b"a"], node.now)
    assert news_of(effects) == []
    assert node.core.hard_state.commit == before
    assert [type(each) for each in news_of(node.save(effects))] == [Committed, ProposalDone]


def test_two_of_three_elect_a_leader_though_the_longer_log_has_the_lower_term() -> None:
    # hashicorp/raft#606: pre-votes that were refused told no term, and neither could ever win.
    cluster = Cluster(3)
    cluster.isolate(3)
    ahead, longer = cluster.nodes[1].disk, cluster.nodes[2].disk
    ahead.hard_state = HardState(9, 1, 1)
    longer.entries.append(Entry(2, 1, b"more"))
    for node in (1, 2):
        cluster.crash(node)
    cluster.run(6)
    assert cluster.core(2).role is Role.LEADER
    assert cluster.core(2).hard_state.term > 9


def test_terms_do_not_begin_anew_when_all_restart() -> None:
    # PySyncObj#84, #202
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"kept")
    cluster.run(0.5)
    for node in cluster.nodes:
        cluster.crash(node)
    cluster.run(5)
    assert cluster.core(cluster.leader).hard_state.term > 2
    assert all(b"kept" in state[-2] + state[-1] for state in (at.state for at in cluster.nodes.values()))


def test_a_late_confirmation_of_an_older_write_takes_nothing_back() -> None:
    # openraft PR 1964: completions of the disk out of order.
    node = Single()
    node.append(Entry(2, 1))
    node.append(Entry(3, 1))
    node.core.saved(2, node.now)
    node.core.saved(1, node.now)
    assert node.core.durable_index == 3
    assert node.core.statistics()["unexpected_saved"] == 1


def test_entries_after_a_snapshot_wait_until_it_is_installed() -> None:
    # etcd#4061: a snapshot and the entries after it raced for the state machine.
    node = Single(config=CHUNKED)
    for offset in (0, 4, 8):
        chunk(node, offset)
    node.append(Entry(10, 3, b"next"), prev_index=9, prev_term=3, term=3, commit=10)
    assert node.core.applied_index == 1
    assert news_of(node.core.saved(node.core.statistics()["last_index"], node.now)) == [
        SnapshotInstalled(SNAPSHOT),
        Committed((Entry(10, 3, b"next"),)),
    ]


def test_a_membership_survives_two_compactions_and_a_restart() -> None:
    # async-raft dba24036
    cluster = Cluster(3, spare=1)
    cluster.elect(1)
    cluster.do(1, cluster.core(1).change([Change(ChangeKind.ADD_VOTER, 4, contact(4))], cluster.now)[1])
    cluster.run(0.5)
    for _ in range(2):
        for step in range(30):
            cluster.propose(1, b"%d" % step)
        cluster.run(0.5)
        for node in cluster.nodes:
            cluster.compact(node)
        cluster.sync_all()
    for node in cluster.nodes:
        cluster.crash(node)
        assert cluster.core(node).configuration.voters == (1, 2, 3, 4)


def test_a_change_ends_though_its_leader_belongs_to_the_outgoing_half_alone_and_dies() -> None:
    # etcd#12359: nobody left the joint configuration.
    cluster = Cluster(3, spare=2)
    cluster.elect(1)
    changes = [
        Change(ChangeKind.REMOVE, 1),
        *(Change(ChangeKind.ADD_VOTER, node, contact(node)) for node in (4, 5)),
    ]
    cluster.do(1, cluster.core(1).change(changes, cluster.now)[1])
    while not all(cluster.core(node).configuration.is_joint for node in (2, 3)):
        cluster.deliver() if cluster.wire else cluster.sync_all()
    cluster.sync_all()
    cluster.isolate(1)
    cluster.run(8)
    assert cluster.core(cluster.leader).configuration == Configuration.of(*map(member, (2, 3, 4, 5)))
