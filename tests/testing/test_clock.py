"""Clocks show what they are told to, and ticks come when they are due by their host's clock."""

from __future__ import annotations

import pytest

from p2pinfer.effects import Effect
from p2pinfer.errors import InternalError
from p2pinfer.testing import Host, World
from tests.toy_core import add_toys, contact


def test_early_and_double_ticks_make_no_difference() -> None:
    def total_effects(pokes: bool) -> tuple[list[float], int]:
        world = World(3)
        one, two = add_toys(world, 2)
        sent: list[float] = []
        world.network.add_rule(lambda packet: sent.append(packet.now))
        for step in range(500 if pokes else 0):
            world.at(step * 0.01, one.poke)
            world.at(step * 0.01, one.poke)
        world.run_until(5)
        assert two.core.ticks_count > 30
        return sent, one.core.ticks_count

    (sent, ticks_count), (sent_poked, ticks_poked_count) = total_effects(False), total_effects(True)
    assert sent == sent_poked
    assert ticks_poked_count >= ticks_count + 900


def test_a_skewed_clock_shows_it_and_never_goes_backwards() -> None:
    world = World(1)
    host, _ = add_toys(world, 2)
    world.run_until(10)
    host.skew(5.0, 0.5)
    assert host.now == 15.0
    world.run_until(12)
    assert host.now == pytest.approx(18.0)
    host.skew(0.0)
    assert host.now == pytest.approx(18.0), "set back, it stands until the time comes"
    world.run_until(20)
    assert host.now == 20.0
    with pytest.raises(ValueError, match="drift"):
        host.skew(0.0, -1.0)


@pytest.mark.parametrize(("offset_s", "drift"), [(0.3, 0.37), (-0.7, -0.2), (100.0, 0.0), (0.0, 1e-9)])
def test_a_skewed_host_ticks_by_its_own_clock_and_never_early(offset_s: float, drift: float) -> None:
    world = World(1)
    host, _ = add_toys(world, 2)
    world.run_until(1)
    host.skew(offset_s, drift)
    ticks_before, world_before = host.core.ticks_count, world.now
    effects_count = []
    world.network.add_rule(lambda packet: effects_count.append(1) if packet.source == "h1" else None)
    world.run_until(61)
    ticks_count = host.core.ticks_count - ticks_before
    assert len(effects_count) == ticks_count, "each tick was due, so each did something"
    own_s = (world.now - world_before) * (1 + drift) + offset_s
    assert ticks_count == pytest.approx(own_s / 0.1, rel=0.1) or offset_s == 100.0


class Timer:
    """Asks for one tick at a time and remembers when it came, by its own clock and by the world's."""

    deadline: float | None = 5.0

    def __init__(self, world: World) -> None:
        self.fired: list[tuple[float, float]] = []
        self.world = world

    def tick(self, now: float) -> list[Effect]:
        self.fired.append((now, self.world.now))
        self.deadline = None
        return []

    def move(self, at: float | None) -> list[Effect]:
        self.deadline = at
        return []


def timer_alone() -> tuple[World, Host, Timer]:
    world = World(1)
    timer = Timer(world)
    host = world.add("t", lambda disk, rng, now: timer, contact(1))  # type: ignore[arg-type,return-value]
    return world, host, timer


def test_deadlines_that_move_back_and_forth_are_kept() -> None:
    world, host, timer = timer_alone()
    host.call(lambda core, now: core.move(2.0))
    host.call(lambda core, now: core.move(3.0))
    world.run_until(4)
    assert timer.fired == [(3.0, 3.0)]
    host.call(lambda core, now: core.move(5.0))
    host.call(lambda core, now: core.move(None))
    world.run_until(6)
    assert timer.fired == [(3.0, 3.0)]
    host.call(lambda core, now: core.move(1.0))
    world.run_until(7)
    assert timer.fired[1:] == [(6.0, 6.0)], "a deadline in the past is due now"


def test_a_clock_set_forward_brings_the_deadline_nearer_and_back_further() -> None:
    for offset_s, expected in ((3.0, 2.0), (-3.0, 8.0)):
        world, host, timer = timer_alone()
        host.skew(offset_s)
        world.run_until(20)
        assert timer.fired == [(5.0, expected)]


def test_after_a_stall_what_is_due_comes_before_what_has_waited() -> None:
    world, host, timer = timer_alone()
    host.pause()
    call = host.call(lambda core, now: (list(core.fired), []))
    world.run_until(7)
    host.resume()
    world.run_until(8)
    assert call.value == timer.fired == [(7.0, 7.0)]


def test_a_deadline_that_never_moves_is_a_bug_that_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pinfer.testing.world.EVENTS_AT_ONE_TIME_COUNT_MAX", 100)
    world, _, timer = timer_alone()
    monkeypatch.setattr(timer, "tick", lambda now: [])
    with pytest.raises(InternalError, match=r"time stands still at 5\.0 s"):
        world.run_until(6)
