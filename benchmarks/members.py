"""Kills members of a swarm without layers at random, and tells how soon that is known.

    python -m benchmarks.members [--json] [--nodes 24] [--minutes 3] [--seed 1]

Real processes on loopback with the quick settings of one machine (`--profile local`): nothing is computed,
so what is seen is the membership alone. A peer in this process, which is never killed, looks on: it tells
how long after `kill -9` it takes a member for dead, and how long after its start it sees it alive again.
At the end every node is asked for its view.

The exit code is 0 if every death was noticed, everybody came back and all views are the same at the end. On a
machine whose cores are busy the living may be taken for dead meanwhile; how often is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from rich.table import Table

from benchmarks.shared import percentile
from p2pinfer.cli.failures import run_command
from p2pinfer.cli.local_swarm import START_TIMEOUT_S, STOP_TIMEOUT_S, launch, wait_until
from p2pinfer.cli.output import console
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.ids import Endpoint
from p2pinfer.runtime.client import connect
from p2pinfer.runtime.peer import Peer, open_peer

LOOK_S = 0.02
"""Between two looks of the peer in this process: what detection times are exact to."""
INTERVAL_S = (0.5, 3.0)
"""Between two kills."""
AWAY_S = (0.0, 8.0)
"""From a kill to the start of the same member: shorter and longer than a death takes to be known."""
VIEWS_TIMEOUT_S = 60.0
"""How long after the last start all views have to be the same."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many, how long."""

    nodes: int = 24
    duration_s: float = 180.0
    seed: int = 1


