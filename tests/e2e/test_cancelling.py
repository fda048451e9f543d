"""Cancelling whoever uses a peer, at any moment, ends the peer and frees what it took."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import trio

from p2pinfer import Sampling, open_peer
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.ids import Endpoint
from p2pinfer.runtime.sockets import open_sockets
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e


def config(directory: Path, cache: Path, port: int) -> NodeConfig:
    listen = Endpoint("127.0.0.1", port)
    return NodeConfig(
        listen=listen, data_dir=directory, cache_dir=cache, profile=Profile.LOCAL, model=TINY, threads=1
    )


async def test_at_every_stage_of_the_start_and_of_an_answer(tiny_cache: Path, tmp_path: Path) -> None:
    with closing(open_sockets(Endpoint("127.0.0.1", 0))) as sockets:
        port = sockets.endpoint.port
    reached = 0
    for milliseconds in (0, 1, 2, 4, 8, 16, 30, 60, 120, 250):
        with trio.fail_after(30), trio.move_on_after(milliseconds / 1000):
            async with open_peer(config(tmp_path, tiny_cache, port)) as peer:
                reached += 1
                sampling = Sampling(token_count_max=400, stop_tokens=(0,))
                async for _ in peer.generate("hello", raw=True, sampling=sampling):
                    pass
        # The port and the directory can be taken again at once, and nothing is left of the node file.
        open_sockets(Endpoint("127.0.0.1", port)).close()
        assert not (tmp_path / "node.json").exists()
    assert reached


async def test_an_error_of_the_user_ends_the_peer_and_is_seen_as_it_is(
    tiny_cache: Path, tmp_path: Path
) -> None:
    async def fail() -> None:
        async with open_peer(config(tmp_path, tiny_cache, 0)) as peer:
            raise ZeroDivisionError(peer.status()["span"])

    with pytest.raises(ZeroDivisionError):
        await fail()
