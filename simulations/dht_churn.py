"""Peers that come and go while records are stored and looked for.

1. Sessions are independent. "weibull" has shape 0.59, as measured in Kad (Stutzbach and Rejaie,
   "Understanding churn in peer-to-peer networks", 2006): many are short and some are very long.
   "exponential" forgets how long a peer has been there, so more of the old ones end: it is the harsher one
   for what is stored.
2. A peer ends without a word; at the same moment another comes, with a new id. So the number stays the same.
3. A record is live while its owner's expiry is not reached. Owners leave as others do, and then nobody
   renews it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pinfer.testing import Host
from simulations.dht_lookups import Lookups
from simulations.dht_swarm import DhtSwarm

if TYPE_CHECKING:
    from simulations.dht import Plan

__all__ = ["churn", "draw_session_s"]

WEIBULL_SHAPE = 0.59
RECORDS_COUNT = 100
"""Records that are stored at one time."""
FINDS_INTERVAL_S = 60.0
GETS_INTERVAL_S = 20.0
"""On average between two gets: a thousand in six hours."""
SETTLING_S = 60.0
"""A peer that came so lately is not asked to look: it has just begun to join."""


def draw_session_s(kind: str, median_s: float, rng: random.Random) -> float:
    """How long a peer that has just come stays, in seconds."""
    if kind == "exponential":
        return rng.expovariate(math.log(2.0) / median_s)
    return rng.weibullvariate(median_s / math.log(2.0) ** (1.0 / WEIBULL_SHAPE), WEIBULL_SHAPE)


def churn(swarm: DhtSwarm, lookups: Lookups, plan: Plan) -> dict[str, Any]:
    """Let peers come and go for `plan.hours`, and return what else there is to tell."""
    return _Churn(swarm, lookups, plan).run()


@dataclass(slots=True)
class _Record:
    """A record that somebody put.

    Attributes:
        live_until: When its owner's last word runs out, at least: a living owner still renews it.
    """

    owner: Host
    key: bytes
    live_until: float


class _Churn:
    """One run."""

    def __init__(self, swarm: DhtSwarm, lookups: Lookups, plan: Plan) -> None:
        self._swarm = swarm
        self._lookups = lookups
        self._plan = plan
        self._world = swarm.world
        self._rng = swarm.world.rng("churn")
        self._came_at: dict[str, float] = {}
        self._records: list[_Record] = []
        self._gone_count = self._orphans_count = 0
        record = swarm.config.record
        renewal_s = min(record.republish_interval_s, plan.ttl * record.republish_share)
        self._left_s = plan.ttl - renewal_s
        """What a record has left at least when its owner goes."""

    def run(self) -> dict[str, Any]:
        """Run for the plan's hours."""
        world, length_s = self._world, self._plan.hours * 3600.0
        for host in list(self._swarm.hosts):
            self._came_at[host.name] = -SETTLING_S
            self._plan_end(host)
        for index in range(RECORDS_COUNT):
            world.at(world.now + self._plan.ttl * index / RECORDS_COUNT, self._put)
        for interval_s, action in ((GETS_INTERVAL_S, self._get), (FINDS_INTERVAL_S, self._find)):
            for index in range(int(length_s / interval_s)):
                world.at(world.now + interval_s * (index + self._rng.random()), action)
        world.run_for(length_s)
        gets = self._lookups.gets
        return {
            "sessions": self._plan.sessions,
            "session_median_s": self._plan.churn,
            "hours": self._plan.hours,
            "ttl_s": self._plan.ttl,
            "success": round(sum(gets) / len(gets), 5),
            "gets": len(gets),
            "gets_of_orphans": self._orphans_count,
            "peers_gone": self._gone_count,
        }

    def _plan_end(self, host: Host) -> None:
        session_s = draw_session_s(self._plan.sessions, self._plan.churn, self._rng)
        self._world.at(self._world.now + session_s, partial(self._end, host))

    def _end(self, host: Host) -> None:
        now = self._world.now
        for record in self._records:
            if record.owner is host:
                record.live_until = max(record.live_until, now + self._left_s)
        self._swarm.remove(host)
        self._gone_count += 1
        newcomer = self._swarm.start_one()
        self._came_at[newcomer.name] = now
        self._plan_end(newcomer)

    def _choose(self) -> Host:
        """A peer that has been there for a while."""
        while True:
            host = self._rng.choice(self._swarm.alive)
            if self._came_at[host.name] <= self._world.now - SETTLING_S:
                return host

    def _put(self) -> None:
        now = self._world.now
        owner, key = self._choose(), self._rng.randbytes(32)
        self._lookups.put(owner, key, ttl_s=self._plan.ttl)
        record = _Record(owner, key, now + self._plan.ttl)
        self._records.append(record)
        self._world.at(now + self._plan.ttl, partial(self._replace, record))

    def _replace(self, record: _Record) -> None:
        """Put another where a record has run out; look again later where it has not."""
        now = self._world.now
        if record.owner.up:
            self._world.at(now + self._plan.ttl, partial(self._replace, record))
        elif record.live_until > now:
            self._world.at(record.live_until, partial(self._replace, record))
        else:
            self._records.remove(record)
            self._put()

    def _get(self) -> None:
        last = self._world.now + self._swarm.config.query.lookup_s_max
        live = [
            record
            for record in self._records
            if self._lookups.stored.get(record.key) and (record.owner.up or record.live_until > last)
        ]
        if live:
            record = self._rng.choice(live)
            self._orphans_count += not record.owner.up
            self._lookups.get(self._choose(), record.key)

    def _find(self) -> None:
        self._lookups.find(self._choose(), self._rng.randbytes(32))