@dataclass(slots=True)
class Node:
    """One member, over all its lives."""

    directory: Path
    settings: Mapping[str, object]
    process: subprocess.Popen[bytes]
    killed_at: float | None = None
    started_at: float | None = None

    @property
    def peer_id(self) -> str:
        """In hexadecimal; empty before it first ran."""
        try:
            return str(json.loads((self.directory / "node.json").read_text())["peer_id"])
        except (OSError, ValueError, KeyError):
            return ""

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it again with what it has on disk."""
        self.process = launch(self.directory, self.settings)


@dataclass
class Log:
    """What the peer in this process saw."""

    kills: int = 0
    missed: int = 0
    """Members that were started again before anybody took them for dead."""
    wrong: int = 0
    """Deaths of members that ran."""
    detected_ms: list[float] = field(default_factory=list)
    returned_ms: list[float] = field(default_factory=list)


class Watch:
    """Looks at the peer's view again and again, and holds it against what was done."""

    def __init__(self, peer: Peer, nodes: Sequence[Node]) -> None:
        self.log = Log()
        self._peer = peer
        self._nodes = {node.peer_id: node for node in nodes}
        self._states: dict[str, str] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for name, state in view_of(self._peer.status()).items():
                if self._states.get(name) != state:
                    self._states[name] = state
                    self._note(self._nodes.get(name), state)
            await trio.sleep(LOOK_S)

    def _note(self, node: Node | None, state: str) -> None:
        now = trio.current_time()
        if node is None:
            return
        if state == "dead":
            if node.killed_at is None:
                self.log.wrong += node.started_at is None
            else:
                self.log.detected_ms.append((now - node.killed_at) * 1000)
                node.killed_at = None
        elif state == "alive" and node.started_at is not None and node.process.poll() is None:
            self.log.returned_ms.append((now - node.started_at) * 1000)
            node.started_at = None


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the swarm and return the figures."""
    async with open_members(plan.nodes) as (peer, nodes):
        watch = Watch(peer, nodes)
        async with trio.open_nursery() as around:
            around.start_soon(watch.run)
            await _kill_and_start(plan, nodes, watch.log)
            equal_after_s = await _wait_for_equal_views(peer, nodes)
            around.cancel_scope.cancel()
        log = watch.log
        # Who was started again within its suspicion is known by its new record, and was dead to nobody.
        crashed = [node.directory.name for node in nodes if node.process.poll() is not None]
    noticed = len(log.detected_ms)
    return {
        "passed": equal_after_s is not None and not crashed and noticed + log.missed >= log.kills,
        "nodes": plan.nodes,
        "minutes": round(plan.duration_s / 60, 2),
        "seed": plan.seed,
        "kills": log.kills,
        "noticed": noticed,
        "back_before_noticed": log.missed,
        "deaths_of_the_living": log.wrong,
        "detected_ms_p50": percentile(log.detected_ms, 0.5),
        "detected_ms_p99": percentile(log.detected_ms, 0.99),
        "detected_ms_max": percentile(log.detected_ms, 1.0),
        "returned_ms_p50": percentile(log.returned_ms, 0.5),
        "returned_ms_p99": percentile(log.returned_ms, 0.99),
        "views_equal_after_s": equal_after_s,
        "crashed": crashed,
    }


async def _kill_and_start(plan: Plan, nodes: Sequence[Node], log: Log) -> None:
    """Kill one after another for the time given, and let each come back after a while."""
    rng = random.Random(plan.seed)
    until = trio.current_time() + plan.duration_s
    away: set[str] = set()
    async with trio.open_nursery() as nursery:
        while trio.current_time() < until:
            await trio.sleep(rng.uniform(*INTERVAL_S))
            here = [node for node in nodes if node.directory.name not in away]
            if len(here) > len(nodes) // 2:
                node = rng.choice(here)
                away.add(node.directory.name)
                nursery.start_soon(_kill_one, node, rng.uniform(*AWAY_S), log, away)


async def _kill_one(node: Node, away_s: float, log: Log, away: set[str]) -> None:
    log.kills += 1
    node.killed_at = trio.current_time()
    node.kill()
    await trio.sleep(away_s)
    node.started_at = trio.current_time()
    node.start()
    # Its process takes seconds to come up, so most deaths are noticed behind the start.
    with trio.move_on_after(START_TIMEOUT_S):
        while node.started_at is not None:
            await trio.sleep(LOOK_S)
    if node.killed_at is not None:
        log.missed += 1
        node.killed_at = None
    away.discard(node.directory.name)


async def _wait_for_equal_views(peer: Peer, nodes: Sequence[Node]) -> float | None:
    """Ask all until each sees all others alive; how long that took, or None if it did not come."""
    began = trio.current_time()
    wanted = {node.peer_id for node in nodes} | {str(peer.id)}
    with trio.move_on_after(VIEWS_TIMEOUT_S):
        for node in nodes:
            async with connect(node.directory) as client:
                while alive_in(await client.status()) | {node.peer_id} != wanted:
                    await trio.sleep(LOOK_S)
        while alive_in(peer.status()) | {str(peer.id)} != wanted:
            await trio.sleep(LOOK_S)
        return round(trio.current_time() - began, 2)
    return None


def view_of(status: Mapping[str, Any]) -> dict[str, str]:
    """The state of each other member by its id."""
    return {str(other["peer"]): str(other["state"]) for other in status["peers"]}


def alive_in(status: Mapping[str, Any]) -> set[str]:
    """The ids of those alive."""
    return {peer for peer, state in view_of(status).items() if state == "alive"}


@asynccontextmanager
async def open_members(count: int) -> AsyncIterator[tuple[Peer, list[Node]]]:
    """Start a peer in this process and so many node processes without layers; all see all when it yields.

    Raises:
        UnavailableError: They did not come up within two minutes.
    """
    with tempfile.TemporaryDirectory(prefix="p2pinfer-") as folder:
        directory = Path(folder)
        home = directory / "looking on"
        config = NodeConfig(
            listen=Endpoint("127.0.0.1", 0),
            data_dir=home,
            cache_dir=directory / "cache",
            profile=Profile.LOCAL,
        )
        async with open_peer(config) as peer:
            nodes: list[Node] = []
            try:
                for number in range(count):
                    nodes.append(_first_start(directory, f"node{number}", peer))
                await wait_until(lambda: len(alive_in(peer.status())) == count, timeout_s=START_TIMEOUT_S)
                yield peer, nodes
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_stop, nodes)


def _first_start(directory: Path, name: str, peer: Peer) -> Node:
    home = directory / name
    home.mkdir(mode=0o700)
    settings: dict[str, object] = {
        "join": [peer.invite],
        "listen": "127.0.0.1:0",
        "data_dir": str(home),
        "cache_dir": str(directory / "cache"),
        "profile": "local",
        "threads": 1,
    }
    return Node(home, settings, launch(home, settings))


def _stop(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.process.send_signal(signal.SIGTERM)
    for node in nodes:
        try:
            node.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            node.kill()


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    plan = Plan(nodes=args.nodes, duration_s=60 * args.minutes, seed=args.seed)

    def run() -> int:
        result = trio.run(measure, plan)
        if args.json:
            print(json.dumps(result))
        else:
            table = Table("fact", "figure", title="Members")
            for name, figure in result.items():
                table.add_row(name, json.dumps(figure))
            console().print(table)
        return 0 if result["passed"] else 1

    return run_command(run, debug=False)


if __name__ == "__main__":
    sys.exit(main())
