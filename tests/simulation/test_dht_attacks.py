"""What attackers can do to the DHT, each attack under its name. Every failure names its seed.

Each expectation has its counter-test, here or in `dht_mutants.py`: without the defence it is not met.
"""

from __future__ import annotations

import dataclasses

import pytest

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.news import ForkFound
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.testing import Host
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import endpoint
from tests.simulation.dht_attackers import (
    KEY,
    TESTS,
    AttackedSwarm,
    Ledger,
    block,
    ground,
    is_bounded,
    joined,
    nothing,
    push,
    record_of,
    refuse_forgeries,
    scattered,
    tells,
)

OPEN_TABLE = dataclasses.replace(TESTS.table, bucket_group_count_max=1000, table_group_count_max=1000)


# Sybils and eclipses


def test_forty_sybils_around_a_key_do_not_hide_its_record() -> None:
    swarm = joined(60, 1)
    sybils = ground(KEY, 40)
    hosts = swarm.add_attackers(sybils, tells(sybils))
    swarm.introduce(hosts, swarm.hosts)
    swarm.world.run_for(10.0)
    swarm.put(swarm.hosts[4], KEY, b"value", ttl_s=60.0)
    swarm.world.run_for(2.0)
    for reader in swarm.hosts[10::10]:
        begun = swarm.world.now
        found = swarm.get(reader, KEY)
        assert [each.value for each in found.values] == [b"value"]
        assert swarm.world.now - begun <= swarm.config.query.lookup_s_max
        assert found.queries <= 100, "four walks and the region's peers"


def fill_from_one_block(config: DhtConfig) -> tuple[int, int]:
    """200 peers of one /24 push into 20 tables; return the most of them in one, and honest peers there."""
    swarm = joined(20, 2, config)
    crowd = scattered(swarm.rng, block("5.6.7", 200))
    swarm.introduce(swarm.add_attackers(crowd, tells(crowd)), swarm.hosts)
    swarm.world.run_for(20.0)
    peers = {contact.peer for contact in crowd}
    told = [swarm.told(host) for host in swarm.hosts]
    return max(len(each & peers) for each in told), min(len(each - peers) for each in told)


def test_one_network_block_fills_no_table() -> None:
    crowd, honest = fill_from_one_block(TESTS)
    assert crowd <= TESTS.table.table_group_count_max
    assert honest == 19
    without, _ = fill_from_one_block(dataclasses.replace(TESTS, table=OPEN_TABLE))
    assert without > 50, "the limit is what kept them out"


def eclipse(config: DhtConfig) -> tuple[AttackedSwarm, Host]:
    """A peer joins through a liar and an honest one, and 240 liars of three blocks greet it before."""
    swarm = joined(30, 3, config)
    crowd = scattered(
        swarm.rng, [host for prefix in ("5.6.7", "5.6.8", "5.6.9") for host in block(prefix, 80)]
    )
    liars = swarm.add_attackers(crowd, tells(crowd))
    newcomer = swarm._add(300)
    swarm.introduce(liars, [newcomer])
    swarm.world.run_for(15.0)
    entries = [liars[0].contact, swarm.hosts[0].contact]
    newcomer.call(lambda core, now: core.bootstrap(entries, now))
    swarm.world.run_for(10.0)
    return swarm, newcomer


def honest_found(swarm: AttackedSwarm, newcomer: Host) -> float:
    """The share of random keys for which a lookup finds the honest peer nearest to it; each in its bounds."""
    found_count = 0
    for _ in range(10):
        key, begun = swarm.rng.randbytes(32), swarm.world.now
        found = swarm.find_nodes(newcomer, key)
        assert is_bounded(swarm, begun, found)
        nearest = swarm.nearest_hosts(key)[0].contact.peer
        found_count += nearest in {each.peer for each in found.nearest}
    return found_count / 10


def test_a_joining_peer_is_not_eclipsed() -> None:
    """Whatever 240 peers of three blocks tell of each other, the honest are known and found."""
    swarm, newcomer = eclipse(TESTS)
    honest = {host.contact.peer for host in swarm.hosts}
    assert len(swarm.told(newcomer) & honest) >= 0.5 * len(honest)
    assert honest_found(swarm, newcomer) == 1.0


def test_without_limits_a_joining_peer_is_eclipsed() -> None:
    assert honest_found(*eclipse(dataclasses.replace(TESTS, table=OPEN_TABLE))) <= 0.7


# Lies in answers


def test_lists_of_peers_that_do_not_exist_cost_bounded_time_and_questions() -> None:
    swarm = joined(50, 4)
    nobody = [Contact(each.peer, endpoint(20_000 + i)) for i, each in enumerate(ground(KEY, 205)[5:])]
    liars = swarm.add_attackers(ground(KEY, 5, first=90_000), tells(nobody))
    swarm.introduce(liars, swarm.hosts)
    swarm.world.run_for(5.0)
    reader = swarm.hosts[7]
    begun = swarm.world.now
    found = swarm.find_nodes(reader, KEY)
    assert swarm.world.now - begun <= swarm.config.query.lookup_s_max
    assert found.queries <= swarm.config.query.lookup_queries_max
    assert {each.peer for each in found.nearest}.isdisjoint({each.peer for each in nobody})
    assert swarm.honest_recall(reader, found, KEY) >= 0.7


