"""Records as a whole swarm keeps them: handed over, bounded, and the same at all holders."""

import functools

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import distance, key_of
from p2pinfer.dht.records import digest_of
from p2pinfer.effects import Effect
from p2pinfer.ids import Contact
from p2pinfer.testing import Host, World
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import make_core, record
from tests.simulation.dht_swarm import DhtSwarm

KEY = key_of("value", "record")


def joined(count: int, seed: int) -> DhtSwarm:
    print(f"seed {seed}")
    world = World(seed)
    swarm = DhtSwarm(world, count)
    world.run_for(8.0)
    return swarm


def add(swarm: DhtSwarm, index: int) -> Host:
    host = swarm._add(index)
    entry = Contact(None, swarm.alive[10].contact.endpoint)
    swarm.hosts.append(host)
    swarm._join(host, entry)
    return host


def holders(swarm: DhtSwarm, key: bytes = KEY) -> list[Host]:
    return [host for host in swarm.alive if host.core._store.kept_under(key, host.now)]


def nearest(swarm: DhtSwarm, count: int, key: bytes = KEY) -> list[Host]:
    return sorted(swarm.alive, key=lambda host: distance(host.core.contact.peer, key))[:count]


def test_a_record_outlives_all_of_its_holders_and_its_owner_without_being_stored_again() -> None:
    swarm = joined(22, 1)
    swarm.put(swarm.hosts[4], KEY, b"value", ttl_s=9000.0)
    swarm.hosts[4].crash()
    first = {host.name for host in holders(swarm)}
    assert len(first) >= 19
    for step in range(0, 22, 2):
        for index in (step, step + 1):
            add(swarm, 100 + index)
            if swarm.hosts[index].up:
                swarm.hosts[index].crash()
        swarm.world.run_for(30.0)
    assert not first & {host.name for host in swarm.alive}
    swarm.world.run_for(100.0)
    assert len(holders(swarm)) >= 20
    assert sum(host in holders(swarm) for host in nearest(swarm, 20)) >= 19
    assert [found.value for found in swarm.get(swarm.alive[9], KEY).values] == [b"value"]


def test_a_newcomer_receives_a_record_of_its_neighbourhood_once_and_from_one_peer() -> None:
    swarm = joined(40, 2)
    keys = [key_of("value", str(index)) for index in range(8)]
    for key in keys:
        swarm.put(swarm.hosts[4], key, b"value", ttl_s=9000.0)
    swarm.world.run_for(30.0)
    before, needed = swarm.total("handovers"), 0
    for index in range(200, 206):
        late = add(swarm, index)
        swarm.world.run_for(10.0)
        near = [key for key in keys if late in nearest(swarm, 20, key)]
        needed += len(near)
        assert sum(late in holders(swarm, key) for key in near) >= len(near) - 1
    handed = swarm.total("handovers") - before
    assert needed <= handed + 2
    assert handed <= 1.25 * needed, "hardly anything twice"


def test_a_fork_is_preferred_alike_by_all_holders_whichever_half_saw_which_record_first() -> None:
    swarm = joined(30, 3)
    one, other = record(500, key=KEY, value=b"one"), record(500, key=KEY, value=b"other")
    halves = nearest(swarm, 20)[::2], nearest(swarm, 20)[1::2]
    for half, order in zip(halves, ((one, other), (other, one)), strict=True):
        for host in half:
            for each in order:
                host.call(functools.partial(_place, each))
    preferred = min(one, other, key=digest_of)
    for host in holders(swarm):
        assert [kept.record for kept in host.core._store.kept_under(KEY, host.now)] == [preferred]


def _place(each: DhtRecord, core: DhtCore, now: float) -> list[Effect]:
    core._store.put(each, core.contact, now)
    return []


def test_of_two_devices_with_one_key_that_swap_the_same_record_one_learns_that_it_lost() -> None:
    """BEP-44, "CAS": the second swap finds another sequence than it expects, and does not say it again."""
    swarm = joined(30, 4)
    first, second = swarm.hosts[4], swarm._add(4000)
    second.core = make_core(4, seed=9, now=swarm.world.now)  # the same key at another address
    swarm.hosts.append(second)
    swarm._join(second, Contact(None, swarm.hosts[9].contact.endpoint))
    swarm.world.run_for(3.0)
    done = swarm.put(first, KEY, b"one", ttl_s=60.0, expected=0)
    assert done.stored_at >= 19
    assert done.conflict is None
    (one,) = swarm.get(swarm.hosts[20], KEY).values
    done = swarm.put(second, KEY, b"two", ttl_s=60.0, expected=one.sequence)
    assert done.stored_at >= 19
    done = swarm.put(first, KEY, b"three", ttl_s=60.0, expected=one.sequence)
    assert done.stored_at == 0
    assert done.conflict is not None
    assert done.conflict.value == b"two"
    swarm.world.run_for(90.0)
    assert [each.value for each in swarm.get(swarm.hosts[20], KEY).values] == [b"two"]
    assert first.core.statistics()["own_puts"] == 0
    assert second.core.statistics()["own_puts"] == 1
