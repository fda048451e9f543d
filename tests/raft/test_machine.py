"""Three cores whose messages, disks and lives hypothesis plays with; every step is checked."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pinfer.raft.types import ChangeKind
from tests.raft.chaos import Chaos

nodes = st.integers(1, 3)
everybody = st.integers(1, 4)
choices = st.integers(0, 1 << 20)


class ThreeCores(RuleBasedStateMachine):
    """Nodes 1 to 3 are voters at the start, and 4 may become one."""

    def __init__(self) -> None:
        super().__init__()
        self.chaos = Chaos(7, count=3, spare=1)

    @rule(choice=choices)
    def deliver(self, choice: int) -> None:
        self.chaos.deliver(choice)

    @rule(count=st.integers(2, 12))
    def deliver_some(self, count: int) -> None:
        for _ in range(count):
            self.chaos.deliver(0)

    @rule(choice=choices)
    def drop(self, choice: int) -> None:
        self.chaos.drop(choice)

    @rule(choice=choices)
    def repeat(self, choice: int) -> None:
        self.chaos.repeat(choice)

    @rule(node=everybody)
    def sync(self, node: int) -> None:
        self.chaos.sync(node)

    @rule(node=everybody)
    def refuse_write(self, node: int) -> None:
        self.chaos.refuse_write(node)

    @rule(node=everybody)
    def crash(self, node: int) -> None:
        self.chaos.crash(node)

    @rule(seconds=st.sampled_from((0.02, 0.1, 0.5, 2.0)))
    def pass_time(self, seconds: float) -> None:
        self.chaos.pass_time(seconds)

    @rule()
    def quiet(self) -> None:
        self.chaos.quiet(1.0)

    @rule(node=nodes, count=st.integers(1, 20))
    def propose(self, node: int, count: int) -> None:
        self.chaos.propose(node, count)

    @rule(node=everybody)
    def read(self, node: int) -> None:
        self.chaos.read(node)

    @rule(node=nodes)
    def compact(self, node: int) -> None:
        self.chaos.compact(node)

    @rule(node=nodes, to=st.none() | nodes)
    def transfer(self, node: int, to: int | None) -> None:
        self.chaos.transfer(node, to)

    @rule(node=nodes)
    def hint(self, node: int) -> None:
        self.chaos.hint(node)

    @rule(node=nodes, kind=st.sampled_from(ChangeKind), other=everybody)
    def change(self, node: int, kind: ChangeKind, other: int) -> None:
        self.chaos.change(node, kind, other)

    @rule(node=nodes)
    def isolate(self, node: int) -> None:
        self.chaos.cluster.isolate(node)

    @rule()
    def heal(self) -> None:
        self.chaos.cluster.heal()

    @invariant()
    def holds(self) -> None:
        self.chaos.invariants.check()

    def teardown(self) -> None:
        self.chaos.recover()


TestThreeCores = ThreeCores.TestCase
TestThreeCores.settings = settings(
    max_examples=15, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_schedule_breaks_nothing_and_all_heals(seed: int) -> None:
    rng = random.Random(seed)
    chaos = Chaos(seed, count=rng.choice((2, 3, 3, 5)), learners=rng.choice((0, 1)), spare=1)
    for _ in range(500):
        chaos.random_step(rng)
    chaos.recover()
