"""Peers that were killed find back into their swarm by themselves."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import trio

from p2pinfer.cli.local_swarm import open_swarm, wait_until
from p2pinfer.ids import Span
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e


async def test_a_killed_peer_remembers_whom_to_ask(tiny_cache: Path) -> None:
    async with open_swarm([Span(0, 3), Span(3, 6)], model=TINY, cache_dir=tiny_cache) as swarm:
        node = swarm.nodes[0]
        known = node.directory / "peers.json"
        other = json.loads((swarm.nodes[1].directory / "node.json").read_text())["endpoint"]

        def remembered() -> set[str]:
            return {each["endpoint"] for each in json.loads(known.read_text())["peers"]}

        await wait_until(lambda: known.exists() and other in remembered(), timeout_s=10)
        node.kill(signal.SIGKILL)
        await trio.to_thread.run_sync(node.process.wait)
        assert {other, str(swarm.peer.endpoint)} <= remembered()
