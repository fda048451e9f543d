"""Random schedules of faults: drawn from a generator, applied to a world, and all healed at a given time.

A run has two phases. Until `heals_at_s` faults come and go, and only safety may be asked of the cores:
nothing wrong happens. After it everything is whole again, and liveness may be asked: something right happens
soon.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from p2pinfer.testing.latency import Latency
from p2pinfer.testing.rules import Drop, Packet, Verdict

if TYPE_CHECKING:
    from p2pinfer.testing.world import World

__all__ = ["Fault", "FaultMenu", "FaultPlan", "FaultWeights"]


LENGTH = Latency(0.05, 1.0, "exponential")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultWeights:
    """How often each kind of fault is drawn, against the others; 0 is never."""

    partition: float = 3.0
    """Two random sides that do not hear each other."""
    one_way: float = 2.0
    """One side is not heard by the other, but hears it."""
    crash: float = 4.0
    """A process ends and comes back with its disk."""
    crash_in_write: float = 2.0
    """The same, in the middle of the process's next write, if it writes before the fault ends."""
    torn_crash: float = 0.0
    """A crash that tears the write in flight: for cores that check their own values."""
    wipe: float = 0.0
    """A process ends and comes back with an empty disk."""
    pause: float = 2.0
    """A process stalls."""
    loss: float = 2.0
    """A share of all packets is lost."""
    skew: float = 1.0
    """A clock is displaced and drifts."""
    early_ticks: float = 1.0
    """A core is ticked before its time, which must change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMenu:
    """What a plan may choose from."""

    weights: FaultWeights = FaultWeights()
    interval_s: float = 1.0
    """Mean seconds between the beginnings of two faults, exponentially distributed."""
    length: Latency = LENGTH
    """Seconds that a fault lasts; many are short and some are long, as TigerBeetle's VOPR draws them."""
    down_count_max: int | None = None
    """How many hosts may be down or stalled at once; None: fewer than half, so that a quorum could act."""
    loss_max: float = 0.3
    """Largest share of packets that a burst of loss takes; VOPR goes to 30 %."""
    skew_max_s: float = 0.5
    """Largest displacement of a clock, either way."""
    drift_max: float = 0.01
    """Largest drift of a clock in seconds a second, either way; a bad quartz is a hundred times better."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault from its beginning to its end, in seconds since the plan was applied.

    `amount` is the share lost or the displacement in seconds; `drift` serves "skew" alone.
    """

    kind: str
    start_s: float
    end_s: float
    hosts: tuple[str, ...]
    amount: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults in the order of their beginnings, and when all of them are over."""

    faults: tuple[Fault, ...]
    hosts: tuple[str, ...]
    heals_at_s: float

    @classmethod
    def random(
        cls, rng: random.Random, hosts: Sequence[str], duration_s: float, menu: FaultMenu | None = None
    ) -> FaultPlan:
        """Draw a plan for these hosts that is over after `duration_s`."""
        menu = menu or FaultMenu()
        kinds = [field.name for field in fields(FaultWeights)]
        weights = [getattr(menu.weights, kind) for kind in kinds]
        limit = (len(hosts) - 1) // 2 if menu.down_count_max is None else menu.down_count_max
        faults: list[Fault] = []
        now = rng.expovariate(1.0 / menu.interval_s)
        while now < duration_s:
            kind = rng.choices(kinds, weights)[0]
            fault = _draw(rng, kind, hosts, (now, min(now + menu.length.draw(rng), duration_s)), menu)
            if fault.kind not in _STOPPING or _down_count(faults, fault) < limit:
                faults.append(fault)
            now += rng.expovariate(1.0 / menu.interval_s)
        return cls(tuple(faults), tuple(hosts), duration_s)

    def apply(self, world: World) -> None:
        """Plan all faults from now on, and the healing."""
        begun_s = world.now
        for number, fault in enumerate(self.faults):
            world.at(begun_s + fault.start_s, _Begins(world, fault, number, begun_s + fault.end_s))
        world.at(begun_s + self.heals_at_s, lambda: self.heal(world))

    def heal(self, world: World) -> None:
        """Make everything whole: no partition, every host up, every clock right."""
        _note(world, "all heals")
        world.network.heal()
        for name in self.hosts:
            host = world.hosts[name]
            host.skew(0.0)
            host.disk.ends_host = False
            host.resume()
            if not host.up:
                host.restart()


_STOPPING = ("crash", "crash_in_write", "torn_crash", "wipe", "pause")


def _draw(
    rng: random.Random, kind: str, hosts: Sequence[str], times: tuple[float, float], menu: FaultMenu
) -> Fault:
    """Choose a fault's hosts and amount. Of a partition, `hosts` names one side."""
    if kind in ("partition", "one_way"):
        side = tuple(sorted(rng.sample(list(hosts), rng.randrange(1, max(2, len(hosts))))))
        return Fault(kind, *times, side)
    if kind == "loss":
        return Fault(kind, *times, (), amount=menu.loss_max * rng.random())
    host = (rng.choice(list(hosts)),)
    if kind == "skew":
        amount = menu.skew_max_s * (2.0 * rng.random() - 1.0)
        return Fault(kind, *times, host, amount=amount, drift=menu.drift_max * (2.0 * rng.random() - 1.0))
    return Fault(kind, *times, host)


