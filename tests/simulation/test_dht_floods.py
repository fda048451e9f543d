"""Floods of the DHT, and nonsense: what many messages can do. Every failure names its seed."""

from __future__ import annotations

import dataclasses
import random

from p2pinfer.dht.config import AnswerConfig, RecordConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.effects import Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.testing.network import ENVELOPE_SIZE_BYTES
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import (
    KEYS_COUNT_MAX,
    DhtPing,
    DhtPong,
    FindNodes,
    FoundNodes,
    Stored,
    StoreRecords,
)
from tests.dht.peers import endpoint
from tests.simulation.dht_attackers import (
    KEY,
    TESTS,
    Attacker,
    Ledger,
    ground,
    joined,
    nothing,
    push,
    record_of,
    scattered,
)


def test_a_spoofed_source_never_gets_more_bytes_than_were_sent_in_its_name() -> None:
    swarm = joined(20, 11)
    swarm.put(swarm.hosts[4], KEY, bytes(500), ttl_s=600.0)
    victim, rng = Endpoint("10.99.99.99", 7946), random.Random(11)
    ledger = Ledger(swarm.world, victim)
    bytes_in = 0
    for _ in range(100):
        spoofed = Contact(PeerId(rng.randbytes(32)), victim)
        for message in (
            DhtPing(1),
            FindNodes(query=2, keys=(KEY,), records=True),
            FindNodes(query=3, keys=(KEY,) * KEYS_COUNT_MAX, records=True),
            FindNodes(query=4, keys=(KEY,), records=True, padding=bytes(400)),
            FindNodes(query=5, keys=(KEY,), records=True, token=rng.randbytes(8)),
            StoreRecords(query=6, token=bytes(8), records=(record_of(51, bytes(400), now=swarm.world.now),)),
        ):
            bytes_in += encoded_size(message) + ENVELOPE_SIZE_BYTES
            rng.choice(swarm.hosts).hear(spoofed, message)
        swarm.world.run_for(0.2)
        assert ledger.bytes_out <= bytes_in, ledger.datagrams
    swarm.world.run_for(100.0)
    assert ledger.bytes_out <= bytes_in, ledger.datagrams


def test_a_flood_of_records_from_one_address_pushes_out_nobody_elses() -> None:
    limits = RecordConfig(
        records_count_max=200, per_key_count_max=100, per_owner_count_max=20, sweep_interval_s=1.0
    )
    swarm = joined(20, 12, dataclasses.replace(TESTS, record=limits))
    for index in range(5):
        swarm.put(swarm.hosts[index], key_of("value", f"honest {index}"), b"value", ttl_s=60.0)
    target = swarm.hosts[9]
    liar = swarm.add_attackers(scattered(swarm.rng, ["5.6.7.8"]), nothing)[0]
    now = swarm.world.now
    for number in range(400):
        key = key_of("value", f"flood {number}")
        flood = record_of(1000 + number, bytes(512), now=now, key=key, expires_ms=int((now + 3600) * 1000))
        push(swarm, liar, target, flood)
        assert len(target.core._store) <= limits.records_count_max
    held = {each.value for each in target.core._store}
    assert b"value" in held
    assert sum(each.value == b"value" for each in target.core._store) == 5


