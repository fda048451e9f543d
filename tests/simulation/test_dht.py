"""The DHT as a whole swarm lives it: joins, deaths, loss, lies and expiry. Every failure names its seed."""

import dataclasses
from typing import Any

import pytest

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import distance, key_of
from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.testing import Link, World
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import FoundNodes
from tests.dht.peers import endpoint, public_key, record
from tests.simulation.dht_swarm import DhtSwarm

KEY = key_of("holders", "model")


def joined(count: int, seed: int, *, loss: float = 0.0, settle_s: float = 6.0) -> DhtSwarm:
    print(f"seed {seed}")
    world = World(seed)
    world.network.link = Link(loss=loss)
    swarm = DhtSwarm(world, count)
    world.run_for(2.0 + settle_s)
    return swarm


def test_fifty_join_through_one_and_find_the_true_nearest_also_with_a_fifth_dead() -> None:
    swarm = joined(50, 1)
    assert all(host.core.statistics()["is_joined"] for host in swarm.hosts)
    assert swarm.mean_recall(20) >= 0.99
    for host in swarm.hosts[3::5]:
        host.crash()
    assert swarm.mean_recall(20) >= 0.99


def test_two_hundred_join_through_one_and_find_the_true_nearest_also_with_a_fifth_dead() -> None:
    swarm = joined(200, 2)
    assert swarm.mean_recall(20) >= 0.99
    before = swarm.total("lookup_queries")
    swarm.mean_recall(10)
    assert (swarm.total("lookup_queries") - before) / 10 < 24, "k + O(log n) questions"
    for host in swarm.hosts[3::5]:
        host.crash()
    assert swarm.mean_recall(40) >= 0.98, "just after; each lookup clears some of the dead out of the tables"
    assert swarm.mean_recall(40) >= 0.99
    putter = swarm.alive[7]
    assert swarm.put(putter, KEY, b"value", ttl_s=60.0).stored_at >= 15, "told at three quarters of k"
    swarm.world.run_for(2.0)
    assert swarm.holders_count(KEY) >= 19
    for reader in swarm.alive[::20]:
        assert [found.value for found in swarm.get(reader, KEY).values] == [b"value"]


def test_with_a_tenth_of_all_datagrams_lost_nearly_all_is_found() -> None:
    swarm = joined(50, 3, loss=0.1)
    assert swarm.mean_recall(20) >= 0.97
    assert swarm.put(swarm.hosts[5], KEY, b"value", ttl_s=60.0).stored_at >= 15
    swarm.world.run_for(2.0)
    assert swarm.holders_count(KEY) >= 18
    assert swarm.get(swarm.hosts[44], KEY).values


