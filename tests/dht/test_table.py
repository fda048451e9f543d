import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import Bucket
from p2pinfer.dht.keyspace import bucket_range, prefix_length
from p2pinfer.dht.table import RoutingTable
from p2pinfer.ids import Contact, Endpoint, PeerId
from tests.dht.peers import contact, endpoint, nearest_by_force, peer_id, waiting

OWN = peer_id(0)
keys = st.binary(min_size=32, max_size=32)


def table_with(count: int, k: int = 20) -> RoutingTable:
    table = RoutingTable(OWN, DhtConfig(k=k, alpha=1))
    for index in range(1, count + 1):
        table.confirm(contact(index), 0.01, 1.0)
    return table


def in_bucket(prefix: int, count: int, seed: int = 1) -> list[Contact]:
    """Contacts that all share exactly `prefix` leading bits with our own id."""
    rng = random.Random(seed)
    low, high = bucket_range(OWN, prefix)
    return [
        Contact(PeerId(rng.randint(low, high).to_bytes(32, "big")), endpoint(1000 + index))
        for index in range(count)
    ]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.lists(keys, min_size=0, max_size=60, unique=True), keys, st.integers(1, 25), st.integers(1, 20))
def test_nearest_is_exact(ids: list[bytes], key: bytes, count: int, k: int) -> None:
    table = RoutingTable(OWN, DhtConfig(k=k, alpha=1))
    for index, peer in enumerate(ids):
        table.confirm(Contact(PeerId(peer), endpoint(index)), 0.01, 1.0)
    known = [peer for peer in ids if PeerId(peer) in table]
    assert [found.peer for found in table.nearest(key, count)] == nearest_by_force(key, known, count)
    if k == 20 and len(ids) <= 20:
        assert len(known) == len([peer for peer in ids if peer != OWN])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 255), st.sampled_from(["low", "high", "own"]), st.integers(1, 20))
def test_nearest_is_exact_at_the_borders_of_buckets(prefix: int, where: str, count: int) -> None:
    table = table_with(50)
    borders = [
        edge.to_bytes(32, "big") for each in (prefix, 255 - prefix) for edge in bucket_range(OWN, each)
    ]
    for index, peer in enumerate(dict.fromkeys(borders)):
        table.confirm(Contact(PeerId(peer), endpoint(500 + index)), 0.01, 1.0)
    low, high = bucket_range(OWN, prefix)
    key = {"low": low.to_bytes(32, "big"), "high": high.to_bytes(32, "big"), "own": bytes(OWN)}[where]
    known = [found.peer for found in table.nearest(key, 10_000) if found.peer is not None]
    expected = nearest_by_force(key, known, count)
    assert [found.peer for found in table.nearest(key, count)] == expected
    if where != "own":
        assert expected[0] == key


def test_a_package_bucket_takes_ids_of_256_bits_and_both_ends_of_its_range() -> None:
    for prefix in (0, 1, 17, 254, 255):
        bucket = Bucket(OWN, prefix, 20, 5.0)
        assert bucket.last_updated == 5.0
        assert bucket.range == bucket_range(OWN, prefix)
        bucket.touch(9.0)
        assert bucket.last_updated == 9.0


def test_nobody_is_told_of_a_contact_that_has_never_answered() -> None:
    table = RoutingTable(OWN, DhtConfig())
    assert table.offer(contact(1), 1.0)
    assert not table.offer(contact(1), 2.0)
    assert table.nearest(OWN, 20) == []
    assert table.seeds(OWN, 20, 1.0) == [contact(1)]
    table.confirm(contact(1), 0.01, 2.0)
    assert table.nearest(OWN, 20) == [contact(1)]
    assert table.nearest(OWN, 20, but=peer_id(1)) == []


def test_own_id_and_unusable_addresses_never_enter() -> None:
    table = RoutingTable(OWN, DhtConfig())
    for bad in (
        contact(0),
        Contact(None, endpoint(1)),
        Contact(peer_id(1), Endpoint("0.0.0.0", 1)),
        Contact(peer_id(1), Endpoint("no-address", 1)),
        Contact(peer_id(1), Endpoint("10.0.0.1", 0)),
    ):
        assert not table.offer(bad, 1.0)
        table.confirm(bad, 0.01, 1.0)
    assert len(table) == 0


