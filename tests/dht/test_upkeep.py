"""The plan of upkeep: when to join, to check, to refresh, to save, and to begin anew."""

import itertools
import random
from collections.abc import Sequence

import pytest

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import prefix_length
from p2pinfer.dht.remembered import CONTACTS_KEY, Remembered
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.upkeep import Upkeep
from p2pinfer.effects import Persist
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.dht import SAVED_COUNT_MAX, DhtPing, SavedContacts
from tests.dht.peers import contact, make_core, peer_id

OWN = peer_id(0)
CONFIG = DhtConfig()
SAVE_S = CONFIG.table.save_interval_s


def planned(*known: int) -> tuple[RoutingTable, Upkeep]:
    table = RoutingTable(OWN, CONFIG)
    upkeep = Upkeep(table, CONFIG, random.Random(1))
    for index in known:
        table.confirm(contact(index), 0.01, 0.0)
    return table, upkeep


def saved(*indices: int) -> bytes:
    return encode(SavedContacts(tuple(contact(index) for index in indices)))


def lose_all(table: RoutingTable, indices: Sequence[int], now: float) -> None:
    for index in indices:
        table.fail(contact(index), now)


def test_who_is_heard_of_is_reason_enough_to_look_for_our_neighbourhood() -> None:
    table, upkeep = planned()
    table.offer(contact(1), 0.0)
    upkeep.hurry_check(0.0)
    assert upkeep.check_due(0.1) == contact(1)
    assert upkeep.key_due(0.1) is None, "nobody has answered"
    table.confirm(contact(1), 0.01, 0.2)
    assert upkeep.key_due(0.2) == OWN
    upkeep.finished(OWN, False, 0.3)
    assert upkeep.key_due(0.3) is None, "not again at once"
    assert upkeep.key_due(0.2 + CONFIG.table.bootstrap_retry_s) == OWN
    upkeep.finished(OWN, True, 3.0)
    assert upkeep.is_joined


def test_whoever_loses_everybody_asks_again_at_once_and_then_with_patience() -> None:
    """Membership libraries that only ask at the start leave such a peer alone for ever."""
    table, upkeep = planned()
    upkeep.set_bootstrap([contact(1)], 0.0)
    assert upkeep.bootstrap_due(0.0) == (contact(1),)
    table.confirm(contact(1), 0.01, 0.1)
    upkeep.answered_bootstrap(0.1)
    assert upkeep.key_due(0.1) == OWN
    upkeep.finished(OWN, True, 0.2)
    assert upkeep.bootstrap_due(1.0) == ()
    table.fail(contact(1), 50.0)
    assert upkeep.deadline == 0.0
    assert upkeep.bootstrap_due(50.0) == (contact(1),)
    assert not upkeep.is_joined
    times, now = [], 50.0
    for _ in range(900):
        now += 1.0
        if upkeep.bootstrap_due(now):
            times.append(now - 50.0)
    gaps = [late - early for early, late in zip([0.0, *times], times, strict=False)]
    assert gaps[:6] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(gaps[6:]) == {60.0}


def test_those_remembered_are_asked_in_turns_and_the_best_first() -> None:
    _, upkeep = planned()
    assert upkeep.restore(saved(*range(1, 21)), 0.0) == tuple(contact(index) for index in range(1, 21))
    assert upkeep.deadline == 0.0
    asked = [upkeep.bootstrap_due(now) for now in (0.0, 2.0, 6.0)]
    assert asked[0] == tuple(contact(index) for index in range(1, 9))
    assert asked[1] == tuple(contact(index) for index in range(9, 17))
    assert asked[2] == tuple(contact(index) for index in (17, 18, 19, 20, 1, 2, 3, 4))


def test_a_lookup_of_upkeep_runs_alone_and_refreshes_do_not_pile_up() -> None:
    _, upkeep = planned(*range(1, 40))
    upkeep.hurry_check(0.0)
    assert upkeep.key_due(10.0) == OWN
    assert upkeep.key_due(10.0) is None
    for at in range(20, 20_000, 10):
        assert upkeep.key_due(float(at)) is None, "the one that runs has not ended"
    assert len(upkeep._keys) < 20


def test_checks_have_a_bounded_rate() -> None:
    """discv5: liveness checks go by a schedule of their own, whatever others send."""
    table, upkeep = planned()
    for index in range(1, 200):
        table.offer(contact(index), 0.0)
        upkeep.hurry_check(0.0)
    pings = [upkeep.check_due(step / 1000) for step in range(2000)]
    assert 35 <= sum(ping is not None for ping in pings) <= 40


# What is kept on disk


