"""Own address and bounded tables under attack, in whole networks."""

from __future__ import annotations

import dataclasses
from typing import Any

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import AddressSeen
from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.testing import Host, World
from p2pinfer.wire.messages.dht import FindNodes, FoundNodes
from tests.dht.peers import endpoint
from tests.simulation.dht_swarm import DhtSwarm

ELSEWHERE = Endpoint("10.9.9.9", 7946)
LIE = Endpoint("10.66.6.6", 666)


class AddressLiar:
    """An honest peer but for one thing: it tells everybody of another address than it sees."""

    def __init__(self, core: DhtCore) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        return [self._lie(effect) for effect in self._core.receive(sender, message, now)]

    def _lie(self, effect: Effect) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, FoundNodes):
            return Send(effect.to, dataclasses.replace(effect.message, seen=LIE))
        return effect


def joined(count: int, seed: int) -> DhtSwarm:
    print(f"seed {seed}")
    world = World(seed)
    swarm = DhtSwarm(world, count)
    world.run_for(8.0)
    return swarm


def seen(host: Host) -> list[Endpoint]:
    return [item.endpoint for item in host.notices if isinstance(item, AddressSeen)]


def test_a_peer_behind_a_new_address_hears_of_it_from_those_it_asks_whatever_a_third_of_them_say() -> None:
    swarm = joined(24, 1)
    for host in swarm.hosts[1:9]:
        host.core = AddressLiar(host.core)
    mover = swarm.hosts[15]
    for _ in range(4):
        swarm.find_nodes(mover, swarm.rng.randbytes(32))
    assert seen(mover) == [], "nothing has changed"
    assert mover.core.statistics()["nat"] == "none"
    listeners = swarm.world.network.listeners
    del listeners[mover.contact.endpoint]
    mover.contact = Contact(mover.contact.peer, ELSEWHERE)
    listeners[ELSEWHERE] = mover
    for _ in range(6):
        swarm.find_nodes(mover, swarm.rng.randbytes(32))
    assert seen(mover) == [ELSEWHERE], "told once"
    mover.call(lambda core, now: core.set_endpoint(ELSEWHERE, now))
    swarm.find_nodes(mover, swarm.rng.randbytes(32))
    assert mover.core.statistics()["nat"] == "none"
    assert all(seen(host) == [] for host in swarm.hosts if host is not mover)


def test_a_thousand_ids_of_one_block_flood_a_network_in_vain() -> None:
    """The first step of an eclipse: be in the victim's table, in as many names as can be."""
    swarm = joined(24, 2)
    victim = swarm.hosts[7]
    before = victim.core.statistics()["contacts_good"]
    world, rng = swarm.world, swarm.rng

    def ask(index: int) -> None:
        sender = Contact(PeerId(rng.randbytes(32)), Endpoint(f"66.6.6.{index % 256}", 7946))
        victim.hear(sender, FindNodes(query=index, keys=(rng.randbytes(32),), padding=bytes(900)))

    for index in range(1000):
        world.at(world.now + index / 1000, lambda index=index: ask(index))  # type: ignore[misc]
    world.run_for(2.0)
    figures = victim.core.statistics()
    told = {each.endpoint.host for each in victim.core._table.nearest(bytes(32), 1000)}
    assert not any(host.startswith("66.") for host in told), "none of them answers"
    assert figures["contacts_good"] >= before
    assert figures["contacts"] + figures["contacts_waiting"] <= 24 + 10
    assert figures["questions_over_rate"] >= 1000 - 400 - 200 * 1.1 - 50
    assert swarm.recall(victim, bytes(32)) == 1.0
    assert swarm.recall(swarm.hosts[3], victim.contact.peer or b"") == 1.0


def test_a_contact_told_at_a_wrong_address_keeps_its_place_in_the_tables() -> None:
    swarm = joined(24, 3)

    class Slanderer(AddressLiar):
        """It tells of true peers at an address where nobody is."""

        def _lie(self, effect: Effect) -> Effect:
            if isinstance(effect, Send) and isinstance(effect.message, FoundNodes):
                wrong = tuple(
                    Contact(each.peer, endpoint(9000 + index))
                    for index, each in enumerate(effect.message.contacts)
                )
                return Send(effect.to, dataclasses.replace(effect.message, contacts=wrong))
            return effect

    for host in swarm.hosts[1:13]:
        host.core = Slanderer(host.core)
    asker = swarm.hosts[20]
    before = asker.core.statistics()["contacts_good"]
    for _ in range(20):
        swarm.find_nodes(asker, swarm.rng.randbytes(32))
    assert asker.core.statistics()["contacts_good"] >= before - 1
    assert swarm.mean_recall(10) >= 0.95
