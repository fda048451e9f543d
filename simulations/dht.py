"""What a lookup finds, costs and takes in a DHT of thousands of peers: whole, half dead, with liars.

    python -m simulations.dht [--json] [--nodes 5000] [--lookups 200] [--seed 1]
                              [--form joins|tables] [--bytes]
                              [--dead 0.5 | --adversaries 0.2 [--disjoint 4] [--lies lookups|joins] |
                               --churn 1800 [--hours 6] [--sessions weibull|exponential] [--ttl 7200]]

The cores are the real ones; clock, network and signatures are simulated. The peers join one after another,
each through three that joined before, one of them honest (`--form tables` fills their tables instead, which
is quicker). Then random peers look for random keys, all within a second, without time for anybody to notice
what went wrong:

    --dead 0.5          half of the peers end at the same moment, just before
    --adversaries 0.2   a fifth is in league, and answers every question with those of them that are nearest
                        to the key, as in S/Kademlia (Baumgart and Mies 2007): from just before the lookups,
                        or with `--lies joins` from the start, so that joins are led astray as well; the same
                        run without disjoint paths is printed beside it
    --churn 1800        peers come and go for `--hours`, with sessions of 1800 s in the median; records are
                        stored, owners leave like others, and what lives is looked for

What is printed:

    recall           share of the honest among the truly nearest 20 living peers that a lookup found
    success          lookups that found the nearest honest living peer; with `--churn` the share of live
                     records that were found: stored, and not past what their owner said, who may be gone
    records_found    with adversaries: gets that found the record put before by somebody else
    rpc_*            peers asked by a lookup
    latency_*_rtts   how long it took, in median round trips of the links
    dead_in_result   peers in all results that were gone before their lookup began
    trace_hash       the same for one seed in every process
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.table import Table

from p2pinfer.cli.output import console
from p2pinfer.dht.config import DhtConfig
from p2pinfer.testing import Latency, World
from simulations.dht_churn import churn
from simulations.dht_lookups import Lookups, median_round_trip_s
from simulations.dht_swarm import DhtSwarm
from simulations.swim_swarm import Digest, Meter

__all__ = ["Plan", "simulate"]

LATENCY = Latency(0.02, 0.03, "exponential")
"""Seconds one way, across a continent."""
JOINS_PER_S = 100.0
SETTLE_S = 20.0
"""From the last join to the first lookup."""
LOOKUPS_WITHIN_S = 1.0
WAIT_S = 60.0
"""All lookups have ended by then: their own limit is half of it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    nodes: int = 5000
    lookups: int = 200
    seed: int = 1
    form: str = "joins"
    dead: float = 0.0
    """Share of the peers that end before the lookups."""
    adversaries: float = 0.0
    """Share of the peers that lie."""
    lies: str = "lookups"
    """From when on they do."""
    disjoint: int = 1
    """Disjoint paths of each lookup."""
    churn: float = 0.0
    """Median session of a peer, seconds; 0: nobody comes or goes."""
    hours: float = 6.0
    """How long peers come and go, hours."""
    sessions: str = "weibull"
    """The distribution of sessions: see `simulations/dht_churn.py`."""
    ttl: float = 7200.0
    """How long a record lives, seconds. BEP-44: two hours."""
    bytes: bool = False
    """Whether what is sent is measured, which takes longer."""

    @property
    def config(self) -> DhtConfig:
        """The DHT's settings."""
        return replace(DhtConfig.wan(), disjoint=self.disjoint)