def test_a_table_is_saved_soon_and_then_only_when_it_changed_enough() -> None:
    table, upkeep = planned()
    kept = upkeep.remembered
    assert kept.save_due(5.0) is None
    assert not kept.deadline
    for index in range(1, 17):
        table.confirm(contact(index), 0.01, 5.0)
    assert kept.save_due(10.0) is None
    assert upkeep.deadline == 10.0 + SAVE_S / 10
    first = kept.save_due(10.0 + SAVE_S / 10)
    assert first is not None
    message = decode(first)
    assert isinstance(message, SavedContacts)
    assert list(message.contacts) == table.nearest(OWN, 20)
    now = 10.0 + SAVE_S / 10
    assert kept.save_due(now + SAVE_S - 1.0) is None
    table.confirm(contact(17), 0.01, now)
    assert kept.save_due(now + SAVE_S) is None, "one of sixteen is not enough"
    table.confirm(contact(18), 0.01, now)
    assert kept.save_due(now + 1.5 * SAVE_S) is None, "not sooner than that"
    assert kept.save_due(now + 2 * SAVE_S) is not None


def test_bad_times_do_not_overwrite_good_ones_and_the_lost_stay_behind_the_live() -> None:
    table, upkeep = planned(*range(1, 11))
    kept = upkeep.remembered
    kept.save_due(0.0)
    assert kept.save_due(SAVE_S) is not None
    lose_all(table, range(1, 11), SAVE_S)
    assert kept.save_due(3 * SAVE_S) is None
    assert len(kept) == 10
    for index in (30, 31, 32):
        table.confirm(contact(index), 0.01, 3 * SAVE_S)
    data = kept.save_due(4 * SAVE_S)
    assert data is not None
    message = decode(data)
    assert isinstance(message, SavedContacts)
    assert {each.peer for each in message.contacts[:3]} == {peer_id(30), peer_id(31), peer_id(32)}
    assert len(message.contacts) == 13


def test_what_is_saved_is_bounded() -> None:
    table, upkeep = planned(*range(1, 3000))
    kept = upkeep.remembered
    kept.save_due(0.0)
    for turn in range(1, 5):
        for index in range(3000 * turn, 3000 * turn + 400):
            table.confirm(contact(index), 0.01, turn * SAVE_S)
        data = kept.save_due(turn * SAVE_S)
        assert data is not None
        assert len(data) < 40_000
        assert len(kept) <= SAVED_COUNT_MAX
        assert len(Remembered(OWN, table, CONFIG).restore(data)) == len(kept)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        saved(1, 2, 3)[:-1],
        saved(1, 2, 3) + b"x" * 100_000,
        encode(DhtPing(7)),
        b"\x80\x04\x95",  # as a pickle begins
        random.Random(1).randbytes(5000),
    ],
)
def test_damaged_huge_and_foreign_bytes_are_counted_and_ignored(data: bytes) -> None:
    core = make_core(0)
    assert core.restore(data, 1.0) == []
    assert core.statistics()["saved_contacts_damaged"] == 1
    assert core.statistics()["contacts"] == 0


def test_what_cannot_be_is_not_taken_back() -> None:
    bad = (
        contact(0),
        Contact(peer_id(1), Endpoint("0.0.0.0", 1)),
        Contact(peer_id(2), Endpoint("9.9.9.9", 0)),
    )
    core = make_core(0)
    core.restore(encode(SavedContacts((*bad, contact(3)))), 1.0)
    assert core.statistics()["saved_contacts_refused"] == 3
    assert core.statistics()["contacts"] == 1
    assert core.statistics()["contacts_good"] == 0, "a candidate until it answers"


def test_the_core_writes_last_and_goes_on_without_its_disk() -> None:
    core = make_core(0)
    for index in range(1, 9):
        core._table.confirm(contact(index), 0.01, 0.0)
    core.tick(0.0)
    effects = core.tick(100.0)
    assert isinstance(effects[-1], Persist)
    assert effects[-1].key == CONTACTS_KEY
    assert core.disk_failed(CONTACTS_KEY, 100.0) == []
    assert core.disk_failed("other", 100.0) == []
    assert core.statistics()["saves_failed"] == 1


def test_idle_ranges_are_refreshed_and_those_that_lookups_pass_through_are_not() -> None:
    """Kademlia, section 2.3: a bucket that nobody looked into for a while has a random id in it looked up."""
    table, upkeep = planned(*range(1, 100))
    upkeep.hurry_check(0.0)
    interval_s = CONFIG.table.refresh_interval_s
    busy = contact(1).peer or b""
    busy_prefix = prefix_length(OWN, busy)
    seen: list[tuple[float, int]] = []
    now = 0.0
    while now < 4 * interval_s:
        table.touch(busy, now)
        for index in range(1, 100):
            table.confirm(contact(index), 0.01, now)
        while (key := upkeep.key_due(now)) is not None:
            table.touch(key, now)
            seen.append((now, prefix_length(OWN, key)))
            upkeep.finished(key, True, now)
        now += 10.0
    deepest = max(prefix_length(OWN, contact(index).peer or b"") for index in range(1, 100))
    for prefix in range(deepest + 1):
        times = [at for at, each in seen if each == prefix]
        if prefix == busy_prefix:
            assert not times
            continue
        gaps = [late - early for early, late in itertools.pairwise([0.0, *times, now])]
        assert max(gaps) <= 2.5 * interval_s, prefix
        assert min(gaps[1:-1], default=interval_s) >= interval_s, prefix
