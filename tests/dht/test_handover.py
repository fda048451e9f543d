"""Who receives a record when the neighbourhood changes, from whom, how often and how fast."""

import dataclasses
from collections import Counter

import pytest

from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.records import record_size_bytes
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import StoreRecords
from tests.dht.holder import Holder, K, Sent
from tests.dht.peers import contact, peer_id, record


def by_distance(key: bytes, indices: range) -> list[int]:
    return sorted(indices, key=lambda index: distance(peer_id(index), key))


KEY = b"k" * 32
ORDER = by_distance(KEY, range(1, 40))
"""Peers, nearest to the key first."""


def settled(holder: int, others: list[int], **changed: float) -> Holder:
    """A holder whose neighbours came long ago, with a record."""
    here = Holder(holder, **changed)
    for index in others:
        here.plan.came(contact(index), 0.0)
    here.run(10.0)
    here.put(record(1, key=KEY, expires_s=90_000.0), 100.0)
    return here


def receivers(sent: Sent) -> list[PeerId]:
    return [to.peer for to, _ in sent if to.peer is not None]


def test_a_newcomer_among_the_k_nearest_receives_the_record_once_from_the_nearest_holder() -> None:
    """Kademlia, section 2.5: only the node closest to the key transfers it to a new node."""
    newcomer = ORDER[2]
    old = [index for index in ORDER[:6] if index != newcomer]
    for holder in old[:K]:
        here = settled(holder, [index for index in old if index != holder])
        here.plan.came(contact(newcomer), 200.0)
        sent = here.run(300.0)
        if holder == old[0]:
            assert sent == [(contact(newcomer), [record(1, key=KEY, expires_s=90_000.0)])]
        else:
            assert sent == []
        here.plan.came(contact(newcomer), 301.0)
        here.plan.gone(peer_id(newcomer), 301.2)
        here.plan.came(contact(newcomer), 301.4)
        assert here.run(400.0) == [], "it was away for a moment"
        here.plan.gone(peer_id(newcomer), 401.0)
        here.run(405.0)
        here.plan.came(contact(newcomer), 410.0)
        assert here.run(500.0) == [], "who comes and goes receives nothing again"
        here.plan.gone(peer_id(newcomer), 501.0)
        here.run(505.0)
        here.plan.came(contact(newcomer), 4000.0)
        assert len(here.run(4100.0)) == (holder == old[0]), "by then it may have lost it"


def test_a_newcomer_that_is_nearer_than_all_receives_it_too() -> None:
    old = ORDER[1:7]
    senders = []
    for holder in old[:K]:
        here = settled(holder, [index for index in old if index != holder])
        here.plan.came(contact(ORDER[0]), 200.0)
        senders += [holder] * len(here.run(300.0))
    assert senders == [old[0]]


def test_a_newcomer_that_k_others_are_nearer_than_costs_nothing() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    assert here.plan.deadline is None
    far = [index for index in ORDER[20:] if here.neighbours.prefix(peer_id(index)) == 0]
    here.plan.came(contact(far[0]), 200.0)
    assert here.run(300.0) == [], "the first of its bucket speaks for keys there, and none is here"
    for index in far[1:]:
        here.plan.came(contact(index), 400.0)
        here.plan.gone(peer_id(index), 500.0)
    assert here.plan.deadline is None, "nothing is looked at"


def test_several_newcomers_at_once_all_receive_it_although_one_of_them_is_nearer() -> None:
    here = settled(ORDER[2], ORDER[3:9])
    for newcomer in (ORDER[0], ORDER[1]):
        here.plan.came(contact(newcomer), 200.0)
    assert Counter(receivers(here.run(210.0))) == {peer_id(ORDER[0]): 1, peer_id(ORDER[1]): 1}
    late = settled(ORDER[2], ORDER[3:9])
    late.plan.came(contact(ORDER[0]), 200.0)
    assert len(late.run(210.0)) == 1
    late.plan.came(contact(ORDER[1]), 211.0)
    assert receivers(late.run(230.0)) == [peer_id(ORDER[1])], "the first has the record only since a moment"
    late.plan.came(contact(39 + 1), 400.0)


def test_later_the_newcomer_speaks_for_the_key_itself() -> None:
    here = settled(ORDER[2], ORDER[3:9])
    here.plan.came(contact(ORDER[0]), 200.0)
    assert len(here.run(210.0)) == 1
    here.plan.came(contact(ORDER[1]), 300.0)
    assert here.run(400.0) == []