def test_lists_that_name_a_victim_aim_few_questions_at_it() -> None:
    swarm = joined(30, 5)
    victim = Endpoint("10.99.99.99", 7946)
    ledger = Ledger(swarm.world, victim)
    named = [Contact(each.peer, victim) for each in ground(KEY, 203)[3:]]
    swarm.introduce(swarm.add_attackers(ground(KEY, 3, first=90_000), tells(named)), swarm.hosts)
    swarm.world.run_for(5.0)
    swarm.find_nodes(swarm.hosts[7], KEY)
    assert 1 <= ledger.asked["n7", KEY] <= 2 * swarm.config.query.attempts_max


@pytest.mark.parametrize("kind", ["silent", "forgetful"])
def test_black_holes_do_not_swallow_a_record(kind: str) -> None:
    """A third of the peers near the key take records and forget them, or answer nothing at all."""
    swarm = joined(40, 6)
    holes = ground(KEY, 7)
    honest = [host.contact for host in swarm.hosts]
    hosts = swarm.add_attackers(holes, nothing if kind == "silent" else tells(honest))
    swarm.introduce(hosts, swarm.hosts)
    swarm.world.run_for(5.0)
    swarm.put(swarm.hosts[4], KEY, b"value", ttl_s=60.0)
    begun = swarm.world.now
    found = swarm.get(swarm.hosts[30], KEY)
    assert [each.value for each in found.values] == [b"value"]
    assert is_bounded(swarm, begun, found)


# Records


def serve(swarm: AttackedSwarm, *records: DhtRecord) -> list[Host]:
    """Let ten peers next to the key answer with these records, and store them at everybody."""
    liars = swarm.add_attackers(ground(KEY, 10), tells([host.contact for host in swarm.hosts], records))
    swarm.introduce(liars, swarm.hosts)
    swarm.world.run_for(3.0)
    for host in swarm.hosts:
        for record in records:
            push(swarm, liars[0], host, record)
    return liars


def values(swarm: AttackedSwarm, reader: Host) -> list[bytes]:
    begun = swarm.world.now
    found = swarm.get(reader, KEY)
    assert is_bounded(swarm, begun, found)
    return [each.value for each in found.values]


def test_forged_records_are_taken_by_nobody() -> None:
    swarm = joined(30, 7)
    refused = refuse_forgeries(swarm.world)
    swarm.put(swarm.hosts[4], KEY, b"true", ttl_s=60.0)
    true = record_of(4, b"true", now=swarm.world.now)
    serve(swarm, dataclasses.replace(true, value=b"forged", sequence=true.sequence + 5))
    assert values(swarm, swarm.hosts[20]) == [b"true"]
    assert refused["refused"] >= len(swarm.hosts), "they were offered to everybody"
    assert not any(each.value == b"forged" for host in swarm.hosts for each in host.core._store)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("expired", {"expires_ms": 5000}),
        ("far future", {"expires_ms": 10**12}),
        ("under another key", {"key": key_of("value", "another")}),
    ],
)
def test_records_out_of_their_bounds_are_taken_by_nobody(kind: str, changes: dict[str, object]) -> None:
    swarm = joined(30, 8)
    bad = record_of(50, b"bad", now=swarm.world.now, **changes)
    serve(swarm, bad)
    assert values(swarm, swarm.hosts[20]) == []
    held = sum(each.value == b"bad" for host in swarm.hosts for each in host.core._store.get(KEY, host.now))
    assert held == 0
    if kind != "under another key":  # where it belongs, and by itself, it may be kept
        assert sum(len(host.core._store) for host in swarm.hosts) == 0


def test_an_old_record_played_again_replaces_nothing() -> None:
    swarm = joined(30, 9)
    owner = swarm.hosts[4]
    old = record_of(4, b"old", now=swarm.world.now)
    swarm.world.run_for(1.0)
    swarm.put(owner, KEY, b"new", ttl_s=60.0)
    serve(swarm, old)
    assert values(swarm, swarm.hosts[20]) == [b"new"]
    holders = [host for host in swarm.hosts if host.core._store.get(KEY, host.now)]
    new = [host for host in holders if host.core._store.get(KEY, host.now)[0].value == b"new"]
    assert len(new) >= 19, "they kept what they had"


def test_of_a_forked_record_all_hold_and_find_the_same_and_the_fork_is_told() -> None:
    swarm = joined(30, 10)
    now = swarm.world.now
    first, second = (record_of(50, value, now=now, sequence=7) for value in (b"one", b"two"))
    liar = serve(swarm, first)[0]
    for host in swarm.hosts:
        push(swarm, liar, host, second)
    found = [values(swarm, reader) for reader in swarm.hosts[::6]]
    assert found in ([[b"one"]] * 5, [[b"two"]] * 5)
    held = {each.value for host in swarm.hosts for each in host.core._store}
    assert held == set(found[0])
    told = [news for host in swarm.hosts for news in host.notices if isinstance(news, ForkFound)]
    assert told
    assert all({news.first.value, news.second.value} == {b"one", b"two"} for news in told)
