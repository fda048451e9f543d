"""How soon deaths are noticed, what is noticed wrongly and what it costs, in a swarm of simulated members.

    python -m simulations.swim [--json] [--nodes 1000] [--loss 0.1] [--seconds 600] [--seed 1]
                               [--slow 0.05] [--crashes N] [--silent] [--profile lan|wan|local]
                               [--no-lifeguard | --compare]

The cores are the real ones; clock, network and signatures are simulated. The swarm is formed from the start,
runs for some periods, and then some members end without a word, at random times. `--slow` blocks the event
loops of a share of the members for 1 to 10 s, again and again; `--compare` runs the same seed with Lifeguard
and without.

What is printed, where `false_positive` is a member that was up all the time and taken for dead by one other:

    false_positives           about members that were never slow, by anybody
    false_positives_all       about slow members as well
    detect_first_*_periods    from the end to the first suspicion, in probe intervals
    all_know_*_s              from the end until all who live take it for dead
    known_after_suspicion_*_s from the first suspicion to the same
    trace_hash                the same for one seed in every process
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from p2pinfer.cli.output import console
from p2pinfer.ids import PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.news import MemberDead, MemberSuspected
from p2pinfer.swim.suspicion import suspicion_s_min
from p2pinfer.testing import Host, Latency, Link, World
from p2pinfer.testing.network import LAN_LATENCY
from simulations.swim_swarm import Digest, FormedSwarm, Meter

__all__ = ["Plan", "simulate"]

PROFILES = {"lan": SwimConfig.lan, "wan": SwimConfig.wan, "local": SwimConfig.local}
WAN_LATENCY = Latency(0.02, 0.06, "exponential")
"""Seconds one way, between continents."""
STALLED_S = (1.0, 10.0)
"""How long a slow member's event loop is blocked."""
RUNNING_S = (0.004, 4.0)
"""How long it runs between, each magnitude as often (Lifeguard V-A: from a millisecond to 16 s)."""
WARM_UP_PERIODS = 10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    nodes: int = 1000
    loss: float = 0.0
    seconds: float = 60.0
    """Of the swarm's time, behind the warm-up."""
    seed: int = 1
    slow: float = 0.0
    """Share of the members that stall."""
    crashes: int = 0
    silent: bool = False
    """Whether they end as by a power cut: no connection breaks, so that probes alone can tell."""
    profile: str = "lan"
    lifeguard: bool = True

    @property
    def config(self) -> SwimConfig:
        """The membership's settings."""
        config = PROFILES[self.profile]()
        changes: dict[str, Any] = {} if self.lifeguard else {"lifeguard": False}
        return replace(config, **changes)


@dataclass
class _Death:
    """One member that ended: who noticed when."""

    at: float
    first_suspected_at: float | None = None
    known_at: dict[str, float] = field(default_factory=dict)


class _Watch:
    """Hears all news of all members, and holds them against what is so."""

    def __init__(self, swarm: FormedSwarm, slow: Sequence[Host], *, silent: bool) -> None:
        self.swarm = swarm
        self.silent = silent
        self.slow = {host.contact.peer for host in slow}
        self.deaths: dict[PeerId, _Death] = {}
        self.suspicions = self.wrong_healthy = self.wrong_all = self.wrong_among_healthy = 0
        for host in swarm.hosts:
            host.log.on_notify = self.hear

    def hear(self, host: Host, news: object) -> None:
        """Take one piece of news."""
        host.log.notices.clear()  # a thousand members measure a thousand round trips a second
        if isinstance(news, MemberSuspected):
            death = self.deaths.get(news.peer)
            if death is None:
                self.suspicions += 1
            elif death.first_suspected_at is None:
                death.first_suspected_at = self.swarm.world.now
        elif isinstance(news, MemberDead):
            self._hear_of_death(host, news.peer)

    def _hear_of_death(self, host: Host, peer: PeerId) -> None:
        death = self.deaths.get(peer)
        if death is not None:
            death.known_at.setdefault(host.name, self.swarm.world.now)
            return
        self.wrong_all += 1
        if peer not in self.slow:
            self.wrong_healthy += 1
            self.wrong_among_healthy += host.contact.peer not in self.slow

    def crash(self, host: Host) -> None:
        """End a member now."""
        peer = host.contact.peer
        if peer is not None:
            self.deaths[peer] = _Death(self.swarm.world.now)
            host.pause() if self.silent else host.crash()

    def figures(self, period_s: float) -> dict[str, Any]:
        """What was noticed, and how soon."""
        living = [host.name for host in self.swarm.hosts if host.contact.peer not in self.deaths]
        first = [
            (death.first_suspected_at - death.at) / period_s
            for death in self.deaths.values()
            if death.first_suspected_at is not None
        ]
        known = [
            (death, max(death.known_at[name] for name in living))
            for death in self.deaths.values()
            if all(name in death.known_at for name in living)
        ]
        since_crash = [at - death.at for death, at in known]
        since_suspicion = [at - (death.first_suspected_at or death.at) for death, at in known]
        return {
            "false_positives": self.wrong_healthy,
            "false_positives_all": self.wrong_all,
            "false_positives_among_healthy": self.wrong_among_healthy,
            "suspicions_of_living": self.suspicions,
            "deaths": len(self.deaths),
            "deaths_known_to_all": len(known),
            "detect_first_p50_periods": _quantile(first, 0.5),
            "detect_first_mean_periods": round(statistics.fmean(first), 3) if first else None,
            "detect_first_p99_periods": _quantile(first, 0.99),
            "all_know_p50_s": _quantile(since_crash, 0.5),
            "all_know_p99_s": _quantile(since_crash, 0.99),
            "known_after_suspicion_p99_s": _quantile(since_suspicion, 0.99),
        }


