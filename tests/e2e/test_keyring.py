"""The command line rotates the keys of real processes while they answer."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pinfer import Sampling
from p2pinfer.cli.local_swarm import open_swarm, wait_until
from p2pinfer.ids import Span
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e


def _p2pinfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pinfer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_keys_are_rotated_in_the_middle_of_an_answer(tiny_cache: Path) -> None:
    async with open_swarm([Span(0, 3), Span(3, 6)], model=TINY, cache_dir=tiny_cache) as swarm:
        owner = ["--data-dir", str(swarm.directory / "entry")]
        node = ["--data-dir", str(swarm.nodes[0].directory)]
        ask = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
        rotated: list[subprocess.CompletedProcess[str]] = []

        async def rotate() -> None:
            rotated.append(await ask(partial(_p2pinfer, "keyring", "rotate", "--json", *owner)))

        sampling = Sampling(token_count_max=40, stop_tokens=(0,), temperature=0.8, seed=3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotate)
            while not rotated:
                generation = swarm.peer.generate("hello", model=TINY, sampling=sampling, raw=True)
                async for _ in generation:
                    pass
                assert generation.summary["recoveries"] == []
        assert rotated[0].returncode == 0, rotated[0].stderr
        ring = json.loads(rotated[0].stdout)
        assert (ring["version"], ring["members_behind"], len(ring["keys"])) == (4, 0, 1)
        assert [member["version"] for member in ring["members"]] == [4, 4]

        listed = await ask(partial(_p2pinfer, "keyring", "list", "--json", *node))
        assert json.loads(listed.stdout)["in_use"] == ring["in_use"]
        refused = await ask(partial(_p2pinfer, "keyring", "rotate", *node))
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "change the keyring where the swarm was founded" in refused.stderr
        unknown = await ask(partial(_p2pinfer, "keyring", "use", "00000000", *owner))
        assert "no key 00000000 in the keyring" in unknown.stderr

        swarm.nodes[1].kill()
        started = swarm.start(Span(3, 6))
        await wait_until(lambda: started.peer_id() in _alive(swarm.peer.status()), timeout_s=60)
        assert (await swarm.peer.keyring.list())["members_behind"] == 0


def _alive(status: dict[str, object]) -> set[str]:
    peers = status["peers"]
    assert isinstance(peers, list)
    return {peer["peer"] for peer in peers if peer["state"] == "alive"}