def test_a_death_lets_the_next_in_line_move_up_and_it_receives_the_record() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    here.plan.gone(peer_id(ORDER[2]), 200.0)
    assert receivers(here.run(300.0)) == [peer_id(ORDER[K])]
    here.plan.gone(peer_id(ORDER[1]), 300.0)
    here.plan.gone(peer_id(ORDER[3]), 300.0)
    assert sorted(receivers(here.run(400.0))) == sorted([peer_id(ORDER[K + 1]), peer_id(ORDER[K + 2])])


def test_the_death_of_somebody_farther_than_the_k_nearest_moves_nobody() -> None:
    here = settled(ORDER[0], ORDER[1:9])
    here.plan.gone(peer_id(ORDER[6]), 200.0)
    assert here.run(300.0) == []


def test_when_the_nearest_holder_dies_the_next_one_hands_over_what_it_may_have_left() -> None:
    newcomer = ORDER[2]
    here = settled(ORDER[1], [ORDER[0], *ORDER[3:8]])
    here.plan.came(contact(newcomer), 200.0)
    assert here.run(300.0) == [], "the nearest does it"
    here.plan.gone(peer_id(ORDER[0]), 300.0)
    assert sorted(receivers(here.run(400.0))) == sorted([peer_id(newcomer), peer_id(ORDER[K])])
    late = settled(ORDER[1], [ORDER[0], *ORDER[3:8]])
    late.plan.came(contact(newcomer), 200.0)
    late.run(300.0)
    late.plan.came(contact(ORDER[0]), 270.0)
    late.plan.gone(peer_id(ORDER[0]), 280.0)
    assert receivers(late.run(5000.0)) == [peer_id(ORDER[K])], "it had the time to do it"


def test_after_the_nearests_death_whoever_came_before_the_record_is_owed_nothing() -> None:
    here = Holder(ORDER[1])
    for index in [ORDER[0], *ORDER[3:8]]:
        here.plan.came(contact(index), 0.0)
    here.plan.came(contact(ORDER[2]), 50.0)
    here.run(60.0)
    here.put(record(1, key=KEY, expires_s=90_000.0), 100.0)
    here.plan.gone(peer_id(ORDER[0]), 300.0)
    assert receivers(here.run(400.0)) == [peer_id(ORDER[K])]


def test_copies_on_the_path_and_expired_records_are_not_handed_over() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    here.store.put(record(2, key=KEY, expires_s=90_000.0), contact(99), 100.0, nearer_count=K)
    here.put(record(3, key=KEY, expires_s=200.5), 100.0)
    here.plan.gone(peer_id(ORDER[1]), 200.0)
    ((_, records),) = here.run(300.0)
    assert [each.owner for each in records] == [peer_id(1)]


def test_messages_fit_a_datagram_and_the_budget_is_kept() -> None:
    limits = {"handover_bytes_per_s": 2000.0, "handover_burst_bytes": 4000}
    here = settled(ORDER[0], ORDER[1:8], **limits)
    for index in range(60):
        big = record(2, key=KEY, subkey=bytes([index]), value=bytes(index * 8), expires_s=90_000.0)
        here.put(dataclasses.replace(big, signature=bytes(64)), 100.0)
    here.plan.gone(peer_id(ORDER[1]), 200.0)
    sent_at: list[tuple[float, int]] = []
    handed: Counter[bytes] = Counter()
    while (deadline := here.plan.deadline) is not None:
        for to, records in here.plan.due(deadline):
            assert to == contact(ORDER[K])
            message = StoreRecords(query=(1 << 63) - 1, token=bytes(8), records=tuple(records))
            assert encoded_size(message) <= 1000
            sent_at.append((deadline, sum(map(record_size_bytes, records))))
            handed.update(each.subkey + each.owner for each in records)
    assert len(handed) == 61
    assert set(handed.values()) == {1}
    total = sum(size for _, size in sent_at)
    for start, _ in sent_at:
        for end, _ in sent_at:
            if end >= start:
                within = sum(size for at, size in sent_at if start <= at <= end)
                assert within <= 4000 + 2000.0 * (end - start) + 2 * len(sent_at)
    assert sent_at[-1][0] - 201.0 == pytest.approx((total - 4000) / 2000.0, rel=0.1)