def simulate(plan: Plan) -> dict[str, Any]:
    """Run one swarm and return its figures."""
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    config = plan.config
    trace = Digest()
    latency = WAN_LATENCY if plan.profile == "wan" else LAN_LATENCY
    world = World(plan.seed, trace=trace, latency=latency)
    world.network.link = Link(latency=latency, loss=plan.loss)
    swarm = FormedSwarm(world, plan.nodes, config)
    formed_s = time.monotonic() - began_s
    hosts = list(swarm.hosts)
    world.rng("roles").shuffle(hosts)
    slow = hosts[: round(plan.slow * plan.nodes)]
    watch = _Watch(swarm, slow, silent=plan.silent)
    meter = Meter()
    world.network.carry = meter
    gc.collect()
    gc.freeze()  # members are millions of objects that stay: to look through them again and again is in vain
    for host in slow:
        _Stalls(world, host).begin()
    world.run_for(WARM_UP_PERIODS * config.probe_interval_s)
    meter.reset()
    began = world.now
    _plan_crashes(world, watch, hosts[len(slow) :], plan)
    world.run_for(plan.seconds)
    node_seconds = plan.nodes * (world.now - began)
    gc.unfreeze()
    return {
        "nodes": plan.nodes,
        "loss": plan.loss,
        "seconds": plan.seconds,
        "seed": plan.seed,
        "slow": plan.slow,
        "profile": plan.profile,
        "lifeguard": plan.lifeguard,
        **watch.figures(config.probe_interval_s),
        "suspicion_min_s": round(suspicion_s_min(config, plan.nodes), 2),
        "datagrams_per_node_per_s": round(meter.datagrams / node_seconds, 3),
        "bytes_per_node_per_s": round(meter.datagram_bytes / node_seconds),
        "stream_bytes_per_node_per_s": round(meter.stream_bytes / node_seconds),
        "queue_count_max": max(len(host.core._members.queue) for host in swarm.hosts),
        "events": world.events_count,
        "trace_hash": trace.hash,
        "forming_s": round(formed_s, 1),
        "cpu_s": round(time.process_time() - cpu_began_s, 1),
        "wall_s": round(time.monotonic() - began_s, 1),
    }


def _plan_crashes(world: World, watch: _Watch, hosts: Sequence[Host], plan: Plan) -> None:
    """Spread the ends over the first half: the second half shows whether all learn of the last."""
    rng = world.rng("crashes")
    for host in hosts[: plan.crashes]:
        world.at(world.now + rng.uniform(0, plan.seconds / 2), _crasher(watch, host))


def _crasher(watch: _Watch, host: Host) -> Any:
    return lambda: watch.crash(host)


class _Stalls:
    """Blocks one member's event loop again and again."""

    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host
        self._rng = world.rng(f"stalls/{host.name}")

    def begin(self) -> None:
        """Let it run for a while, then block it."""
        shortest_s, longest_s = RUNNING_S
        running_s = shortest_s * (longest_s / shortest_s) ** self._rng.random()
        self._world.at(self._world.now + running_s, self._pause)

    def _pause(self) -> None:
        self._host.pause()
        self._world.at(self._world.now + self._rng.uniform(*STALLED_S), self._resume)

    def _resume(self) -> None:
        self._host.resume()
        self.begin()


def _quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share does not exceed (nearest rank); None of none."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--loss", type=float, default=0.0, help="share of datagrams, 0 to 1")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the swarm's time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=float, default=0.0, help="share of members that stall, 0 to 1")
    parser.add_argument("--crashes", type=int, default=0, help="members that end without a word")
    parser.add_argument("--silent", action="store_true", help="as by a power cut: no connection breaks")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan")
    parser.add_argument("--no-lifeguard", dest="lifeguard", action="store_false")
    parser.add_argument("--compare", action="store_true", help="run with Lifeguard, then without")
    args = vars(parser.parse_args())
    as_json, compares = args.pop("json"), args.pop("compare")
    plan = Plan(**args)
    plans = [replace(plan, lifeguard=True), replace(plan, lifeguard=False)] if compares else [plan]
    results = [simulate(each) for each in plans]
    if as_json:
        print("\n".join(map(json.dumps, results)))
    else:
        table = Table("figure", *("with Lifeguard" if each["lifeguard"] else "without" for each in results))
        for name in results[0]:
            table.add_row(name, *(str(each[name]) for each in results))
        console().print(table)
        if len(results) == 2:
            for name in ("false_positives", "false_positives_all"):
                with_it, without = (each[name] for each in results)
                print(f"{name} without / with: {without / max(1, with_it):.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
