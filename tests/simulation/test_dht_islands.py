"""The DHT in bad times: restarts without bootstrap contacts, everybody lost, and islands that meet."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.remembered import CONTACTS_KEY
from p2pinfer.ids import Contact
from p2pinfer.testing import Host, World
from tests.dht.peers import contact, make_core
from tests.simulation.dht_swarm import DhtSwarm


class RememberingSwarm(DhtSwarm):
    """As a real node: what the disk has is given to the core when it starts, and so are its join addresses.

    Args:
        world: Where it lives.
        count: How many peers.
        entries: By index, through whom a peer joins; its own index for a founder.
    """

    def __init__(
        self, world: World, count: int, entries: Mapping[int, tuple[int, ...]] | None = None
    ) -> None:
        self.world = world
        self.rng = world.rng("swarm")
        self.entries = dict(entries or {})
        self.hosts = [self._add(index) for index in range(count)]
        for index in range(count):
            world.at(world.now + 2.0 * index / count, functools.partial(self.join, index))

    def join(self, index: int) -> None:
        """Ask whoever the peer was told to join through."""
        entries = [Contact(None, contact(entry).endpoint) for entry in self.entries.get(index, (0,))]
        self.hosts[index].call(lambda core, now: core.bootstrap(entries, now))

    def restart(self, index: int, *, keep_disk: bool = True) -> Host:
        """Start a crashed peer, which then joins through its old bootstrap contacts."""
        self.hosts[index].restart(keep_disk=keep_disk)
        self.join(index)
        return self.hosts[index]

    def _add(self, index: int) -> Host:
        def factory(disk: Mapping[str, bytes], rng: random.Random, now: float) -> DhtCore:
            core = make_core(index, seed=rng.getrandbits(32), now=now)
            if CONTACTS_KEY in disk:
                core.restore(disk[CONTACTS_KEY], now)
            return core

        return self.world.add(f"n{index}", factory, contact(index))


def good_count(host: Host) -> int:
    return int(host.core.statistics()["contacts_good"])


def is_joined(host: Host) -> bool:
    return bool(host.core.statistics()["is_joined"])


def test_a_peer_with_its_disk_comes_back_though_its_bootstrap_contacts_are_dead() -> None:
    print("seed 1")
    world = World(1)
    swarm = RememberingSwarm(world, 30)
    world.run_for(30.0)
    swarm.hosts[0].crash()
    for index in (7, 8):
        swarm.hosts[index].crash()
    world.run_for(300.0)  # until nobody asks for them any more
    lost = swarm.restart(8, keep_disk=False)
    world.run_for(5.0)  # in the long run the others, who remember it, would find it
    assert not is_joined(lost), "without its disk it knows nobody"
    assert good_count(lost) == 0
    back = swarm.restart(7)
    world.run_for(5.0)
    assert is_joined(back)
    assert good_count(back) >= 20
    assert swarm.recall(back, bytes(32)) == 1.0


def test_a_whole_swarm_that_restarts_elsewhere_in_time_finds_itself_again() -> None:
    """A power cut: everybody starts from disk, the founder not at all."""
    print("seed 2")
    world = World(2)
    swarm = RememberingSwarm(world, 25)
    world.run_for(30.0)
    for host in swarm.hosts:
        host.crash()
    world.run_for(3600.0)
    for index in range(1, 25):
        swarm.restart(index)
    world.run_for(30.0)
    assert all(is_joined(host) for host in swarm.alive)
    assert min(good_count(host) for host in swarm.alive) >= 20
    assert swarm.mean_recall(10) >= 0.99


def test_everybody_lost_and_back_again_without_a_restart() -> None:
    print("seed 3")
    world = World(3)
    swarm = RememberingSwarm(world, 20)
    world.run_for(30.0)
    lonely = swarm.hosts[5]
    others = [host.name for host in swarm.hosts if host is not lonely]
    world.network.partition([lonely.name], others)
    world.run_for(400.0)
    assert not is_joined(lonely)
    assert good_count(lonely) == 0
    swarm.hosts[0].crash()  # the one that it was told to join through
    world.network.heal()
    assert world.run_until_true(lambda: is_joined(lonely), timeout_s=90.0)
    world.run_for(5.0)
    assert swarm.recall(lonely, bytes(32)) == 1.0


def test_two_islands_that_one_newcomer_knows_become_one_network() -> None:
    """Users of hivemind (its issue 624) were left with two networks that never met."""
    print("seed 4")
    world = World(4)
    first, second = 12, 12
    entries: dict[int, tuple[int, ...]] = dict.fromkeys(range(first), (0,))
    entries |= dict.fromkeys(range(first, first + second), (first,))
    swarm = RememberingSwarm(world, first + second, entries)
    world.run_for(150.0)
    sides = (swarm.hosts[:first], swarm.hosts[first:])
    for side, other in (sides, sides[::-1]):
        known = {each.peer for host in side for each in host.core._table.nearest(bytes(32), 1000)}
        assert not known & {host.contact.peer for host in other}
    swarm.entries[first + second] = (3, first + 3)
    swarm.hosts.append(swarm._add(first + second))
    swarm.join(first + second)
    assert world.run_until_true(
        lambda: min(good_count(host) for host in swarm.hosts) >= 22, timeout_s=300.0
    ), [good_count(host) for host in swarm.hosts]
    print("one network after", world.now - 150.0)
    assert swarm.mean_recall(20) >= 0.99