def test_eighty_keys_are_one_search() -> None:
    swarm = joined(40, 12)
    keys = [key_of("layer", b"%d" % layer) for layer in range(80)]
    for layer in range(0, 80, 8):
        swarm.put(swarm.hosts[layer // 8], keys[layer], b"%d" % layer, ttl_s=60.0)
    found = swarm.get_many(swarm.hosts[30], keys)
    assert {each.value for each in found.values} == {b"%d" % layer for layer in range(0, 80, 8)}
    alone = swarm.get(swarm.hosts[30], keys[1])
    assert found.queries < 80 * alone.queries / 4, "a question is about up to sixteen of them"


def test_a_get_ends_early_where_holders_cannot_tell_different_things() -> None:
    swarm = joined(60, 13)
    owner, reader = swarm.hosts[3], swarm.hosts[40]
    own = key_of("own", public_key(3) + b"")
    content = key_of("content", b"value")
    for key, namespace, queries_max in ((KEY, "value", 30), (own, "own", 10), (content, "content", 8)):
        swarm.put(owner, key, b"value", ttl_s=60.0, namespace=namespace)
        found, thorough = swarm.get(reader, key), swarm.get(reader, key, quorum=0)
        assert [each.value for each in found.values] == [b"value"]
        assert found.values == thorough.values
        assert found.queries <= queries_max
        assert thorough.queries >= 18
        assert (found.queries >= 18) is (namespace == "value"), "each may lack some owner's record"
    assert swarm.get(reader, KEY, quorum=2).queries < 10, "unless the reader wants no more"


def test_every_holder_of_a_model_is_found_from_everywhere() -> None:
    swarm = joined(40, 4)
    for index, host in enumerate(swarm.hosts[:12]):
        swarm.put(host, KEY, b"layers %d" % index, subkey=b"span", ttl_s=60.0)
    expected = {b"layers %d" % index for index in range(12)}
    for reader in swarm.hosts[::7]:
        assert {found.value for found in swarm.get(reader, KEY).values} == expected


def test_records_vanish_after_their_expiry_when_their_owner_is_gone() -> None:
    swarm = joined(30, 5)
    owner, reader = swarm.hosts[4], swarm.hosts[20]
    swarm.put(owner, KEY, b"value", ttl_s=10.0)
    swarm.world.run_for(25.0)
    assert swarm.get(reader, KEY).values, "its owner keeps it alive"
    owner.crash()
    swarm.world.run_for(11.0)
    assert swarm.get(reader, KEY).values == ()
    swarm.world.run_for(2.0)
    assert swarm.total("records") == 0


def test_records_vanish_after_unput_and_outlive_most_of_their_holders() -> None:
    swarm = joined(40, 6)
    owner = swarm.hosts[4]
    swarm.put(owner, KEY, b"value", ttl_s=15.0)
    for host in swarm.hosts[10:25]:
        host.crash()
    assert swarm.get(swarm.hosts[30], KEY).values
    owner.call(lambda core, now: core.unput(KEY, b"", now))
    swarm.world.run_for(16.0)
    assert swarm.get(swarm.hosts[30], KEY).values == ()


def test_a_value_put_again_replaces_the_old_one_everywhere() -> None:
    swarm = joined(30, 7)
    owner = swarm.hosts[4]
    swarm.put(owner, KEY, b"old", ttl_s=60.0)
    old = owner.core._store.get(KEY, 0.0) or swarm.get(swarm.hosts[9], KEY).values
    swarm.put(owner, KEY, b"new", ttl_s=60.0)
    for host in swarm.alive:
        assert host.core._store.put(old[0], None, host.now).code in ("old", "stored")
    assert [found.value for found in swarm.get(swarm.hosts[17], KEY).values] == [b"new"]


def test_a_joiner_after_the_put_finds_the_record() -> None:
    swarm = joined(30, 8)
    swarm.put(swarm.hosts[4], KEY, b"value", ttl_s=60.0)
    late = swarm._add(300)
    swarm.hosts.append(late)
    swarm._join(late, swarm.hosts[0].contact)
    swarm.world.run_for(3.0)
    assert [found.value for found in swarm.get(late, KEY).values] == [b"value"]


class Liar:
    """Answers every question with contacts that do not exist, next to the key, and with forged records."""

    def __init__(self, core: DhtCore, number: int) -> None:
        self._core = core
        near = int.from_bytes(KEY)
        self._lies = tuple(
            Contact(PeerId((near ^ (1 + number * 64 + index)).to_bytes(32)), endpoint(5000 + index))
            for index in range(30)
        )
        self._forged = (record(9, key=bytes(32)), record(9, key=KEY, expires_s=1e9))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        return [self._lie(effect) for effect in self._core.receive(sender, message, now)]

    def _lie(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or not isinstance(effect.message, FoundNodes):
            return effect
        lie = dataclasses.replace(
            effect.message, contacts=self._lies, records=self._forged, page=0, page_count=1
        )
        return Send(effect.to, lie)


def test_liars_do_not_break_a_lookup() -> None:
    swarm = joined(50, 9)
    swarm.put(swarm.hosts[4], KEY, b"value", ttl_s=60.0)
    near = sorted(swarm.hosts[5:], key=lambda host: distance(host.core.contact.peer, KEY))
    for number, host in enumerate(near[:3]):
        host.core = Liar(host.core, number)
    reader = swarm.hosts[2]
    found = swarm.get(reader, KEY)
    assert [each.value for each in found.values] == [b"value"]
    assert swarm.recall(reader, KEY) >= 0.95


def test_two_swarms_that_grew_apart_meet_through_a_bootstrap_contact() -> None:
    world = World(10)
    swarm = DhtSwarm(world, 20)
    names = [host.name for host in swarm.hosts]
    world.network.partition(names[:10], names[10:])
    world.run_for(30.0)
    world.network.heal()
    assert world.run_until_true(
        lambda: all(host.core.statistics()["contacts_good"] >= 17 for host in swarm.hosts), timeout_s=300.0
    )
    swarm.put(swarm.hosts[15], KEY, b"value", ttl_s=60.0)
    assert swarm.get(swarm.hosts[3], KEY).values


def test_dead_peers_leave_the_tables_and_a_quiet_swarm_stays_quiet() -> None:
    swarm = joined(30, 11)
    dead = swarm.hosts[20:]
    for host in dead:
        host.crash()
    swarm.world.run_for(400.0)
    for host in swarm.alive:
        told = {each.peer for each in host.core._table.nearest(KEY, 100)}
        assert not told & {each.contact.peer for each in dead}
    before = swarm.total("queries")
    swarm.world.run_for(100.0)
    assert (swarm.total("queries") - before) / 20 / 100 < 2.0, "questions a second from each peer"


@pytest.mark.parametrize("seed", range(2))
def test_real_messages_fit_their_datagrams_and_the_same_seed_gives_the_same_run(seed: int) -> None:
    def run() -> tuple[int, float, int]:
        world = World(seed, wire=True)
        swarm = DhtSwarm(world, 25, spread_s=0.5)
        largest = 0

        def size(message: Message) -> int:
            nonlocal largest
            largest = max(largest, encoded_size(message))
            return encoded_size(message)

        world.network.size = size
        world.run_for(3.0)
        for index in range(4):
            swarm.put(swarm.hosts[index], KEY, bytes(512), subkey=bytes([index]) * 64, ttl_s=60.0)
        assert len(swarm.get(swarm.hosts[9], KEY).values) == 4
        return world.events_count, world.now, largest

    first = run()
    assert first == run()
