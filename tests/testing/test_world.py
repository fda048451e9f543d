"""The world's own verbs, and the ten lines that its documentation shows."""

from __future__ import annotations

import textwrap
from typing import Any

import p2pinfer.testing
from p2pinfer.effects import Effect
from p2pinfer.ids import Contact
from p2pinfer.testing import World
from tests.toy_core import ToyCore, add_toys, contact


def test_time_moves_to_the_asked_end_even_when_nothing_happens() -> None:
    world = World(1)
    assert not world.step()
    world.run_until(2.5)
    world.run_for(0.5)
    assert world.now == 3.0
    assert not world.run_until_true(lambda: False, timeout_s=1.0)
    assert world.now == 4.0
    assert world.run_until_true(lambda: True, timeout_s=1.0)
    assert world.now == 4.0


def test_events_at_one_time_keep_the_order_in_which_they_were_planned() -> None:
    world = World(1)
    seen: list[str] = []
    for time_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (2.0, "d")):
        world.at(time_s, lambda name=name: seen.append(name))  # type: ignore[misc]
    assert world.step()
    assert (seen, world.now) == (["a"], 1.0)
    world.run_until(1.9)
    assert seen == ["a", "b"]
    world.run_until(2.0)
    assert seen == ["a", "b", "c", "d"]


def test_run_until_true_stops_right_after_the_event() -> None:
    world = World(1)
    one, _ = add_toys(world, 2)
    assert world.run_until_true(lambda: one.core.ticks_count == 2, timeout_s=5.0)
    assert one.core.ticks_count == 2
    assert world.now < 1.0


def test_the_example_of_the_documentation_runs() -> None:
    documentation = p2pinfer.testing.__doc__ or ""
    example = documentation.split("in ten lines:\n")[1].split("\nA factory")[0]

    class MyCore(ToyCore):
        def __init__(self, rng: Any, disk: Any) -> None:
            super().__init__(contact(1), (), rng, 0.0, disk)
            self.members = [1, 2, 3]

        def join(self, to: Contact, now: float) -> list[Effect]:
            return []

    names: dict[str, Any] = {"MyCore": MyCore}
    exec(textwrap.dedent(example), names)
    names["test_join_survives_a_crash"]()
