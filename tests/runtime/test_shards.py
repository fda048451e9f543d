"""A group's links over real sockets: sums, deadlines, and what is not believed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from numpy.typing import NDArray

from p2pinfer.effects import Compute, DropCache, ExtendCache, Message, OpenCache
from p2pinfer.engine.api import EngineInput
from p2pinfer.engine.tensor_engine import GroupBroken
from p2pinfer.engine.tensor_shard import check_cuts
from p2pinfer.errors import ConfigError, RemoteProtocolError
from p2pinfer.ids import Contact, SessionId, Span
from p2pinfer.inference import partition
from p2pinfer.inference.partition import Worker, Workload
from p2pinfer.runtime.groups import Leader, cuts_of
from p2pinfer.runtime.shards import GroupSettings, Link, Member, rank_of
from p2pinfer.wire.messages.inference import Tensor
from p2pinfer.wire.messages.shards import (
    GroupRank,
    JoinGroup,
    ShardBatch,
    ShardCache,
    ShardPart,
    ShardStep,
)
from tests.engine.tiny import tiny_config
from tests.runtime.swarm import LOOPBACK, Peer, identity_of, running

F32 = NDArray[np.float32]
GROUP = bytes(16)
SESSION = SessionId(bytes(16))
SPAN = Span(2, 6)
WIDTH = 8
ROWS = Tensor("f4", (1, WIDTH), bytes(4 * WIDTH))


@asynccontextmanager
async def linked(count: int, deadline_s: float = 10.0) -> AsyncIterator[tuple[list[Peer], list[Link]]]:
    """Peers, and what each sees of the group that they form."""
    peers = [Peer(f"rank{number}") for number in range(count)]
    async with running(*peers):
        links = []
        for rank, peer in enumerate(peers):
            contacts = [each.contact for each in peers]
            link = Link(GROUP, contacts, rank, streams=peer.streams, deadline_s=deadline_s)
            peer.streams.receivers[ShardPart] = receiver(link)
            links.append(link)
        yield peers, links
        for link in links:
            link.end("the test is over")


def receiver(link: Link) -> Callable[[Contact, Message], None]:
    def receive(sender: Contact, message: Message) -> None:
        assert isinstance(message, ShardPart)
        link.receive(sender, message)

    return receive


async def in_thread(function: Callable[[F32], F32], part: F32, results: list[Any]) -> None:
    """What an engine's thread does; the sum or the error."""
    try:
        results.append(await trio.to_thread.run_sync(function, part))
    except GroupBroken as error:
        results.append(error)


def contact_of(name: str) -> Contact:
    return Contact(identity_of(name).peer_id, LOOPBACK)


def part_of(number: float, rows: int = 2) -> F32:
    return np.full((rows, WIDTH), number, np.float32)


async def test_all_ranks_get_the_same_sum_in_the_order_of_the_ranks() -> None:
    # Added in another order these give other bits: 1e8 swallows what comes after it.
    parts = [part_of(1.0), part_of(1e8), part_of(-1e8)]
    async with linked(3) as (_, links):
        for _ in range(20):
            sums: list[Any] = []
            async with trio.open_nursery() as nursery:
                for link, part in zip(links, parts, strict=True):
                    nursery.start_soon(in_thread, link.add_up, part, sums)
            for each in sums:
                np.testing.assert_array_equal(each, (parts[0] + parts[1]) + parts[2])


async def test_a_large_part_arrives_whole() -> None:
    rows = np.random.default_rng(3).standard_normal((4096, WIDTH * 32)).astype(np.float32)
    async with linked(2) as (_, links):
        sums: list[Any] = []
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(in_thread, link.add_up, rows, sums)
        for each in sums:
            np.testing.assert_array_equal(each, rows + rows)


async def test_who_waits_for_a_silent_rank_is_told_within_the_deadline() -> None:
    async with linked(2, deadline_s=0.2) as (_, links):
        results: list[Any] = []
        started = time.monotonic()
        await in_thread(links[0].add_up, part_of(1.0), results)
        assert 0.2 <= time.monotonic() - started < 5.0
        assert "gave no part within 0.2 s" in str(results[0])
        await links[0].ended.wait()
        await in_thread(links[0].add_up, part_of(1.0), results)
        assert isinstance(results[1], GroupBroken), "a group that has ended computes nothing more"


