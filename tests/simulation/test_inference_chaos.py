"""Everything at once, from a seed: first faults and safety, then healing and an end for every generation."""

from __future__ import annotations

import random
from functools import partial

from p2pinfer.ids import SessionId
from p2pinfer.testing import World, run_seeds
from tests.inference.swarm import SPANS, Swarm, unbroken
from tests.simulation.inference_faults import check_nothing_left, check_tokens, end_of
from tests.simulation.peer_swarm import PeerSwarm

FAULTS_S = 6.0


def break_something(swarm: Swarm, rng: random.Random) -> None:
    """One fault somewhere, healed by itself after a while, or not at all."""
    world = swarm.world
    hops = [name for name in world.hosts if name != "me"]
    name = rng.choice(hops)
    host, other = swarm.host(name), swarm.host(rng.choice([n for n in world.hosts if n != name]))
    later = world.now + rng.choice([0.05, 0.4, 1.5, 3.0, 8.0])
    match rng.choice(
        ["crash", "restart", "pause", "cut", "one way", "break", "skew", "slow", "fail", "alarm"]
    ):
        case "crash":
            host.crash()
            world.at(later, host.restart)
        case "restart":
            host.restart()
        case "pause":
            host.pause()
            world.at(later, host.resume)
        case "cut":
            cut = world.network.partition(name, other.name)
            world.at(later, lambda: world.network.heal(cut))
        case "one way":
            way = world.network.partition(name, other.name, one_way=True)
            world.at(later, lambda: world.network.heal(way))
        case "break":
            assert other.contact.peer is not None
            world.network.streams.disconnect(host, other.contact.peer)
        case "skew":
            host.skew(rng.choice([0.3, 5.0, 200.0]), rng.choice([0.0, 0.1]))
        case "slow":
            swarm.engines[name].speed = rng.choice([3.0, 30.0, 200.0])
        case "fail":
            swarm.engines[name].fails = True
            world.at(later, lambda: setattr(swarm.engines[name], "fails", False))
        case "alarm":
            for asker in world.hosts.values():
                if asker.up:
                    asker.call(lambda core, now: core.entry.member_dead(host.contact.peer, now))


def test_any_faults_end_in_the_right_tokens_or_by_name(sim_seed: int) -> None:
    run_seeds(any_faults, [sim_seed], replay=f"{__name__}:any_faults")


def any_faults(world: World) -> None:
    rng = random.Random(world.seed)
    swarm = Swarm(world, copies=rng.choice([1, 2, 3]), memory=rng.choice([1 << 20, 4 * 40 * 8]))
    asked: list[tuple[SessionId, str, int]] = []

    def ask(number: int) -> None:
        at = rng.choice(["me", "me", "a0", "b0"])
        if swarm.host(at).up and not swarm.host(at).stalled:
            asked.append((swarm.ask(seed=number, at=at), at, swarm.host(at).life))

    numbers: dict[SessionId, int] = {}
    for number in range(5):
        ask(number)
        if asked:
            numbers.setdefault(asked[-1][0], number)
        world.run_for(rng.choice([0.0, 0.004, 0.1, 0.5]))
        for _ in range(rng.randrange(3)):
            break_something(swarm, rng)
            world.run_for(rng.choice([0.0, 0.001, 0.003, 0.02, 1.1]))
        if rng.random() < 0.3:
            swarm.add(f"late{number}", SPANS[rng.randrange(3)])
    for session, at, life in asked:
        if swarm.host(at).life == life and swarm.host(at).up:
            error = end_of(swarm, session, at=at, within_s=600.0)
            if swarm.host(at).life == life:
                check_tokens(swarm, session, error, unbroken(seed=numbers[session]), at)
    check_nothing_left(swarm)
    swarm.memory = 1 << 20
    for host in world.hosts.values():
        host.restart()
    swarm.tell_holders()
    session = swarm.ask()
    assert end_of(swarm, session) is None
    check_tokens(swarm, session, None, unbroken())


def test_whole_peers_under_faults(sim_seed: int) -> None:
    run_seeds(whole_peers, [sim_seed], replay=f"{__name__}:whole_peers")


def whole_peers(world: World) -> None:
    rng = random.Random(world.seed)
    swarm = PeerSwarm(world, copies=2)
    assert swarm.settle()
    sessions = [(n, at, swarm.ask(seed=n, at=at)) for n, at in enumerate(["me", "a1", "me"])]
    hops = [name for name in world.hosts if name not in ("me", "a1")]
    for _ in range(3):
        world.run_for(rng.uniform(0.0, 0.2))
        host = world.hosts[rng.choice(hops)]
        match rng.choice(["crash", "pause", "cut", "leave"]):
            case "crash":
                host.crash()
            case "pause":
                host.pause()
                world.at(world.now + rng.uniform(0.1, 6.0), host.resume)
            case "cut":
                other = rng.choice([n for n in world.hosts if n != host.name])
                cut = world.network.partition(host.name, other, one_way=rng.random() < 0.5)
                world.at(world.now + rng.uniform(0.1, 6.0), partial(world.network.heal, cut))
            case "leave":
                if host.up and not host.stalled:
                    host.call(lambda core, now: core.leave(now))
    for n, at, session in sessions:
        tokens = swarm.run(session, at, timeout_s=120.0)
        assert tokens == unbroken(seed=n)[: len(tokens)]
    world.network.heal()
    world.run_for(140.0)
    for host in world.hosts.values():
        if host.up and not host.stalled:
            figures = host.core.statistics()
            assert figures["hop"]["sessions"] == 0
            assert figures["hop"]["reserved_bytes"] == figures["hop"]["parked_bytes"]
            assert figures["entry"]["generations"] == 0
