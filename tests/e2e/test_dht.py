"""The DHT of real processes, from the command line: put on one node, found on another, after a kill too."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pinfer.cli.local_swarm import LocalNode, open_swarm, wait_until
from p2pinfer.ids import Span
from p2pinfer.models.store import ModelStore
from tests.e2e.conftest import TINY, TINY_LAYER_COUNT

pytestmark = pytest.mark.e2e

TTL_S = 20


def _p2pinfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pinfer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def ask(node: LocalNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = ["dht", *arguments, "--data-dir", str(node.directory)]
    return await trio.to_thread.run_sync(partial(_p2pinfer, *line), abandon_on_cancel=True)


async def test_what_one_node_puts_another_gets_until_it_expires(tiny_cache: Path) -> None:
    spans = [Span(0, 3), Span(3, 6), Span(0, 6)]
    async with open_swarm(spans, model=TINY, cache_dir=tiny_cache) as swarm:
        one, two, three = swarm.nodes

        def all_have_met() -> bool:
            return bool(swarm.peer.dht.status()["contacts_good"] == len(spans))

        await wait_until(all_have_met, timeout_s=20)
        put = await ask(one, "put", "greeting", "hello", "--ttl", f"{TTL_S}s")
        assert (put.returncode, put.stdout) == (0, "greeting is kept by 4 peers\n"), put.stderr
        got = await ask(two, "get", "greeting")
        assert (got.returncode, got.stdout) == (0, "hello\n"), got.stderr
        (value,) = json.loads((await ask(three, "get", "greeting", "--json")).stdout)["values"]
        assert value["owner"] == one.peer_id()

        assert (await ask(one, "provide", "weather")).returncode == 0
        providers = json.loads((await ask(two, "providers", "weather", "--json")).stdout)["providers"]
        assert [each["peer"] for each in providers] == [one.peer_id()]

        digest = ModelStore(tiny_cache / "models").manifest_of(TINY).sha256
        shown = await ask(two, "manifest", digest)
        assert f"layers        {TINY_LAYER_COUNT}\n" in shown.stdout, shown.stderr

        status = json.loads((await ask(two, "status", "--json")).stdout)
        assert status["contacts"] == len(spans)
        assert status["endpoint"] in (await ask(two, "members", "--address")).stdout
        holders = json.loads((await ask(three, "get", digest_key(digest), "--key", "--json")).stdout)
        assert sorted(each["subkey"] for each in holders["values"]) == ["0:3", "0:6", "3:6"]

        one.kill()
        one.process.wait()
        assert (await ask(two, "get", "greeting")).stdout == "hello\n", "it lives for its time"
        with trio.fail_after(2 * TTL_S):
            while (gone := await ask(two, "get", "greeting")).returncode == 0:
                pass
        assert gone.stderr == "p2pinfer: nothing is kept under 'greeting'\n"


def digest_key(digest: str) -> str:
    from p2pinfer.holdings import holders_key

    return holders_key(bytes.fromhex(digest)).hex()


async def test_wrong_input_is_one_line_that_says_what_to_do(tiny_cache: Path, tmp_path: Path) -> None:
    async with open_swarm([Span(0, 6)], model=TINY, cache_dir=tiny_cache) as swarm:
        (node,) = swarm.nodes
        for arguments, message in (
            (("put", "greeting", "x", "--ttl", "3d"), "ttl_s lies in (0, 172800]"),
            (("put", "greeting", "x", "--namespace", "own"), "is refused: its key is not that of its owner"),
            (("put", "greeting", "x", "--namespace", "provider"), "its value is not empty and no endpoint"),
            (("manifest", "0" * 64), "nobody is found who has the file 000000000000"),
            (("put", "greeting", "x", "--node", str(swarm.peer.endpoint)), "start a node of your own"),
            (("get", "greeting", "--join", "p2pinfer://00000000"), "the address is that of swarm 00000000"),
        ):
            refused = await ask(node, *arguments)
            assert refused.returncode == 1
            assert message in refused.stderr
            assert refused.stderr.count("\n") == 1