async def test_who_waits_is_told_at_once_when_the_group_ends() -> None:
    async with linked(2, deadline_s=600.0) as (_, links):
        results: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, links[0].add_up, part_of(1.0), results)
            await trio.testing.wait_all_tasks_blocked(0.05)
            links[0].end("the member died")
        assert str(results[0]) == "the member died"


@pytest.mark.parametrize(
    ("turn", "size", "problem"), [(0, 63, "63 bytes"), (1, 64, "for turn 1"), (0, 128, "128 bytes")]
)
async def test_a_part_that_is_not_due_ends_the_group(turn: int, size: int, problem: str) -> None:
    async with linked(2) as (peers, links):
        wrong = ShardPart(group=GROUP, turn=turn, data=bytes(size))
        await peers[1].streams.send(peers[0].contact, wrong)
        results: list[Any] = []
        await in_thread(links[0].add_up, part_of(1.0), results)
        assert problem in str(results[0])
        await links[0].ended.wait()


async def test_a_rank_that_sends_ahead_ends_the_group_and_a_stranger_is_not_heard() -> None:
    async with linked(2) as (peers, links):
        part = ShardPart(group=GROUP, turn=0, data=bytes(64))
        for _ in range(10):
            links[0].receive(contact_of("stranger"), part)
            links[0].receive(peers[0].contact, part)
        assert not links[0].reason
        for _ in range(2):
            links[0].receive(peers[1].contact, part)
        assert not links[0].reason
        links[0].receive(peers[1].contact, part)
        assert "nobody waits for" in links[0].reason


# --- what a leader may ask of a member ----------------------------------------------------------


