"""A deterministic simulator for protocol cores: a whole swarm in one thread, from one seed.

How to write a simulated test in ten lines:

    from p2pinfer.ids import Contact, Endpoint, PeerId
    from p2pinfer.testing import World, run_seeds

    def scenario(world: World) -> None:
        contacts = [Contact(PeerId(bytes([i]) * 32), Endpoint(f"10.0.0.{i}", 7946)) for i in range(1, 4)]
        a, b, c = [world.add(name, lambda disk, rng, now: MyCore(rng, disk), contact)
                   for name, contact in zip("abc", contacts, strict=True)]
        a.call(lambda core, now: core.join(contacts[1], now))
        world.at(2.0, b.crash)
        world.at(4.0, b.restart)
        assert world.run_until_true(lambda: len(a.core.members) == 3, timeout_s=10.0)

    def test_join_survives_a_crash() -> None:
        run_seeds(scenario, range(50), replay="tests.simulation.test_join:scenario")

A factory is called at the start and at every restart, with what is on disk, a generator and the host's `now`;
it returns a core, or a core and its first effects. A failing seed prints the end of its trace and the command
that shows all of it. Faults: `host.crash`, `restart`, `pause`, `resume` and `skew`, `host.disk.failing`,
`world.network.partition` and `add_rule`, `world.network.link = Link(loss=0.1)`; `FaultPlan.random` draws a
schedule of them and heals all at its end. A checker looks at the world after every event: put it into
`world.checkers`.

`world.now` begins at 0, and a host's clock shows the same until it is skewed.
"""

from __future__ import annotations

from p2pinfer.testing.checkers import (
    Always,
    Checker,
    InvariantViolated,
    Scenario,
    SimulationFailed,
    run_seeds,
)
from p2pinfer.testing.disk import SimDisk
from p2pinfer.testing.engine import EngineFactory, SimEngine
from p2pinfer.testing.faults import Fault, FaultMenu, FaultPlan, FaultWeights
from p2pinfer.testing.host import Host
from p2pinfer.testing.latency import Latency
from p2pinfer.testing.network import Link, Network, Partition
from p2pinfer.testing.process import Call, CoreFactory, Stage
from p2pinfer.testing.rng import derive
from p2pinfer.testing.rules import Delay, Drop, Packet, Pass, Rule
from p2pinfer.testing.trace import Trace
from p2pinfer.testing.world import World

__all__ = [
    "Always",
    "Call",
    "Checker",
    "CoreFactory",
    "Delay",
    "Drop",
    "EngineFactory",
    "Fault",
    "FaultMenu",
    "FaultPlan",
    "FaultWeights",
    "Host",
    "InvariantViolated",
    "Latency",
    "Link",
    "Network",
    "Packet",
    "Partition",
    "Pass",
    "Rule",
    "Scenario",
    "SimDisk",
    "SimEngine",
    "SimulationFailed",
    "Stage",
    "Trace",
    "World",
    "derive",
    "run_seeds",
]
