"""`python -m simulations.dht` at sizes that a test can bear: what it promises of its figures and itself."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2pinfer.dht.keyspace import prefix_length
from p2pinfer.ids import Contact
from simulations.dht import Plan, simulate
from simulations.dht_churn import draw_session_s
from simulations.dht_swarm import Ring
from tests.dht.peers import contact, nearest_by_force

ROOT = Path(__file__).parent.parent.parent
SMALL = Plan(nodes=40, lookups=60)


def test_the_ring_finds_what_comparing_everything_finds() -> None:
    contacts = [contact(index) for index in range(200)]
    ring, rng = Ring(contacts), random.Random(1)
    peers = [each.peer or b"" for each in contacts]
    keys = [*(rng.randbytes(32) for _ in range(50)), *peers[:5], bytes(32), b"\xff" * 32]
    for key in keys:
        for count in (1, 20, 200, 300):
            assert [each.peer for each in ring.nearest(key, count)] == nearest_by_force(key, peers, count)
    for prefix in range(12):
        expected = {peer for peer in peers[1:] if prefix_length(peers[0], peer) == prefix}
        assert {each.peer for each in ring.in_bucket(peers[0], prefix)} == expected
    assert Ring(()).nearest(bytes(32), 20) == []
    nobody: list[Contact] = Ring(()).in_bucket(bytes(32), 3)
    assert nobody == []


def test_one_seed_gives_one_trace_in_every_process() -> None:
    def run(hash_seed: str) -> str:
        arguments = ["--nodes", "20", "--lookups", "10", "--dead", "0.2", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "simulations.dht", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        return str(json.loads(done.stdout)["trace_hash"])

    assert run("1") == run("2")
    plan = replace(SMALL, nodes=20, lookups=10)
    assert simulate(plan)["trace_hash"] != simulate(replace(plan, seed=2))["trace_hash"]


@pytest.mark.parametrize("form", ["joins", "tables"])
def test_a_whole_swarm_finds_all_of_the_nearest(form: str) -> None:
    result = simulate(replace(SMALL, form=form))
    assert result["success"] == result["recall"] == 1.0
    assert result["rpc_mean"] <= 24
    assert result["dead_in_result"] == 0
    assert result["lookups"] == SMALL.lookups


def test_with_half_of_all_dead_at_once_the_living_are_found() -> None:
    result = simulate(replace(SMALL, nodes=50, dead=0.5))
    assert result["success"] == 1.0
    assert result["recall"] >= 0.99
    assert result["dead_in_result"] == 0


def test_a_fifth_of_liars_hides_next_to_nothing_from_disjoint_paths() -> None:
    result = simulate(replace(SMALL, nodes=120, form="tables", adversaries=0.2, disjoint=4))
    assert result["success"] >= 0.98
    assert result["records_found"] >= 0.98


def test_records_outlive_their_holders_and_owners() -> None:
    result = simulate(Plan(nodes=30, form="tables", churn=200.0, hours=0.15, ttl=600.0))
    assert result["peers_gone"] > 30, "there must be something to bear"
    assert result["gets_of_orphans"] >= 3
    assert result["success"] >= 0.98
    assert result["dead_in_result"] == 0


@pytest.mark.parametrize("kind", ["weibull", "exponential"])
def test_sessions_have_their_median(kind: str) -> None:
    rng = random.Random(1)
    drawn = [draw_session_s(kind, 1800.0, rng) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(1800.0, rel=0.08)
    ratio = statistics.fmean(drawn) / statistics.median(drawn)
    assert ratio == pytest.approx({"weibull": 2.86, "exponential": 1.44}[kind], rel=0.1)


@pytest.mark.soak
def test_five_thousand_find_all_of_the_nearest() -> None:
    result = simulate(Plan(nodes=5000))
    assert result["success"] == result["recall"] == 1.0
    assert result["rpc_mean"] <= 24
    assert result["dead_in_result"] == 0


@pytest.mark.soak
def test_of_five_thousand_half_die_at_once_and_all_lookups_succeed() -> None:
    result = simulate(Plan(nodes=5000, dead=0.5))
    assert result["success"] == 1.0
    assert result["recall"] >= 0.99
    assert result["dead_in_result"] == 0


@pytest.mark.soak
def test_of_five_thousand_a_fifth_lies_and_disjoint_paths_find_nearly_all() -> None:
    result = simulate(Plan(nodes=5000, adversaries=0.2, disjoint=4))
    assert result["success"] >= 0.99
    assert result["records_found"] >= 0.99


@pytest.mark.soak
@pytest.mark.parametrize("sessions", ["weibull", "exponential"])
def test_live_records_are_found_through_six_hours_of_coming_and_going(sessions: str) -> None:
    result = simulate(Plan(nodes=200, churn=1800.0, hours=6.0, sessions=sessions))
    assert result["success"] >= 0.999
    assert result["dead_in_result"] == 0
