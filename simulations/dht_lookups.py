"""Lookups of a simulated swarm, and what they found held against what is so.

1. What is so is told by comparing all peers, and never by a core.
2. Whoever ends while a lookup runs is neither expected in its result nor held against it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pinfer.dht.news import LookupDone
from p2pinfer.dht.put import Put
from p2pinfer.effects import Effect
from p2pinfer.testing import Host, World
from simulations.dht_swarm import DhtSwarm, Ring

__all__ = ["Lookups", "median_round_trip_s", "quantile"]

TTL_S = 3600.0
ROUND_TRIPS_COUNT = 10_001
_NEAR_COUNT = 100
"""Enough to have the nearest honest peer among them, whoever else is near."""


@dataclass(slots=True)
class _Open:
    """A lookup that runs, and who lived when it began."""

    kind: str
    begun: float
    living: Ring


@dataclass(slots=True)
class Found:
    """What became of one lookup for peers."""

    recall: float
    is_success: bool
    queries: int
    took_s: float
    dead_count: int


class Lookups:
    """Starts lookups and judges what comes of them.

    Attributes:
        found: Of each lookup for peers, in the order of their ends.
        gets: Whether each lookup for a record found it.
        stored: How many peers took the record under each key.
        started_count: Lookups for peers that were started.
    """

    def __init__(self, swarm: DhtSwarm) -> None:
        self.found: list[Found] = []
        self.gets: list[bool] = []
        self.stored: dict[bytes, int] = {}
        self.started_count = 0
        self._swarm = swarm
        self._open: dict[tuple[str, int], _Open] = {}
        self._living: tuple[int, Ring] | None = None

    def find(self, host: Host, key: bytes) -> None:
        """Let a peer look for the peers nearest to a key."""
        self.started_count += 1
        self._start(host, "find", lambda core, now: core.find_nodes(key, now))

    def put(self, host: Host, key: bytes, *, ttl_s: float = TTL_S) -> None:
        """Let a peer store a record under a key."""
        wanted = Put(key=key, value=key[:8], ttl_s=ttl_s)
        self._start(host, "put", lambda core, now: core.put(wanted, now))

    def get(self, host: Host, key: bytes) -> None:
        """Let a peer look for the record under a key."""
        self._start(host, "get", lambda core, now: core.get([key], now))

    def figures(self, round_trip_s: float) -> dict[str, Any]:
        """What was found, asked and waited for; a lookup without an end is a failed one."""
        found, started = self.found, self.started_count
        took_rtts = [each.took_s / round_trip_s for each in found]
        queries = [each.queries for each in found]
        return {
            "recall": round(sum(each.recall for each in found) / started, 5) if started else None,
            "success": round(sum(each.is_success for each in found) / started, 5) if started else None,
            "rpc_mean": round(statistics.fmean(queries), 2) if found else None,
            "rpc_p99": quantile(queries, 0.99),
            "latency_p50_rtts": quantile(took_rtts, 0.5),
            "latency_p99_rtts": quantile(took_rtts, 0.99),
            "dead_in_result": sum(each.dead_count for each in found),
        }

    def _start(self, host: Host, kind: str, command: Any) -> None:
        def start(core: Any, now: float) -> tuple[int, list[Effect]]:
            lookup_id, effects = command(core, now)
            self._open[host.name, lookup_id] = _Open(kind, now, self._who_lives())
            return lookup_id, effects

        host.log.on_deliver = self._hear
        host.call(start)

    def _hear(self, host: Host, item: object) -> None:
        host.log.delivered.clear()
        if not isinstance(item, LookupDone):
            return
        lookup = self._open.pop((host.name, item.id), None)
        if lookup is None:
            return
        if lookup.kind == "get":
            self.gets.append(any(record.value == item.keys[0][:8] for record in item.values))
        elif lookup.kind == "put":
            self.stored[item.keys[0]] = item.stored_at
        else:
            self.found.append(self._judge(host, item, lookup))

    def _judge(self, host: Host, item: LookupDone, lookup: _Open) -> Found:
        swarm = self._swarm
        near = [
            contact.peer
            for contact in lookup.living.nearest(item.keys[0], _NEAR_COUNT)
            if contact != host.contact and contact.peer not in swarm.gone_at
        ]
        liars = swarm.accomplices.peers
        true = [peer for peer in near[: swarm.config.k] if peer not in liars]
        got = {contact.peer for contact in item.nearest}
        return Found(
            recall=sum(peer in got for peer in true) / len(true) if true else 1.0,
            is_success=next((peer for peer in near if peer not in liars), None) in got,
            queries=item.queries,
            took_s=swarm.world.now - lookup.begun,
            dead_count=sum(swarm.gone_at.get(peer, math.inf) <= lookup.begun for peer in got),
        )

    def _who_lives(self) -> Ring:
        """The living now; asked once for all lookups between which nobody came or went."""
        changes = self._swarm.changes_count
        if self._living is None or self._living[0] != changes:
            self._living = (changes, self._swarm.living())
        return self._living[1]


def median_round_trip_s(world: World) -> float:
    """Of a datagram and its answer over the common link."""
    rng, latency = world.rng("round trips"), world.network.link.latency
    return statistics.median(latency.draw(rng) + latency.draw(rng) for _ in range(ROUND_TRIPS_COUNT))


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share does not exceed (nearest rank); None of none."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
