"""A peer that drains hands its sessions over, and a session moves by its asker's wish: over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pinfer import Sampling
from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.errors import LocalProtocolError, NoChain
from p2pinfer.ids import PeerId
from p2pinfer.runtime.answer import Answer
from p2pinfer.runtime.peer import Peer
from tests.e2e.conftest import TINY
from tests.e2e.test_placing import peer_of

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def swarm_of(directory: Path, cache: Path, *spans: str) -> AsyncIterator[list[Peer]]:
    """One peer that asks, and one for each span."""
    async with peer_of(directory / "me", cache, None) as me, trio.open_nursery() as nursery:
        done, peers = trio.Event(), [me]

        async def hold(number: int, span: str, task_status: trio.TaskStatus[None]) -> None:
            home = directory / f"{number}"
            async with peer_of(home, cache, me.invite, model=TINY, span=span) as peer:
                peers.append(peer)
                task_status.started()
                await done.wait()

        for number, span in enumerate(spans):
            await nursery.start(hold, number, span)
        try:
            await wait_until(lambda: all(knows_all(p, len(spans)) for p in peers), timeout_s=10.0)
            yield peers
        finally:
            done.set()


def knows_all(peer: Peer, holder_count: int) -> bool:
    return sum(len(held) for held in peer._parts.core._book.by_digest.values()) == holder_count


def drains(by: Peer, peer: Peer) -> bool:
    """Whether one peer knows of another that it drains."""
    (held,) = by._parts.core._book.by_digest.values()
    return any(holder.peer == peer.id and holder.draining for holder in held)


def ask(peer: Peer, count: int = 80) -> Answer:
    sampling = Sampling(token_count_max=count, stop_tokens=(0,))
    return peer.generate("hello", model=TINY, sampling=sampling, raw=True)


async def read(answer: Answer, count: int = 1 << 30) -> list[int]:
    """Read so many more tokens, or to the end."""
    while count and await anext(answer, None) is not None:
        count -= 1
    return list(answer.token_ids)


def holders(answer: Answer) -> set[PeerId | None]:
    return {hop.contact.peer for hop in answer.chain}


async def test_a_drained_peer_hands_over_and_serves_again_once_that_is_taken_back(
    tmp_path: Path, tiny_cache: Path
) -> None:
    async with swarm_of(tmp_path, tiny_cache, "0:3", "3:6", "3:6") as (me, _, *uppers):
        expected = await read(ask(me))
        answer = ask(me)
        await read(answer, 5)
        leaving = next(peer for peer in uppers if peer.id in holders(answer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, answer)
            assert await leaving.drain(timeout_s=10.0)
        assert leaving.status()["phase"] == "draining"
        assert list(answer.token_ids) == expected
        assert len(answer.recoveries) == 1
        after = ask(me)
        assert await read(after) == expected
        assert leaving.id not in holders(after)
        (other,) = (peer for peer in uppers if peer is not leaving)
        assert not await other.drain(timeout_s=0.3)  # nobody else would hold its layers
        await leaving.resume()
        assert leaving.status()["phase"] == "serving"
        await wait_until(lambda: other._parts.core.is_drained, timeout_s=10.0)
        await wait_until(lambda: not drains(me, leaving), timeout_s=10.0)
        again = ask(me)
        assert await read(again) == expected
        assert leaving.id in holders(again)


async def test_a_session_moves_to_the_peer_that_is_named(tmp_path: Path, tiny_cache: Path) -> None:
    async with swarm_of(tmp_path, tiny_cache, "0:3", "3:6", "3:6") as (me, lower, *uppers):
        expected = await read(ask(me))
        answer = ask(me)
        assert getattr(answer, "session") is None  # noqa: B009 -- mypy would think that it stays so
        await read(answer, 5)
        assert answer.session is not None
        away, to = sorted(uppers, key=lambda peer: peer.id not in holders(answer))
        with pytest.raises(LocalProtocolError, match="does not run through"):
            await me.move(answer.session, to.id)
        with pytest.raises(NoChain):
            await me.move(answer.session, lower.id)
        await me.move(answer.session, away.id, to.id)
        assert await read(answer) == expected
        assert holders(answer) == {lower.id, to.id}
        assert len(answer.recoveries) == 1
