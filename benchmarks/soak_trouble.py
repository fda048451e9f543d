"""Processes that are killed, stopped, told to leave and started, at random, while the swarm works."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from p2pinfer.cli.local_swarm import LocalNode, LocalSwarm
from p2pinfer.ids import Span

__all__ = ["Trouble"]

INTERVAL_S = (1.0, 6.0)
"""Between two troubles."""
STOPPED_S = (0.3, 6.0)
"""How long a process stands still: from what nobody notices to what all others take for a death."""
AWAY_S = (0.0, 4.0)
"""Until a process takes the place of one that is gone."""
KINDS = ("kill", "stop", "stop_and_kill", "leave")


@dataclass
class Trouble:
    """Troubles the guests among the nodes; the others hold every layer all the time: nothing may be lost."""

    swarm: LocalSwarm
    guests: list[LocalNode]
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Make trouble until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.rng.uniform(*INTERVAL_S))
                guests = [node for node in self.guests if node.is_running and node.peer_id()]
                if guests:
                    node = self.rng.choice(guests)
                    self.guests.remove(node)
                    nursery.start_soon(self._trouble, node, self.rng.choice(KINDS))

    async def _trouble(self, node: LocalNode, kind: str) -> None:
        self.counts[kind] += 1
        match kind:
            case "stop" | "stop_and_kill":
                node.kill(signal.SIGSTOP)
                await trio.sleep(self.rng.uniform(*STOPPED_S))
                node.kill(signal.SIGCONT if kind == "stop" else signal.SIGKILL)
            case "kill":
                node.kill(signal.SIGKILL)
            case "leave":
                node.kill(signal.SIGTERM)
        if kind == "stop":
            self.guests.append(node)
            return
        await trio.sleep(self.rng.uniform(*AWAY_S))
        self.join(node.span)

    def crashed(self, steady: Sequence[LocalNode]) -> list[str]:
        """The nodes that ended by themselves, with their last words and the traceback that they left.

        The steady get no signal of ours.
        """
        ended = [(node, code) for node in self.swarm.nodes if (code := node.process.poll()) is not None]
        return [
            f"{node.name} ended with code {code}: {node.last_words()}\n{node.traceback()}".rstrip()
            for node, code in ended
            if code > 0 or node in steady
        ]

    def join(self, span: Span) -> None:
        """Start a guest."""
        self.guests.append(self.swarm.start(span))
        self.counts["join"] += 1

    def join_all(self, spans: Sequence[Span]) -> None:
        """Start a guest for each span."""
        for span in spans:
            self.join(span)