class RecordingWorker:
    """Takes what a worker takes, and does nothing."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting = 0

    def submit(self, effect: Any) -> None:
        self.asked.append(effect)

    def statistics(self) -> dict[str, int]:
        return {"waiting": self.waiting}


def shard_step(**changes: Any) -> ShardStep:
    fields: dict[str, Any] = {"session": SESSION, "base": 0, "start": 2, "end": 6, "hidden": ROWS}
    return ShardStep(**(fields | changes))


@asynccontextmanager
async def membership() -> AsyncIterator[tuple[Member, RecordingWorker, Contact]]:
    async with linked(2) as (peers, links):
        worker: Any = RecordingWorker()
        yield Member(links[1], worker, SPAN, WIDTH), worker, peers[0].contact


async def test_a_member_does_what_its_leader_says_in_order() -> None:
    async with membership() as (member, worker, leader):
        member.receive(leader, ShardCache(group=GROUP, session=SESSION, positions_max=5))
        member.receive(leader, ShardCache(group=GROUP, session=SESSION, positions_max=9, extends=True))
        member.receive(leader, ShardBatch(group=GROUP, steps=(shard_step(),)))
        member.receive(leader, ShardCache(group=GROUP, session=SESSION, positions_max=0))
        assert worker.asked == [
            OpenCache(SESSION, 5),
            ExtendCache(SESSION, 9),
            Compute((EngineInput(SESSION, 0, hidden=ROWS, layers=SPAN),)),
            DropCache(SESSION),
        ]


async def test_a_member_hears_nobody_but_its_leader() -> None:
    async with membership() as (member, worker, _):
        stranger = contact_of("stranger")
        member.receive(stranger, ShardCache(group=GROUP, session=SESSION, positions_max=5))
        member.receive(stranger, ShardBatch(group=GROUP, steps=(shard_step(),)))
        assert worker.asked == []
        assert not member.link.reason


@pytest.mark.parametrize(
    "step",
    [
        shard_step(start=1),
        shard_step(end=7),
        shard_step(start=4, end=4),
        shard_step(hidden=Tensor("f4", (1, WIDTH + 1), bytes(4 * (WIDTH + 1)))),
        shard_step(hidden=Tensor("f4", (1 << 24, WIDTH), bytes(4 * WIDTH))),
        shard_step(hidden=Tensor("f4", (WIDTH,), bytes(4 * WIDTH))),
        None,
    ],
)
async def test_a_step_of_another_form_ends_the_group(step: ShardStep | None) -> None:
    async with membership() as (member, worker, leader):
        member.receive(leader, ShardBatch(group=GROUP, steps=(shard_step(), step) if step else ()))
        assert "not of this span" in member.link.reason
        assert worker.asked == []


async def test_a_leader_that_floods_its_member_ends_the_group() -> None:
    batch = ShardBatch(group=GROUP, steps=(shard_step(),))
    async with membership() as (member, worker, leader):
        for _ in range(5):
            member.receive(leader, batch)
            member.on_computed()
        member.receive(leader, batch)
        member.receive(leader, batch)
        assert not member.link.reason
        member.receive(leader, batch)
        assert "more batches" in member.link.reason
        assert len(worker.asked) == 7
    async with membership() as (member, worker, leader):
        worker.waiting = 1 << 20
        member.receive(leader, ShardCache(group=GROUP, session=SESSION, positions_max=5))
        assert "faster than this peer can follow" in member.link.reason
        assert worker.asked == []


def test_a_member_joins_only_a_group_that_is_in_order() -> None:
    leader, own, third = (contact_of(name) for name in ("rank0", "rank1", "rank2"))
    ranks = tuple(GroupRank(each, n, n + 1, n, n + 1) for n, each in enumerate((leader, own, third)))
    good = JoinGroup(group=GROUP, digest=bytes(32), start=0, end=4, ranks=ranks, deadline_ms=1000)
    assert own.peer is not None
    assert rank_of(good, leader, own.peer) == 1
    for ranks_of, asking, problem in (
        (ranks, third, "led by its first rank"),
        ((), leader, "led by its first rank"),
        (ranks[::2], leader, "no member"),
        (ranks[1:], own, "no member"),
        ((*ranks, ranks[1]), leader, "once"),
        ((*ranks, replace(ranks[0], contact=Contact(None, leader.endpoint))), leader, "once"),
    ):
        with pytest.raises(RemoteProtocolError, match=problem):
            rank_of(replace(good, ranks=ranks_of), asking, own.peer)
    with pytest.raises(RemoteProtocolError, match="at least one layer"):
        rank_of(replace(good, end=1, start=1), leader, own.peer)


# --- the leader ---------------------------------------------------------------------------------


async def test_a_leader_without_its_group_refuses_and_never_waits() -> None:
    async with running(peer := Peer("rank0")):
        pass

    def request() -> JoinGroup:
        raise AssertionError("nothing is formed")

    def registered(link: Link) -> Any:
        raise AssertionError("nothing is formed")

    leader = Leader(peer.streams, request, registered, GroupSettings())
    with pytest.raises(GroupBroken, match="not formed"):
        leader.announce([EngineInput(SESSION, 0, hidden=ROWS, layers=SPAN)])
    with pytest.raises(GroupBroken, match="not formed"):
        leader.add_up(part_of(1.0))
    leader.change_cache(DropCache(SESSION))


@pytest.mark.parametrize("field", ["deadline_s", "rejoin_interval_s"])
def test_settings_outside_their_range_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        GroupSettings(**{field: 0.0})


def test_the_tensor_strategy_gives_cuts_that_a_group_takes() -> None:
    speeds = {"rank0": 0.001, "rank1": 0.002}
    workers = [Worker(peer=identity_of(name).peer_id, layer_s=layer_s) for name, layer_s in speeds.items()]
    workload = Workload(layer_count=4, kv_head_count=3, ffn_column_count=40)
    config = tiny_config(head_count=9, kv_head_count=3)
    cuts = cuts_of(partition.tensor(workers, workload))
    check_cuts(config, cuts)
    assert [len(cut.heads) for cut in cuts] == [2, 1]
    with pytest.raises(ConfigError, match="strategy tensor"):
        cuts_of(partition.layerwise(workers, workload))