def simulate(plan: Plan) -> dict[str, Any]:
    """Run one swarm and return its figures."""
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    trace = Digest()
    world = World(plan.seed, trace=trace, latency=LATENCY)
    roles = world.rng("roles")
    bad = roles.sample(range(1, plan.nodes), round(plan.adversaries * plan.nodes))
    swarm = DhtSwarm(world, plan.config, bad)
    meter = Meter()
    if plan.bytes:
        world.network.carry = meter
    gc.freeze()
    gc.disable()  # peers are millions of objects that stay: to look through them again and again is in vain
    swarm.are_lying = plan.lies == "joins"
    _form(swarm, plan)
    swarm.turn()
    forming = (meter.datagram_bytes, swarm.total("queries"), time.monotonic() - began_s)
    lookups = Lookups(swarm)
    figures = churn(swarm, lookups, plan) if plan.churn else _look(swarm, lookups, plan)
    gc.enable()
    return {
        "nodes": plan.nodes,
        "lookups": len(lookups.found),
        "seed": plan.seed,
        "form": plan.form,
        "dead": plan.dead,
        "adversaries": plan.adversaries,
        "lies": plan.lies,
        "disjoint": plan.disjoint,
        **lookups.figures(median_round_trip_s(world)),
        **figures,
        "forming_requests_per_node": round(forming[1] / plan.nodes, 1),
        "forming_bytes_per_node": round(forming[0] / plan.nodes) if plan.bytes else None,
        "bytes_per_node": round((meter.datagram_bytes - forming[0]) / plan.nodes) if plan.bytes else None,
        "events": world.events_count,
        "trace_hash": trace.hash,
        "forming_s": round(forming[2], 1),
        "cpu_s": round(time.process_time() - cpu_began_s, 1),
        "wall_s": round(time.monotonic() - began_s, 1),
    }


def _form(swarm: DhtSwarm, plan: Plan) -> None:
    if plan.form == "tables":
        swarm.form_tables(plan.nodes)
        return
    swarm.form_by_joins(plan.nodes, JOINS_PER_S)
    swarm.world.run_for(plan.nodes / JOINS_PER_S + SETTLE_S)


def _look(swarm: DhtSwarm, lookups: Lookups, plan: Plan) -> dict[str, Any]:
    """Let go wrong what has to, and start all lookups within a second."""
    world = swarm.world
    rng = world.rng("lookups")
    for host in rng.sample(swarm.hosts, round(plan.dead * plan.nodes)):
        swarm.crash(host)
    askers, begun = swarm.alive, world.now
    for index in range(plan.lookups):
        asker, key = rng.choice(askers), rng.randbytes(32)
        world.at(begun + LOOKUPS_WITHIN_S * index / plan.lookups, partial(lookups.find, asker, key))
    world.run_for(WAIT_S)
    if not plan.adversaries:
        return {}
    return {"records_found": _put_and_get(swarm, lookups, plan.lookups, rng)}


def _put_and_get(swarm: DhtSwarm, lookups: Lookups, count: int, rng: random.Random) -> float:
    """Let honest peers put records, then others get them; return the share of those found."""
    world, askers = swarm.world, swarm.alive
    keys = [rng.randbytes(32) for _ in range(count)]
    for command in (lookups.put, lookups.get):
        begun = world.now
        for index, key in enumerate(keys):
            world.at(begun + LOOKUPS_WITHIN_S * index / count, partial(command, rng.choice(askers), key))
        world.run_for(WAIT_S)
    return round(statistics.fmean(lookups.gets), 5)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--form", choices=("joins", "tables"), default="joins")
    parser.add_argument("--bytes", action="store_true", help="measure what is sent")
    parser.add_argument("--dead", type=float, default=0.0, help="share of peers, 0 to 1")
    parser.add_argument("--adversaries", type=float, default=0.0, help="share of peers, 0 to 1")
    parser.add_argument("--lies", choices=("lookups", "joins"), default="lookups", help="from when on")
    parser.add_argument("--disjoint", type=int, default=1, help="paths of each lookup")
    parser.add_argument("--churn", type=float, default=0.0, help="median session, seconds")
    parser.add_argument("--hours", type=float, default=6.0, help="of the swarm's time, with --churn")
    parser.add_argument("--sessions", choices=("weibull", "exponential"), default="weibull")
    parser.add_argument("--ttl", type=float, default=7200.0, help="of the records, seconds, with --churn")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    plan = Plan(**args)
    plans = [plan, replace(plan, disjoint=1)] if plan.adversaries and plan.disjoint > 1 else [plan]
    results = [simulate(each) for each in plans]
    if as_json:
        print("\n".join(map(json.dumps, results)))
    else:
        table = Table("figure", *(_title(each) for each in plans))
        for name in results[0]:
            table.add_row(name, *(str(each[name]) for each in results))
        console().print(table)
    return 0


def _title(plan: Plan) -> str:
    return f"{plan.disjoint} disjoint paths" if plan.disjoint > 1 else "one path"


if __name__ == "__main__":
    raise SystemExit(main())