def test_an_early_or_repeated_call_does_nothing_and_a_clock_set_back_gives_no_budget() -> None:
    here = settled(ORDER[0], ORDER[1:8], handover_bytes_per_s=1.0, handover_burst_bytes=800)
    here.put(record(2, key=KEY, value=bytes(500), expires_s=90_000.0), 100.0)
    here.plan.gone(peer_id(ORDER[1]), 200.0)
    assert here.plan.due(200.5) == []
    assert len(here.plan.due(201.0)) == 1
    for now in (201.0, 100.0, 201.0, 200.0, 202.0):
        assert here.plan.due(now) == []
    assert here.plan.waiting_count == 1
    assert here.plan.deadline == pytest.approx(202.0 + 772 - (801 - record_size_bytes(record(1))), abs=2.0)
    assert len(here.run(2000.0)) == 1
    assert here.plan.deadline is None


def test_newcomers_take_turns() -> None:
    here = settled(ORDER[2], ORDER[3:9], handover_bytes_per_s=400.0, handover_burst_bytes=1000)
    for index in range(20):
        here.put(record(2, key=KEY, subkey=bytes([index]), value=bytes(300), expires_s=90_000.0), 100.0)
    for newcomer in (ORDER[0], ORDER[1]):
        here.plan.came(contact(newcomer), 200.0)
    sent = receivers(here.run(1000.0))
    assert set(sent[:4]) == set(sent[-4:]) == {peer_id(ORDER[0]), peer_id(ORDER[1])}


def test_what_waits_and_what_is_remembered_is_bounded_and_the_gone_are_forgotten() -> None:
    limits = {"handover_waiting_count_max": 10, "handover_told_count_max": 5}
    here = settled(ORDER[2], ORDER[3:9], handover_bytes_per_s=0.1, handover_burst_bytes=800, **limits)
    for index in range(8):
        here.put(record(2, key=KEY, subkey=bytes([index]), value=bytes(500), expires_s=90_000.0), 100.0)
    for newcomer in (ORDER[0], ORDER[1]):
        here.plan.came(contact(newcomer), 200.0)
    here.plan.due(201.0)
    assert here.plan.waiting_count <= 10
    assert here.plan.counters["handovers_dropped"] == 9, "the other newcomer's"
    for newcomer in (ORDER[0], ORDER[1]):
        here.plan.gone(peer_id(newcomer), 202.0)
    assert here.plan.waiting_count == 0
    assert not here.plan._told, "what was not sent was not told"
    for index in range(40, 400):
        here.plan.came(contact(index), 210.0)
    assert len(here.neighbours._buckets) <= 256
    for index in range(40, 400):
        here.plan.gone(peer_id(index), 211.0)
    assert len(here.plan._next.lost) <= 64
    here.run(300.0)
    assert not here.plan._next.newcomers
    assert not here.plan._next.lost
    assert len(here.plan._told) <= 5


def test_an_unknown_peer_and_one_without_an_id_change_nothing() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    here.plan.gone(peer_id(500), 200.0)
    here.plan.came(Contact(None, contact(1).endpoint), 200.0)
    here.plan.came(Contact(here.own, contact(1).endpoint), 200.0)
    assert here.plan.deadline is None


def test_an_address_that_changed_is_the_one_that_is_used() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    moved = contact(ORDER[K], "10.99.0.1")
    here.plan.came(moved, 150.0)
    here.plan.gone(peer_id(ORDER[1]), 200.0)
    assert [to for to, _ in here.run(300.0)] == [moved]


def test_many_keys_are_looked_at_a_few_at_a_time_and_none_is_left_out() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    keys = [(int.from_bytes(here.own) ^ index).to_bytes(32) for index in range(1, 301)]
    for index, key in enumerate(keys):
        here.put(record(1000 + index, key=key, expires_s=90_000.0), 100.0)
    here.plan.gone(peer_id(by_distance(here.own, range(1, 40))[1]), 200.0)
    received: Counter[bytes] = Counter()
    calls = 0
    while (deadline := here.plan.deadline) is not None:
        handed = [each.key for _, records in here.plan.due(deadline) for each in records]
        assert len(handed) <= 64
        received.update(handed)
        calls += bool(handed)
        if calls == 2:
            here.plan.came(contact(50), deadline)  # something else happens meanwhile
    assert {key: received[key] for key in keys} == dict.fromkeys(keys, 1)
    assert calls >= 5


def test_a_process_that_stood_still_goes_on() -> None:
    here = settled(ORDER[0], ORDER[1:8])
    here.plan.came(contact(ORDER[8]), 200.0)
    here.plan.came(contact(ORDER[9]), 200.0)
    here.plan.gone(peer_id(ORDER[1]), 200.0)
    assert receivers(here.plan.due(50_000.0)) == [peer_id(ORDER[K])]
