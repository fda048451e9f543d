"""A swarm of node processes on this machine, for the demonstration, the end-to-end tests and benchmarks.

Every process listens on a loopback port that the system chose and keeps its things in a folder of its own
below one temporary directory. Whatever way the block is left, no process and no file stays.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pinfer.cli.failures import CRASH_FILE
from p2pinfer.errors import UnavailableError
from p2pinfer.ids import Endpoint, Span

if TYPE_CHECKING:
    from p2pinfer.runtime.peer import Peer

__all__ = ["LocalNode", "LocalSwarm", "launch", "open_swarm", "wait_for_holders", "wait_until"]

START_TIMEOUT_S = 120.0
"""How long nodes may take to load their layers: seconds, but minutes on a loaded machine."""
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.05


@dataclass(slots=True)
class LocalNode:
    """One node process."""

    name: str
    span: Span
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def peer_id(self) -> str:
        """The id that it has once it runs, in hexadecimal; empty before."""
        try:
            return str(json.loads((self.directory / "node.json").read_text())["peer_id"])
        except (OSError, ValueError, KeyError):
            return ""

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL leaves it no chance to say goodbye."""
        self.process.send_signal(signal_number)

    def last_words(self) -> str:
        """The last line of what it logged."""
        lines = self._text_of("log").strip().splitlines()
        return lines[-1] if lines else ""

    def traceback(self) -> str:
        """Of the bug that ended it; empty if none did."""
        return self._text_of(CRASH_FILE)

    def _text_of(self, name: str) -> str:
        try:
            return (self.directory / name).read_text(errors="replace")
        except OSError:
            return ""


@dataclass(slots=True)
class LocalSwarm:
    """Node processes, and the peer in this process that they joined through."""

    peer: Peer
    directory: Path
    cache_dir: Path
    model: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """What every node is told beside its place, as in a settings file: engine, threads ..."""
    nodes: list[LocalNode] = field(default_factory=list)

    def start(self, span: Span) -> LocalNode:
        """Start one more node with these layers; it takes seconds until it serves."""
        name = f"node{len(self.nodes)}"
        directory = self.directory / name
        directory.mkdir(mode=0o700)
        settings = {
            "join": [self.peer.invite],
            "listen": "127.0.0.1:0",
            "model": self.model,
            "span": f"{span.start}:{span.end}",
            "data_dir": str(directory),
            "cache_dir": str(self.cache_dir),
            "profile": "local",
            "threads": 1,
            **self.settings,
        }
        process = launch(directory, settings)
        node = LocalNode(name, span, directory, process)
        self.nodes.append(node)
        return node

    def node_of(self, peer_id: str) -> LocalNode | None:
        """The node with this id."""
        return next((node for node in self.nodes if node.peer_id() == peer_id), None)

    async def stop(self) -> None:
        """End every node: politely, then not."""
        for node in self.nodes:
            if node.is_running:
                node.kill(signal.SIGCONT)
                node.kill(signal.SIGTERM)
        deadline = trio.current_time() + STOP_TIMEOUT_S
        for node in self.nodes:
            try:
                left_s = max(0.0, deadline - trio.current_time())
                await trio.to_thread.run_sync(node.process.wait, left_s)
            except subprocess.TimeoutExpired:
                node.kill()
                node.process.wait()


def launch(directory: Path, settings: Mapping[str, object]) -> subprocess.Popen[bytes]:
    """Start a node process with these settings, as in a settings file, and a log in its folder."""
    config = directory / "node.toml"
    # The invite is a secret: in a file of ours, and not where `ps` shows it.
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "p2pinfer.node", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle: we end them
        )


async def wait_until(predicate: Callable[[], bool], *, timeout_s: float) -> None:
    """Look again and again until something holds that other processes bring about.

    Raises:
        UnavailableError: It did not within the time.
    """
    deadline = trio.current_time() + timeout_s
    while not predicate():
        if trio.current_time() > deadline:
            raise UnavailableError(f"waited {timeout_s:.0f} s in vain: is this machine overloaded?")
        await trio.sleep(_POLL_S)


async def wait_for_holders(swarm: LocalSwarm, count: int, *, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until so many live peers serve layers.

    Raises:
        UnavailableError: A node ended (the message has its last words), or it took too long.
    """

    def are_ready() -> bool:
        for node in swarm.nodes:
            code = node.process.poll()
            if code is not None and code > 0:
                raise UnavailableError(f"{node.name} ended with code {code}: {node.last_words()}")
        return _holder_count(swarm.peer) >= count

    await wait_until(are_ready, timeout_s=timeout_s)


def _holder_count(peer: Peer) -> int:
    status = peer.status()
    return sum(1 for other in status["peers"] if other["state"] == "alive" and other["span"])


@asynccontextmanager
async def open_swarm(
    spans: Sequence[Span],
    *,
    model: str,
    cache_dir: Path,
    wait: bool = True,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[LocalSwarm]:
    """Start a peer without layers in this process and one node process for each span.

    `settings` are what every node is told beside its place: engine, threads ... and the peer of this process
    what of earlier sessions it may `reuse`.

    Raises:
        UnavailableError: A node did not start.
        ModelError: The model is not here.
    """
    from p2pinfer.config import NodeConfig, Profile
    from p2pinfer.runtime.peer import open_peer

    with tempfile.TemporaryDirectory(prefix="p2pinfer-") as folder:
        directory = Path(folder)
        config = NodeConfig(
            listen=Endpoint("127.0.0.1", 0),
            data_dir=directory / "entry",
            cache_dir=cache_dir,
            profile=Profile.LOCAL,
            reuse=str((settings or {}).get("reuse", "all")),
        )
        async with open_peer(config) as peer:
            swarm = LocalSwarm(peer, directory, cache_dir, model, settings or {})
            try:
                for span in spans:
                    swarm.start(span)
                if wait:
                    await wait_for_holders(swarm, len(spans))
                yield swarm
            finally:
                with trio.CancelScope(shield=True):
                    await swarm.stop()
