"""Snapshots: taken, sent in chunks, resumed, checked, installed; and what is refused."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from p2pinfer.effects import Deliver, Effect, Save
from p2pinfer.errors import LocalProtocolError
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.news import Committed, SnapshotInstalled
from p2pinfer.raft.packing import record_of
from p2pinfer.raft.types import Configuration, Entry, HardState, LogWrite, Snapshot
from p2pinfer.wire.messages.raft import AppendReply, InstallSnapshot, SnapshotReply
from tests.raft.cluster import Cluster, member, news_of, saves_of, sends_of
from tests.raft.single import THREE, Single, initial

SNAPSHOT = Snapshot.of(9, 3, Configuration.of(member(1), member(2)), b"0123456789")
CHUNKED = RaftConfig(snapshot_chunk_bytes=4)


def chunk(node: Single, offset: int, snapshot: Snapshot = SNAPSHOT, **fields: Any) -> list[Effect]:
    meta, data = snapshot.meta, snapshot.data[offset : offset + 4]
    given = {
        "term": 3,
        "index": meta.index,
        "index_term": meta.term,
        "configuration": record_of(meta.configuration),
        "size_bytes": meta.size_bytes,
        "digest": meta.digest,
        "offset": offset,
        "crc": zlib.crc32(data),
        "data": data,
        "round": 1,
        **fields,
    }
    return node.hear_of(InstallSnapshot, **given)


def wanted(effects: Sequence[Effect]) -> list[tuple[int, bool]]:
    return [(each.offset, each.installed) for each in sends_of(effects) if isinstance(each, SnapshotReply)]


def test_a_snapshot_is_put_together_saved_acknowledged_and_then_handed_out() -> None:
    node = Single(config=CHUNKED)
    first = chunk(node, 0)
    node.core.saved(1, node.now)  # the new term
    assert wanted(first) == [(4, False)]
    assert wanted(chunk(node, 4)) == [(8, False)]
    effects = chunk(node, 8)
    write = LogWrite(2, snapshot=SNAPSHOT, truncate_from=10, compact_to=9, hard_state=HardState(3, None, 9))
    reply = node.said(SnapshotReply, index=9, offset=0, installed=True, round=1)
    assert [each for each in effects if not isinstance(each, Deliver)] == [Save(write), reply]
    assert news_of(node.core.saved(2, node.now)) == [SnapshotInstalled(SNAPSHOT)]
    assert node.core.applied_index == 9
    assert node.core.configuration.voters == (1, 2)
    effects = node.append(Entry(10, 3, b"next"), term=3, commit=10)
    assert news_of(node.save(effects), Committed) == [Committed((Entry(10, 3, b"next"),))]


def test_a_lost_or_repeated_chunk_is_asked_for_by_its_offset() -> None:
    node = Single(config=CHUNKED)
    chunk(node, 0)
    node.core.saved(1, node.now)
    assert wanted(chunk(node, 8)) == [(4, False)]
    assert wanted(chunk(node, 0)) == [(4, False)]


def test_another_leader_goes_on_with_the_same_snapshot_where_it_was() -> None:
    node = Single(config=CHUNKED)
    chunk(node, 0)
    effects = chunk(node, 4, term=4)
    assert wanted(effects) == [(8, False)]


def test_a_damaged_chunk_is_asked_for_again_and_a_damaged_whole_from_the_start() -> None:
    node = Single(config=CHUNKED)
    chunk(node, 0)
    node.core.saved(1, node.now)
    assert wanted(chunk(node, 4, crc=1)) == [(4, False)]
    other = replace(SNAPSHOT, data=b"0123456780")
    chunk(node, 4, other)
    assert wanted(chunk(node, 8, other)) == [(0, False)]
    statistics = node.core.statistics()
    assert (statistics["damaged_chunks"], statistics["damaged_snapshots"]) == (1, 1)


def test_a_snapshot_too_large_is_refused_before_anything_is_kept() -> None:
    node = Single(config=RaftConfig(snapshot_chunk_bytes=4, snapshot_size_bytes_max=9))
    assert wanted(chunk(node, 0)) == [(0, False)]
    assert node.core.statistics()["snapshots_too_large"] == 1


def test_more_data_than_announced_is_not_kept() -> None:
    node = Single(config=CHUNKED)
    chunk(node, 0, size_bytes=3)
    assert node.core.statistics()["chunks_out_of_place"] == 1


def test_a_snapshot_of_what_is_committed_here_changes_nothing() -> None:
    entries = [Entry(index, 3) for index in range(2, 12)]
    node = Single(initial(*entries, commit=11))
    effects = chunk(node, 0)
    assert wanted(effects) == [(0, True)]
    assert saves_of(effects) == []


def test_a_log_that_has_the_snapshots_last_entry_keeps_what_follows() -> None:
    entries = [Entry(index, 3) for index in range(2, 12)]
    node = Single(initial(*entries, commit=1), CHUNKED)
    for offset in (0, 4):
        chunk(node, offset)
    effects = chunk(node, 8)
    assert saves_of(effects) == []
    assert (node.core.log.last_index, node.core.hard_state.commit) == (11, 9)
    assert [entry.index for each in news_of(effects, Committed) for entry in each.entries] == list(
        range(2, 10)
    )


def test_a_leader_sends_a_snapshot_to_who_needs_what_is_compacted() -> None:
    snapshot = Snapshot.of(5, 1, THREE, b"0123456789")
    node = Single(initial(snapshot=snapshot, commit=5), CHUNKED)
    node.save(node.become_leader())
    refusal = {"success": False, "round": 1, "hint_index": 0, "hint_term": 0, "last_index": 0}
    (first,) = sends_of(node.hear_of(AppendReply, 2, index=5, **refusal))
    assert (first.index, first.offset, first.data) == (5, 0, b"0123")
    assert [each.state for each in node.core.followers()] == ["snapshot", "probe"]
    reply = {"index": 5, "installed": False, "round": 1}
    (second,) = sends_of(node.hear_of(SnapshotReply, 2, offset=4, **reply))
    assert (second.offset, second.data) == (4, b"4567")
    assert node.hear_of(SnapshotReply, 2, offset=4, **reply) == [], "the chunk is under way"
    (resumed,) = sends_of(node.hear_of(SnapshotReply, 2, offset=8, **reply))
    assert resumed.data == b"89"
    effects = node.hear_of(SnapshotReply, 2, index=5, offset=0, installed=True, round=1)
    assert [(each.prev_index, each.prev_term) for each in sends_of(effects)] == [(5, 1)]
    assert [each.state for each in node.core.followers()] == ["replicate", "probe"]


def test_only_what_was_handed_out_can_be_compacted_and_no_more_than_allowed() -> None:
    node = Single(config=RaftConfig(snapshot_chunk_bytes=4, snapshot_size_bytes_max=8))
    with pytest.raises(LocalProtocolError, match="not handed out"):
        node.core.compact(2, b"", node.now)
    with pytest.raises(LocalProtocolError, match="at most 8"):
        node.core.compact(1, bytes(9), node.now)
    assert node.core.compact(0, b"", node.now) == []


def test_compaction_writes_the_snapshot_and_keeps_trailing_entries() -> None:
    entries = [Entry(index, 1) for index in range(2, 12)]
    node = Single(initial(*entries, commit=11), RaftConfig(trailing_entries=3))
    effects = node.core.compact(10, b"state", node.now)
    snapshot = Snapshot.of(10, 1, THREE, b"state")
    assert effects == [Save(LogWrite(1, snapshot=snapshot, compact_to=7, hard_state=HardState(1, None, 11)))]
    assert node.core.log.first_index == 8


def catching_up(cluster: Cluster) -> None:
    """Node 3 is away while so much is written that it needs a snapshot."""
    cluster.elect(1)
    cluster.isolate(3)
    for step in range(100):
        cluster.propose(1, b"%d" % step)
        cluster.settle()
    cluster.compact(1)
    cluster.heal()


def test_who_was_away_for_long_gets_a_snapshot_and_then_entries() -> None:
    cluster = Cluster(3)
    catching_up(cluster)
    cluster.run(1)
    assert cluster.nodes[3].state == cluster.nodes[1].state
    assert cluster.core(3).statistics()["snapshots_installed"] == 1
    assert [each.state for each in cluster.core(1).followers()] == ["replicate", "replicate"]


def test_a_snapshot_survives_lost_chunks_and_a_change_of_leader() -> None:
    cluster = Cluster(3)
    catching_up(cluster)
    cluster.compact(2)
    lost = 0
    while not cluster.core(3).statistics().get("snapshots_installed"):
        cluster.now += 0.05
        for node in cluster.nodes:
            cluster.tick(node)
        while cluster.wire:
            if isinstance(cluster.wire[0][1], InstallSnapshot) and lost < 3:
                lost += 1
                cluster.wire.pop(0)
            else:
                cluster.deliver()
                cluster.sync_all()
        if lost == 3:
            lost += 1
            cluster.do(1, cluster.core(1).transfer(2, cluster.now))
    cluster.run(1)
    assert cluster.leader == 2
    assert cluster.nodes[3].state == cluster.nodes[2].state


def test_two_snapshots_close_together_are_no_trouble() -> None:
    cluster = Cluster(3)
    catching_up(cluster)
    cluster.run(0.06)
    for step in range(60):
        cluster.propose(1, b"more %d" % step)
    cluster.settle()
    cluster.compact(1)
    cluster.run(3)
    assert cluster.nodes[3].state == cluster.nodes[1].state


def test_a_restart_begins_with_the_snapshot_and_hands_out_the_rest() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for step in range(30):
        cluster.propose(1, b"%d" % step)
    cluster.run(0.3)
    cluster.compact(2)
    cluster.sync_all()
    cluster.propose(1, b"later")
    cluster.run(0.3)
    before = list(cluster.nodes[2].state)
    cluster.crash(2)
    cluster.run(0.3)
    assert cluster.nodes[2].state == before
