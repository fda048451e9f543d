"""`python -m simulations.swim` at sizes that a test can bear: what it promises of its figures and itself."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.suspicion import suspicion_s_min
from p2pinfer.testing import Trace, World
from simulations.swim import Plan, simulate
from simulations.swim_swarm import Digest, FormedSwarm

ROOT = Path(__file__).parent.parent.parent
SMALL = Plan(nodes=60, seconds=40, seed=1)


def test_a_formed_swarm_knows_itself_and_is_at_rest() -> None:
    world = World(1)
    swarm = FormedSwarm(world, 20, SwimConfig.lan())
    assert all(len(host.core.alive()) == 20 for host in swarm.hosts)
    assert all(host.core.statistics()["queue_count"] == 0 for host in swarm.hosts)


def test_one_seed_gives_one_trace_in_every_process() -> None:
    def run(hash_seed: str) -> str:
        arguments = ["--nodes", "20", "--seconds", "5", "--loss", "0.1", "--crashes", "2", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "simulations.swim", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        return str(json.loads(done.stdout)["trace_hash"])

    assert run("1") == run("2")
    assert (
        simulate(replace(SMALL, seconds=5))["trace_hash"]
        != simulate(replace(SMALL, seconds=5, seed=2))["trace_hash"]
    )


def test_the_digest_tells_runs_apart_as_the_trace_does() -> None:
    def run(trace: Trace, seed: int) -> str:
        FormedSwarm(World(seed, trace=trace), 5, SwimConfig.lan()).world.run_for(3.0)
        return trace.hash

    assert run(Digest(), 1) == run(Digest(), 1)
    assert run(Digest(), 1) != run(Digest(), 2)
    assert run(Trace(), 1) != run(Trace(), 2)


def test_the_first_detection_takes_what_theory_says() -> None:
    """SWIM 3.1: each period every member is probed by one other on average, whatever the size.

    With members out of step the wait for a probe is exponential with a mean of one period, and the probe
    takes one more: 2.0 on average, 1.69 in the median. The mean of 36 deaths is within 0.5 of it at three
    standard errors.
    """
    plan = replace(SMALL, nodes=50, crashes=12, seconds=32, silent=True)
    runs = [simulate(replace(plan, seed=seed)) for seed in range(1, 4)]
    assert all(run["deaths_known_to_all"] == 12 for run in runs)
    assert statistics.fmean(run["detect_first_mean_periods"] for run in runs) == pytest.approx(2.0, abs=0.5)
    shortest_s = suspicion_s_min(SwimConfig.lan(), 50)
    assert all(run["known_after_suspicion_p99_s"] <= shortest_s + 3.0 for run in runs)


def test_nobody_healthy_dies_of_a_quarter_lost() -> None:
    result = simulate(replace(SMALL, nodes=40, loss=0.25))
    assert result["false_positives_all"] == 0
    assert result["suspicions_of_living"] > 0, "the test must have something to bear"


def test_the_load_of_a_member_is_bounded_at_every_size() -> None:
    """A ping and its answer, and gossip rounds while there is news: 2 + 3 / 0.2 datagrams a second."""
    lan = SwimConfig.lan()
    bound = 2 / lan.probe_interval_s + lan.gossip_count / lan.gossip_interval_s
    for nodes in (20, 80):
        assert (
            1.9
            <= simulate(replace(SMALL, nodes=nodes, seconds=20))["datagrams_per_node_per_s"]
            <= bound * 1.1
        )


@pytest.mark.soak
def test_nobody_dies_in_ten_minutes_of_a_tenth_lost_among_a_thousand() -> None:
    result = simulate(Plan(nodes=1000, loss=0.1, seconds=600))
    assert result["false_positives_all"] == 0


@pytest.mark.soak
@pytest.mark.parametrize("nodes", [50, 200, 1000, 2000])
def test_the_first_detection_does_not_depend_on_the_size(nodes: int) -> None:
    seeds = range(1, 1 + math.ceil(200 / (nodes / 10)))
    runs = [
        simulate(Plan(nodes=nodes, seconds=60, crashes=min(200, nodes // 10), silent=True, seed=seed))
        for seed in seeds
    ]
    assert statistics.median(run["detect_first_p50_periods"] for run in runs) <= 1.9
    assert all(run["deaths_known_to_all"] == run["deaths"] for run in runs)


@pytest.mark.soak
def test_lifeguard_spares_the_slow_and_nobody_healthy_dies_without_it() -> None:
    """Of the healthy none die either way: word of a death is one more accuser, where in SWIM it kills."""
    plan = Plan(nodes=200, slow=0.05, seconds=120)
    with_it, without = simulate(plan), simulate(replace(plan, lifeguard=False))
    assert with_it["false_positives"] == without["false_positives"] == 0
    assert without["false_positives_all"] > 50, "without it there must be something to spare"
    assert without["false_positives_all"] >= 50 * with_it["false_positives_all"]