def test_a_new_contact_does_not_push_a_working_one_out() -> None:
    table = RoutingTable(OWN, DhtConfig())
    crowd = in_bucket(0, 30)
    for each in crowd:
        table.confirm(each, 0.01, 1.0)
    assert (len(table), waiting(table)) == (20, 10)
    assert table.check_at == 901.0


def test_a_contact_that_answers_takes_the_place_of_one_that_never_did() -> None:
    table = RoutingTable(OWN, DhtConfig(k=3))
    *candidates, late = in_bucket(0, 4)
    for each in candidates:
        assert table.offer(each, 1.0)
    table.confirm(late, 0.01, 2.0)
    assert (len(table), waiting(table)) == (3, 0)
    assert table.nearest(OWN, 20) == [late]


def test_one_lost_answer_costs_nobody_a_place_and_repeated_ones_do() -> None:
    table = RoutingTable(OWN, DhtConfig(k=3))
    *members, last = in_bucket(0, 4)
    for each in (*members, last):
        table.confirm(each, 0.01, 1.0)
    loser = members[0]
    assert loser.peer is not None
    table.fail(loser, 2.0)
    assert loser.peer in table
    assert loser not in table.nearest(OWN, 20), "a doubtful contact is told to nobody"
    assert loser not in table.seeds(OWN, 20, 2.0), "it is left alone for a while"
    assert loser in table.seeds(OWN, 20, 8.0)
    table.confirm(loser, 0.01, 8.0)
    assert loser in table.nearest(OWN, 20)
    for at in (9.0, 20.0):
        table.fail(loser, at)
    assert loser.peer not in table
    assert last in table.nearest(OWN, 20)
    assert (len(table), waiting(table)) == (3, 0)


def test_a_cut_cable_does_not_empty_the_table_at_once() -> None:
    table = table_with(5)
    now = 0.0
    for _ in range(7):
        for index in range(1, 6):
            table.fail(contact(index), now)
        assert table.check_at is not None
        assert len(table.seeds(OWN, 20, now)) == 5, "better a doubtful way than none"
        now = table.check_at
    assert table.good_count == 0
    assert now > 600.0
    for index in range(1, 6):
        table.fail(contact(index), now)
    assert len(table) == 0


def test_back_off_doubles_up_to_its_limit() -> None:
    table = table_with(1)
    now, waits = 0.0, []
    for _ in range(7):
        table.fail(contact(1), now)
        assert table.check_at is not None
        waits.append(table.check_at - now)
        now = table.check_at
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0]


def test_a_good_contact_keeps_its_address_and_a_doubtful_one_may_move() -> None:
    table = table_with(1)
    moved = Contact(peer_id(1), endpoint(77))
    table.offer(moved, 2.0)
    assert table.nearest(OWN, 1) == [contact(1)]
    table.fail(contact(1), 3.0)
    assert table.offer(moved, 4.0)
    table.confirm(moved, 0.01, 5.0)
    assert table.nearest(OWN, 1) == [moved]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ocfx"), st.integers(1, 40)), max_size=120), st.integers(1, 4))
def test_the_counts_agree_whatever_happens(steps: list[tuple[str, int]], k: int) -> None:
    table = RoutingTable(OWN, DhtConfig(k=k, alpha=1))
    for at, (what, index) in enumerate(steps):
        each = contact(index, f"8.8.{index % 3}.{index}")
        if what == "o":
            table.offer(each, float(at))
        elif what == "c":
            table.confirm(each, 0.01, float(at))
        elif what == "f":
            table.fail(contact(index), float(at))
        else:
            table.forget(peer_id(index))
        present = [i for i in range(1, 41) if peer_id(i) in table]
        assert len(table) + waiting(table) == len(present)
        for group in range(3):
            assert sum(i % 3 == group for i in present) <= 10
        good = [found.peer for found in table.nearest(OWN, 100)]
        assert len(good) == len(set(good))


