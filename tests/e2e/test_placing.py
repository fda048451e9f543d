"""A peer that may choose its layers moves to where the swarm lacks some, and answers go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer import Sampling, open_peer
from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.runtime import placing, serving
from p2pinfer.runtime.peer import Peer
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def peer_of(directory: Path, cache: Path, invite: str | None, **settings: Any) -> AsyncIterator[Peer]:
    fixed: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "profile": "local",
        "engine": "numpy",
        "data_dir": str(directory),
        "cache_dir": str(cache),
    }
    if invite is not None:
        fixed["join"] = [invite]
    async with open_peer(**fixed, **settings) as peer:
        yield peer


async def text_of(peer: Peer) -> list[int]:
    answer = peer.generate("hello", model=TINY, sampling=Sampling(token_count_max=12), raw=True)
    async for _ in answer:
        pass
    return list(answer.token_ids)


async def test_a_peer_fills_the_gap_that_another_leaves(
    tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_capacity", lambda *_: 3)
    monkeypatch.setattr(placing.Placer.__init__, "__defaults__", (0.3,))
    go = trio.Event()

    async def be_upper(invite: str | None, task_status: trio.TaskStatus[None]) -> None:
        async with peer_of(tmp_path / "upper", tiny_cache, invite, model=TINY, span="3:6"):
            task_status.started()
            await go.wait()

    async with (
        peer_of(tmp_path / "me", tiny_cache, None) as me,
        peer_of(tmp_path / "low", tiny_cache, me.invite, model=TINY, span="0:3") as low,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(be_upper, me.invite)
        await wait_until(lambda: is_whole(me), timeout_s=10.0)
        async with peer_of(tmp_path / "mover", tiny_cache, me.invite, model=TINY) as mover:
            assert low.status()["span"] == mover.status()["span"] == "0:3"
            await wait_until(lambda: is_whole(me), timeout_s=10.0)
            expected = await text_of(me)
            go.set()
            await wait_until(lambda: has_moved(mover), timeout_s=20.0)
            await wait_until(lambda: is_whole(me), timeout_s=10.0)
            assert await text_of(me) == expected


async def test_a_newcomer_takes_the_layers_of_a_peer_that_drains(
    tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_capacity", lambda *_: 3)
    async with (
        peer_of(tmp_path / "low", tiny_cache, None, model=TINY, span="0:3") as low,
        peer_of(tmp_path / "high", tiny_cache, low.invite, model=TINY, span="3:6") as high,
    ):
        await wait_until(lambda: is_whole(low), timeout_s=10.0)
        assert not await high.drain(timeout_s=0.5)
        async with peer_of(tmp_path / "new", tiny_cache, low.invite, model=TINY) as new:
            assert new.status()["span"] == "3:6"
            await wait_until(lambda: high._parts.core.is_drained, timeout_s=10.0)


def has_moved(peer: Peer) -> bool:
    status = peer.status()
    return (status["span"], status["phase"]) == ("3:6", "serving")


def is_whole(peer: Peer) -> bool:
    """Whether a peer knows a holder of every layer that lives and has loaded it."""
    return [model["holders_min"] > 0 for model in peer.status()["models"]] == [True]