class Nonsense(Attacker):
    """Answers with every typed nonsense that the wire lets through, several at a time."""

    def __init__(self, rng: random.Random, asked: Contact) -> None:
        super().__init__(self._babble)
        self._rng = rng
        self._about = asked

    def _babble(self, sender: Contact, message: object) -> list[FoundNodes | Stored | DhtPong | DhtPing]:
        rng = self._rng
        query = getattr(message, "query", 0)
        strange = (
            Contact(None, Endpoint("10.1.1.1", 1)),
            Contact(self._about.peer, Endpoint("no address", 70_000)),
            Contact(sender.peer, Endpoint("0.0.0.0", 0)),
            *(Contact(PeerId(rng.randbytes(32)), Endpoint("224.0.0.1", 7946)) for _ in range(29)),
        )
        token, seen = rng.randbytes(8), Endpoint("", 0)
        own = record_of(52, b"nonsense", now=1.0, key=rng.randbytes(32))
        return rng.sample(
            [
                FoundNodes(query=query, page=9, page_count=2, token=token, seen=seen),
                FoundNodes(query=query, page=0, page_count=16, token=token, seen=seen, contacts=strange),
                FoundNodes(query=query, page=15, page_count=16, token=token, seen=seen, again=True),
                FoundNodes(query=query, page=1, page_count=1, token=token, seen=seen, contacts=strange),
                FoundNodes(query=query, token=token, seen=seen, records=(own,) * 32),
                FoundNodes(query=rng.getrandbits(63), token=token, seen=seen, contacts=strange),
                Stored(query, ()),
                Stored(query, ("stored",) * 8, held=(own,)),
                Stored(query, ("cas", "no code", ""), held=(own,)),
                DhtPong(query),
                DhtPong(rng.getrandbits(63)),
                DhtPing(query),
            ],
            6,
        )


def test_typed_nonsense_neither_breaks_nor_delays_anybody() -> None:
    swarm = joined(30, 13)
    rng = random.Random(13)
    for index, contact in enumerate(ground(KEY, 10)):
        core = Nonsense(rng, contact)
        swarm.attackers.append(swarm.world.add(f"a{index}", lambda *_, core=core: core, contact))
    swarm.introduce(swarm.attackers, swarm.hosts)
    swarm.world.run_for(3.0)
    for index in range(5):
        begun = swarm.world.now
        swarm.put(swarm.hosts[index], KEY, b"value", subkey=b"%d" % index, ttl_s=60.0)
        found = swarm.get(swarm.hosts[10 + index], KEY)
        assert len(found.values) == index + 1
        assert swarm.world.now - begun <= 3 * swarm.config.query.lookup_s_max
    swarm.world.run_for(20.0)
    for host in swarm.hosts:
        figures = host.core.statistics()
        assert figures["lookups_running"] <= 1, "only upkeep's own"
        assert figures["queries_open"] <= swarm.config.k
        assert not any(each.value == b"nonsense" for each in host.core._store)


def test_questions_without_end_take_no_time_from_others() -> None:
    """One peer asks a thousand times a second; it is answered at its rate, and the others as ever."""
    limits = AnswerConfig(rate_per_s=20.0, rate_burst_count=20)
    swarm = joined(20, 14, dataclasses.replace(TESTS, answer=limits))
    liar = swarm.add_attackers(ground(KEY, 1), nothing)[0]
    target = swarm.hosts[9]
    ask = FindNodes(query=1, keys=(KEY,), padding=bytes(900))
    for _ in range(100):
        liar.call(lambda core, now: [Send(target.contact, ask)] * 20)
        swarm.world.run_for(0.02)
    answers = sum(isinstance(each, FoundNodes) for each in liar.core.heard)
    assert answers <= 20 + 20 * 2.1
    assert swarm.recall(swarm.hosts[3], KEY, 19) >= 0.9


def test_table_and_limits_stay_bounded_under_a_flood_of_identities() -> None:
    """Five thousand keys at as many addresses say hello: tables, rates and open questions stay small."""
    limits = AnswerConfig(rate_peers_count_max=64)
    swarm = joined(10, 15, dataclasses.replace(TESTS, answer=limits))
    target, rng = swarm.hosts[5], random.Random(15)
    for number in range(5000):
        stranger = Contact(PeerId(rng.randbytes(32)), endpoint(100_000 + number))
        target.hear(stranger, FindNodes(query=number, keys=(KEY,)))
        if number % 50 == 0:
            swarm.world.run_for(0.05)
    figures = target.core.statistics()
    buckets = len(target.core._table._buckets)
    assert figures["contacts"] + figures["contacts_waiting"] <= buckets * 6 * swarm.config.k
    assert figures["queries_open"] <= 64
    assert swarm.recall(swarm.hosts[2], KEY, 9) == 1.0
