"""The swarm as applications see it: two peers over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import p2pinfer
from p2pinfer.errors import LocalProtocolError, PeerUnreachable
from p2pinfer.ids import PeerId
from p2pinfer.runtime.peer import Peer
from p2pinfer.swim.news import MemberJoined, MemberLeft


@asynccontextmanager
async def opened(directory: Path, **settings: Any) -> AsyncIterator[Peer]:
    """A peer without layers."""
    options = {"listen": "127.0.0.1:0", "profile": "local", "data_dir": directory, **settings}
    async with p2pinfer.open_peer(**options) as peer:
        yield peer


async def test_a_peer_reads_what_another_says_of_itself(tmp_path: Path) -> None:
    description = b"a description of more than 512 bytes " * 100
    with trio.fail_after(20):
        async with opened(tmp_path / "one") as first, opened(tmp_path / "two", join=[first.invite]) as second:
            async with aclosing(first.swarm.news()) as news:
                await second.swarm.set_metadata(description)
                async for _ in news:
                    if second.id in {view.record.owner for view in first.swarm.members()}:
                        break
                while await first.swarm.metadata(second.id) != description:
                    await news.__anext__()  # a new record is on its way
            assert await second.swarm.metadata(first.id) == b""
            assert await second.swarm.metadata(second.id) == description
            with pytest.raises(LocalProtocolError, match="65536"):
                await second.swarm.set_metadata(bytes(70_000))
            with pytest.raises(PeerUnreachable, match="no live member"):
                await first.swarm.metadata(PeerId(bytes(32)))


async def test_news_tell_who_comes_and_goes(tmp_path: Path) -> None:
    heard: list[object] = []
    with trio.fail_after(20):
        async with opened(tmp_path / "one") as first, trio.open_nursery() as nursery:

            async def listen(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                async with aclosing(first.swarm.news()) as news:
                    task_status.started()
                    async for item in news:
                        heard.append(item)
                        if isinstance(item, MemberLeft):
                            return

            await nursery.start(listen)
            async with opened(tmp_path / "two", join=[first.invite]) as second:
                other = second.id
    assert [each.record.owner for each in heard if isinstance(each, MemberJoined)] == [other]
    assert heard[-1] == MemberLeft(other)


async def test_an_application_keeps_a_peer_out_of_its_view(tmp_path: Path) -> None:
    async with opened(tmp_path / "one", admit=lambda record: record.name != "unwelcome") as first:
        joined = {"join": [first.invite]}
        async with (
            opened(tmp_path / "two", name="unwelcome", **joined) as second,
            opened(tmp_path / "three", name="welcome", **joined) as third,
        ):
            with trio.fail_after(20):
                async with aclosing(third.swarm.news()) as news:
                    while len(third.swarm.members()) < 3:
                        await news.__anext__()
            owners = {view.record.owner for view in first.swarm.members()}
            assert owners == {first.id, third.id}
            assert second.id in {view.record.owner for view in third.swarm.members()}