def _down_count(faults: Sequence[Fault], new: Fault) -> int:
    """Count the other hosts that are down while `new` lasts."""
    others = {
        host
        for fault in faults
        if fault.kind in _STOPPING and fault.end_s > new.start_s
        for host in fault.hosts
    }
    return len(others - set(new.hosts))


class _Begins:
    """The event at which a fault begins; it plans the fault's end."""

    def __init__(self, world: World, fault: Fault, number: int, end_s: float) -> None:
        self._world = world
        self._fault = fault
        self._number = number
        self._end_s = end_s

    def __call__(self) -> None:
        world, fault = self._world, self._fault
        _note(world, fault.kind, ",".join(fault.hosts), f"for {fault.end_s - fault.start_s:.3f} s")
        begin: Callable[[], Callable[[], object]] = getattr(self, f"_begin_{fault.kind}")
        world.at(max(self._end_s, world.now), begin())

    def _begin_partition(self, *, one_way: bool = False) -> Callable[[], object]:
        network, side = self._world.network, self._fault.hosts
        cut = network.partition(
            side, [name for name in self._world.hosts if name not in side], one_way=one_way
        )
        return lambda: network.heal(cut)

    def _begin_one_way(self) -> Callable[[], object]:
        return self._begin_partition(one_way=True)

    def _begin_crash(self, *, torn: bool = False, keep_disk: bool = True) -> Callable[[], object]:
        host = self._world.hosts[self._fault.hosts[0]]
        host.crash(torn=torn)
        return lambda: None if host.up else host.restart(keep_disk=keep_disk)

    def _begin_crash_in_write(self) -> Callable[[], object]:
        host = self._world.hosts[self._fault.hosts[0]]
        host.disk.ends_host = True

        def end() -> None:
            host.disk.ends_host = False
            if not host.up:
                host.restart()

        return end

    def _begin_torn_crash(self) -> Callable[[], object]:
        return self._begin_crash(torn=True)

    def _begin_wipe(self) -> Callable[[], object]:
        return self._begin_crash(keep_disk=False)

    def _begin_pause(self) -> Callable[[], object]:
        host = self._world.hosts[self._fault.hosts[0]]
        host.pause()
        return host.resume

    def _begin_loss(self) -> Callable[[], object]:
        network, share = self._world.network, self._fault.amount
        rng = self._world.rng(f"fault/{self._number}")

        def lose(packet: Packet) -> Verdict:
            return Drop() if rng.random() < share else None

        handle = network.add_rule(lose)
        return lambda: network.remove_rule(handle)

    def _begin_skew(self) -> Callable[[], object]:
        host = self._world.hosts[self._fault.hosts[0]]
        host.skew(self._fault.amount, self._fault.drift)
        return lambda: host.skew(0.0)

    def _begin_early_ticks(self) -> Callable[[], object]:
        host = self._world.hosts[self._fault.hosts[0]]
        host.poke()
        host.poke()
        return host.poke


def _note(world: World, *details: str) -> None:
    if world.trace is not None:
        world.trace.line(world.now, "-", "fault", *details)