def test_refresh_keys_reach_out_to_the_nearest_neighbour() -> None:
    table = table_with(100)
    rng = random.Random(3)
    prefixes = [prefix_length(OWN, key) for key in table.choose_refresh_keys(5.0, rng, 10.0)]
    deepest = max(prefix_length(OWN, found.peer or b"") for found in table.nearest(OWN, 100))
    assert prefixes == list(range(deepest + 1))
    table.touch(table.choose_refresh_keys(5.0, rng, 10.0)[0], 10.0)
    assert len(table.choose_refresh_keys(5.0, rng, 10.0)) == deepest


class TableModel:
    """The dumb twin of a table: who is good, by what was done to it, compared contact by contact."""

    def __init__(self, k: int) -> None:
        self.table = RoutingTable(OWN, DhtConfig(k=k, alpha=1))
        self.good: dict[PeerId, Contact] = {}

    def where(self, peer: PeerId) -> Contact | None:
        known = self.table[peer]
        return None if known is None else known.contact

    def check(self, key: bytes, count: int, now: float) -> None:
        present = {peer: each for peer, each in self.good.items() if peer in self.table}
        expected = nearest_by_force(key, present, count)
        assert [each.peer for each in self.table.nearest(key, count)] == expected
        assert self.table.nearest(key, count) == [present[PeerId(peer)] for peer in expected]
        assert self.table.good_count == len(present)
        known = [each for each in self.table._known.values() if each.retry_at <= now]
        known = known or list(self.table._known.values())
        seeds = nearest_by_force(key, (each.peer for each in known), count)
        assert [each.peer for each in self.table.seeds(key, count, now)] == seeds


@st.composite
def corner_ids(draw: st.DrawFn) -> PeerId:
    """Ids of few buckets, at their borders more often than not, and at both ends of the key space."""
    prefix = draw(st.sampled_from([0, 0, 1, 2, 17, 255]))
    low, high = bucket_range(OWN, prefix)
    number = draw(st.sampled_from([low, high, draw(st.integers(low, high)), 0, (1 << 256) - 1]))
    return PeerId(number.to_bytes(32, "big"))


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    st.lists(st.tuples(st.sampled_from("occccffxmt"), corner_ids(), st.integers(0, 3)), max_size=80),
    st.one_of(corner_ids(), st.just(OWN), keys),
    st.sampled_from([1, 2, 3, 20]),
    st.sampled_from([1, 2, 5, 200]),
)
def test_nearest_and_seeds_are_exact_whatever_happened(
    steps: list[tuple[str, PeerId, int]], target: bytes, k: int, count: int
) -> None:
    """Kademlia, section 2.2: every answer has the k nearest that the table knows."""
    model, now = TableModel(k), 0.0
    for what, peer, step in steps:
        now += step
        place = Contact(peer, Endpoint("10.0.0.1", 1 + int.from_bytes(peer[-2:], "big") % 60_000))
        if what == "m":
            place = Contact(peer, Endpoint("10.0.0.2", 1))
        if what == "t":
            now += 5.0
        elif what == "o":
            model.table.offer(place, now)
            if peer in model.good and model.table.nearest(peer, 1, but=None)[:1] != [model.good[peer]]:
                del model.good[peer]  # it had failed, and is a candidate again
        elif what in "cm":
            model.table.confirm(place, 0.01, now)
            model.good[peer] = place
        elif what == "f":
            was_resting = peer in model.table and model.table._known[peer].retry_at > now
            model.table.fail(model.where(peer) or place, now)
            if not was_resting:
                model.good.pop(peer, None)
        else:
            model.table.forget(peer)
            model.good.pop(peer, None)
        model.good = {each: at for each, at in model.good.items() if each in model.table}
        model.check(target, count, now)


def test_what_is_saved_has_the_nearest_and_some_of_every_bucket() -> None:
    table = table_with(400)
    near = table.nearest(OWN, 20)
    saved = table.choose_to_save(60)
    assert saved[:20] == near
    assert len(saved) == len(set(saved)) == 60
    prefixes = {prefix_length(OWN, each.peer or b"") for each in table.nearest(OWN, 1000)}
    assert {prefix_length(OWN, each.peer or b"") for each in saved} == prefixes
    assert len(table.choose_to_save(10_000)) == table.good_count
    assert table.choose_to_save(5) == near[:5]
