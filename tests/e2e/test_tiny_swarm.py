"""Real processes with a tiny model: answers, kills, bad input, floods and clean ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer import Sampling, open_peer
from p2pinfer.cli.local_swarm import LocalSwarm, open_swarm, wait_for_holders, wait_until
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.errors import (
    CertificateError,
    ConfigError,
    ModelNotFound,
    NoChain,
    PeerUnreachable,
    PromptTooLong,
    WrongSwarm,
)
from p2pinfer.ids import Endpoint, Span
from p2pinfer.runtime.client import connect
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e

SPANS = (Span(0, 2), Span(2, 4), Span(4, 6))
LOOPBACK = Endpoint("127.0.0.1", 0)


def node_config(directory: Path, cache: Path, **settings: Any) -> NodeConfig:
    return NodeConfig(listen=LOOPBACK, data_dir=directory, cache_dir=cache, profile=Profile.LOCAL, **settings)


async def answer(
    swarm: LocalSwarm, prompt: str = "hello", count: int = 40, **settings: Any
) -> dict[str, Any]:
    sampling = Sampling(token_count_max=count, stop_tokens=(0,), **settings)
    generation = swarm.peer.generate(prompt, model=TINY, sampling=sampling, raw=True)
    async for _ in generation:
        pass
    return generation.summary


async def test_two_kills_in_mid_answer_change_no_token(tiny_cache: Path) -> None:
    async with open_swarm(SPANS * 2, model=TINY, cache_dir=tiny_cache) as swarm:
        unbroken = await answer(swarm, temperature=0.8, seed=3)
        sampling = Sampling(token_count_max=40, stop_tokens=(0,), temperature=0.8, seed=3)
        generation = swarm.peer.generate("hello", model=TINY, sampling=sampling, raw=True)
        killed = 0
        async for _ in generation:
            if len(generation.token_ids) in (10, 25):
                hop = generation.chain[2 if killed else 0]
                node = swarm.node_of(str(hop.contact.peer))
                if node is not None and node.is_running:
                    node.kill()
                    killed += 1
        assert killed == 2
        broken = generation.summary
        assert broken["token_ids"] == unbroken["token_ids"]
        assert len(unbroken["token_ids"]) > 25
        assert 1 <= len(broken["recoveries"]) <= 2
        assert all(recovery["stall_ms"] > 0 for recovery in broken["recoveries"])
        ended = await trio.to_thread.run_sync(_ask_with_the_command_line, swarm)
        assert ended["token_ids"] == (await answer(swarm, count=8))["token_ids"]
        assert len(ended["chain"]) == 3


def _ask_with_the_command_line(swarm: LocalSwarm) -> dict[str, Any]:
    """Run `generate --json` and `status --json` against one of the nodes."""
    node = next(node for node in swarm.nodes if node.is_running)
    where = ["--data-dir", str(node.directory)]
    sampling = ["--max-tokens", "8", "--temperature", "0", "--raw"]
    asked = _run("generate", "hello", "--json", *sampling, *where)
    assert asked.returncode == 0, asked.stderr
    status = json.loads(_run("status", "--json", *where).stdout)
    assert {peer["state"] for peer in status["peers"]} <= {"alive", "suspect", "dead"}
    assert "tiny:latest" in _run("status", *where).stdout
    summary: dict[str, Any] = json.loads(asked.stdout)
    assert {"text", "tokens", "prompt_tokens", "tokens_per_s", "chain", "recoveries"} <= set(summary)
    return summary


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pinfer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_bad_requests_are_refused_by_name(tiny_cache: Path) -> None:
    async with open_swarm(SPANS[:1], model=TINY, cache_dir=tiny_cache) as swarm:
        with pytest.raises(NoChain, match=r"\[2,6\)"):
            await answer(swarm)
        with pytest.raises(PromptTooLong, match="context"):
            await answer(swarm, count=1 << 19)
        with pytest.raises(PromptTooLong, match="empty"):
            await answer(swarm, prompt="")
        generation = swarm.peer.generate("hi", model="nobody:latest")
        with pytest.raises(ModelNotFound, match="nobody"):
            await anext(generation)
        swarm.start(SPANS[1])
        swarm.start(SPANS[2])
        await wait_for_holders(swarm, 3)
        assert (await answer(swarm))["tokens"] == 40


async def test_who_does_not_belong_is_refused_by_name(tiny_cache: Path, tmp_path: Path) -> None:
    async with (
        open_peer(node_config(tmp_path / "a", tiny_cache)) as peer,
        open_peer(node_config(tmp_path / "b", tiny_cache)) as other,
    ):
        assert other.invite is not None
        with pytest.raises(WrongSwarm):
            async with connect(tmp_path / "b", node=peer.endpoint):
                pass
        with pytest.raises(ConfigError, match="member of no swarm"):
            async with open_peer(node_config(tmp_path / "c", tiny_cache, join=(str(peer.endpoint),))):
                pass
        async with open_peer(node_config(tmp_path / "d", tiny_cache, join=(other.invite,))):
            pass
        # Another key in place of the one that was admitted.
        (tmp_path / "d" / "client.key").unlink()
        (tmp_path / "d" / "client.key").write_bytes((tmp_path / "a" / "identity.key").read_bytes())
        (tmp_path / "d" / "client.key").chmod(0o600)
        with pytest.raises(CertificateError):
            async with connect(tmp_path / "d", node=other.endpoint):
                pass
        async with connect(tmp_path / "a") as client:
            assert (await client.status())["peer"] == str(peer.id)
    with pytest.raises(PeerUnreachable, match="no node answers"):
        async with connect(tmp_path / "a", node=peer.endpoint):
            pass


async def test_a_flood_of_garbage_does_not_disturb_an_answer(tiny_cache: Path) -> None:
    async with open_swarm(SPANS, model=TINY, cache_dir=tiny_cache) as swarm:
        quiet = await answer(swarm, count=100)
        ports = [peer["endpoint"].rpartition(":")[2] for peer in swarm.peer.status()["peers"]]
        flood = _Flood([int(port) for port in ports])
        with flood:
            noisy = await answer(swarm, count=100)
            await trio.to_thread.run_sync(flood.reach, 3000)
        assert noisy["token_ids"] == quiet["token_ids"]
        assert noisy["recoveries"] == []
        assert all(node.is_running for node in swarm.nodes)
        assert {peer["state"] for peer in swarm.peer.status()["peers"]} == {"alive"}


class _Flood:
    """Sends garbage datagrams at about 10,000 a second until it is left."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._ends = threading.Event()
        self._count = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> _Flood:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.set()
        self._thread.join()

    def reach(self, count: int) -> None:
        """Wait until so many more were sent."""
        for _ in range(count):
            self._count.acquire()

    def _send(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not self._ends.is_set():
                for port in self._ports * 4:
                    sock.sendto(os.urandom(200), ("127.0.0.1", port))
                    self._count.release()
                self._ends.wait(len(self._ports) * 4 / 10_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_node_ends_cleanly_on_a_signal(tiny_cache: Path, number: int) -> None:
    async with open_swarm(SPANS[:1], model=TINY, cache_dir=tiny_cache) as swarm:
        (node,) = swarm.nodes
        assert node.peer_id()
        started = time.monotonic()
        node.kill(number)
        assert await trio.to_thread.run_sync(node.process.wait, 10) in (0, 130)
        assert time.monotonic() - started < 10
        assert not node.peer_id()
        await wait_until(
            lambda: {peer["state"] for peer in swarm.peer.status()["peers"]} == {"left"}, timeout_s=5
        )


async def test_leaving_the_loop_early_frees_the_hops(tiny_cache: Path) -> None:
    async with open_swarm(SPANS, model=TINY, cache_dir=tiny_cache) as swarm:
        generation = swarm.peer.generate(
            "hello", model=TINY, sampling=Sampling(token_count_max=200), raw=True
        )
        async for _ in generation:
            break
        await generation.aclose()
        node = swarm.nodes[0]
        async with connect(node.directory) as client:
            with trio.fail_after(5):
                while (await client.status())["sessions"]:
                    await trio.lowlevel.checkpoint()


async def test_a_stopped_process_costs_a_pause_and_no_token(tiny_cache: Path) -> None:
    async with open_swarm(SPANS * 2, model=TINY, cache_dir=tiny_cache) as swarm:
        unbroken = await answer(swarm, count=60)
        sampling = Sampling(token_count_max=60, stop_tokens=(0,))
        generation = swarm.peer.generate("hello", model=TINY, sampling=sampling, raw=True)
        stopped = None
        async for _ in generation:
            if stopped is None and len(generation.token_ids) == 20:
                stopped = swarm.node_of(str(generation.chain[1].contact.peer))
                assert stopped is not None
                stopped.kill(signal.SIGSTOP)
        assert generation.summary["token_ids"] == unbroken["token_ids"]
        (recovery,) = generation.summary["recoveries"]
        assert len(recovery["lost"]) == 1
