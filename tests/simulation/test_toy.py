"""The whole of the simulator on a toy: determinism, fault plans, checkers and replays."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from p2pinfer.testing import (
    Always,
    FaultMenu,
    FaultPlan,
    FaultWeights,
    Host,
    InvariantViolated,
    SimulationFailed,
    Stage,
    Trace,
    World,
    run_seeds,
)
from p2pinfer.testing import replay as replay_module
from tests.toy_core import add_toys

ROOT = Path(__file__).parents[2]
FAULTS_S = 10.0


class NothingToldIsLost:
    """After any restart a peer knows at least the count that it told of."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts

    def check(self, world: World) -> None:
        for host in self._hosts:
            told = max((item[1] for item in host.delivered if isinstance(item, tuple)), default=0)
            if host.up and host.core.counts[host.core.own] < told:
                raise InvariantViolated(f"{host.name} told of {told} and has forgotten it")


def run(world: World, *, acks_early: bool) -> None:
    hosts = add_toys(world, 4, acks_early=acks_early)
    world.checkers.append(NothingToldIsLost(hosts))
    plan = FaultPlan.random(world.rng("plan"), list(world.hosts), FAULTS_S)
    plan.apply(world)
    rng = world.rng("client")

    def increment() -> None:
        rng.choice(hosts).call(lambda core, now: core.increment(now))
        if world.now < FAULTS_S:
            world.at(world.now + 0.2 * rng.random(), increment)

    world.at(0.0, increment)
    world.run_until(FAULTS_S)
    healed = world.run_until_true(lambda: len({host.core.total for host in hosts}) == 1, timeout_s=2.0)
    assert healed, f"the sums still differ: {[host.core.total for host in hosts]}"


def scenario(world: World) -> None:
    run(world, acks_early=False)


def broken_scenario(world: World) -> None:
    run(world, acks_early=True)


def test_the_toy_survives_faults_and_converges_after_them(sim_seed: int) -> None:
    run_seeds(scenario, [sim_seed], replay="tests.simulation.test_toy:scenario")


def test_a_toy_that_tells_before_its_disk_knows_is_caught_and_explained() -> None:
    with pytest.raises(SimulationFailed) as caught:
        run_seeds(broken_scenario, range(20), replay="tests.simulation.test_toy:broken_scenario")
    message, seed = str(caught.value), caught.value.seed
    assert f"seed {seed}: InvariantViolated" in message
    assert "has forgotten it" in message
    assert f"-m p2pinfer.testing.replay tests.simulation.test_toy:broken_scenario --seed {seed}" in message
    assert "crash" in caught.value.trace.tail(10_000)
    assert isinstance(caught.value.__cause__, InvariantViolated)


def test_an_assertion_of_the_scenario_fails_it_too_and_luck_is_named() -> None:
    runs: list[int] = []

    def fails_once(world: World) -> None:
        runs.append(world.seed)
        assert len(runs) != 3, "third run"

    with pytest.raises(SimulationFailed, match="seed 7: AssertionError: third run") as caught:
        run_seeds(fails_once, range(5, 9), replay="x:y")
    assert "does not come from the seed" in str(caught.value)


def test_always_checks_after_every_event() -> None:
    world = World(1)
    hosts = add_toys(world, 2)
    world.checkers.append(Always("nobody ticks three times", lambda: hosts[0].core.ticks_count < 3))
    with pytest.raises(InvariantViolated, match="nobody ticks three times"):
        world.run_for(10)
    assert hosts[0].core.ticks_count == 3


def most_run(hosts: list[Host]) -> bool:
    return sum(host.stage is Stage.UP for host in hosts) > len(hosts) // 2


def trace_hash(seed: int) -> str:
    trace = Trace()
    scenario(World(seed, trace=trace))
    return trace.hash


def test_the_seed_decides_everything_and_the_process_nothing() -> None:
    here = trace_hash(3)
    program = "from tests.simulation.test_toy import trace_hash; print(trace_hash(3))"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert done.stdout.strip() == here
    assert trace_hash(4) != here


def test_tracing_changes_nothing() -> None:
    traced, bare = World(5, trace=Trace()), World(5)
    for world in (traced, bare):
        scenario(world)
    assert (traced.events_count, traced.now) == (bare.events_count, bare.now)


def test_the_replay_shows_the_whole_trace(capsys: pytest.CaptureFixture[str]) -> None:
    replay_module.main(["tests.simulation.test_toy:scenario", "--seed", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"hash {trace_hash(3)} of {len(lines) - 1} lines"
    assert "start" in lines[0]


@pytest.mark.parametrize("where", ["nonsense", "tests.simulation.test_toy:nothing", "tests.nowhere:scenario"])
def test_a_replay_of_nothing_is_refused(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        replay_module.main([where, "--seed", "1"])
    assert "error:" in capsys.readouterr().err


def test_the_replay_command_runs_as_it_is_printed() -> None:
    command = [sys.executable, "-m", "p2pinfer.testing.replay", "tests.simulation.test_toy:broken_scenario"]
    with pytest.raises(SimulationFailed) as caught:
        run_seeds(broken_scenario, range(20), replay="x:y")
    done = subprocess.run(
        [*command, "--seed", str(caught.value.seed)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert "InvariantViolated" in done.stderr
    assert done.stdout.splitlines()[-1] == caught.value.trace.lines[-1]


def test_a_plan_draws_every_kind_keeps_a_majority_up_and_heals_all() -> None:
    menu = FaultMenu(
        weights=FaultWeights(torn_crash=2.0, wipe=2.0), interval_s=0.1, length=FaultMenu().length
    )
    kinds = set()
    for seed in range(10):
        world = World(seed)
        hosts = add_toys(world, 5)
        plan = FaultPlan.random(world.rng("plan"), list(world.hosts), 20.0, menu)
        kinds |= {fault.kind for fault in plan.faults}
        plan.apply(world)
        world.network.partition("h1", "h2")
        world.checkers.append(Always("most of them run", partial(most_run, hosts)))
        world.run_until(20.0)
        world.run_for(0.0)
        assert all(host.stage is Stage.UP and host.now == pytest.approx(world.now, abs=0.8) for host in hosts)
        assert not any(world.network.cut(a, b) for a in world.hosts for b in world.hosts)
    assert kinds == set(FaultWeights.__dataclass_fields__)
