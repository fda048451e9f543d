"""Who gives way where a quota is full, and what floods can and cannot do."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pinfer.dht.config import DhtConfig, RecordConfig
from p2pinfer.dht.keyspace import distance, key_of
from p2pinfer.dht.namespaces import own_key
from p2pinfer.dht.records import record_size_bytes
from p2pinfer.dht.store import RecordStore
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import contact, in_namespace, peer_id, public_key, record

OWN = peer_id(0)
SENDER = contact(77)


QUOTAS = ("per_owner_count_max", "per_key_count_max", "per_group_count_max")


def store(k: int = 20, **changed: int) -> RecordStore:
    """A store with some quotas; those that are not named are no narrower than the one for all."""
    if "records_count_max" in changed:
        changed = {**dict.fromkeys(QUOTAS, changed["records_count_max"]), **changed}
    count_max = changed.get("records_count_max", RecordConfig().records_count_max)
    share = changed.pop("per_group_count_max", count_max / 8) / count_max
    limits = dataclasses.replace(RecordConfig(per_group_share=share), **changed)  # type: ignore[arg-type]
    return RecordStore(OWN, DhtConfig(k=k, alpha=min(k, 3), record=limits))


def at(host: str, peer: int = 77) -> Contact:
    return Contact(peer_id(peer), Endpoint(host, 7946))


def near(index: int) -> bytes:
    """The key whose distance from this peer is `index`."""
    return (int.from_bytes(OWN, "big") ^ index).to_bytes(32, "big")


def far(index: int) -> bytes:
    """A key in the other half of the key space."""
    return (int.from_bytes(OWN, "big") ^ (1 << 255) ^ index).to_bytes(32, "big")


@pytest.mark.parametrize("quota", ["per_owner_count_max", "per_group_count_max", "records_count_max"])
def test_where_a_quota_is_full_the_farthest_goes_and_then_what_expires_first(quota: str) -> None:
    kept = store(**{"records_count_max": 6, quota: 3})
    one_owner = quota == "per_owner_count_max"
    host = "8.8.8.8" if quota == "per_group_count_max" else "10.0.0.1"

    def offer(index: int, key: bytes, expires_s: float) -> str:
        each = record(1 if one_owner else index, key=key, subkey=bytes([index]), expires_s=expires_s)
        return kept.put(each, at(host), 0.0).code

    assert [offer(1, near(9), 30.0), offer(2, near(5), 30.0), offer(3, near(5), 20.0)] == ["stored"] * 3
    assert offer(4, near(10), 90.0) == "full", "farther than all"
    assert offer(5, near(7), 10.0) == "stored", "nearer than the farthest, which goes"
    assert sorted(distance(each.key, OWN) for each in kept) == [5, 5, 7]
    assert offer(6, near(5), 90.0) == "stored"
    assert offer(7, near(5), 10.0) == "full", "it would be the first to expire of equals"
    assert offer(8, near(5), 25.0) == "stored"
    assert sorted(each.expires_ms for each in kept) == [25_000, 30_000, 90_000]
    assert kept.counters["evicted"] == 3
    assert len(kept) == 3


def test_a_successor_finds_the_room_of_its_predecessor_in_every_quota() -> None:
    kept = store(records_count_max=1, bytes_max=800)
    for sequence in range(1, 9):
        each = record(sequence=sequence, expires_s=90.0 - sequence, value=bytes(100 * (sequence % 5)))
        assert kept.put(each, at("8.8.8.8"), 0.0).code == "stored"
    assert len(kept) == 1
    assert kept.counters["evicted"] == 0


def test_bytes_are_bounded_too_and_as_many_go_as_are_needed() -> None:
    def sized(index: int, away: int, size_bytes: int) -> DhtRecord:
        each = record(index, key=near(away), value=b"")
        return dataclasses.replace(each, value=bytes(size_bytes - record_size_bytes(each)))

    kept = store(bytes_max=1000)
    for index in range(4):
        assert kept.put(sized(index, 10 + index, 250), SENDER, 0.0).code == "stored"
    assert kept.put(sized(9, 99, 200), SENDER, 0.0).code == "full"
    before = list(kept)
    assert kept.put(sized(7, 12, 690), SENDER, 0.0).code == "full"
    assert list(kept) == before, "what would have had to go stays where the newcomer is not worth it"
    assert kept.put(sized(8, 1, 690), SENDER, 0.0).code == "stored"
    assert sorted(distance(each.key, OWN) for each in kept) == [1, 10]
    assert kept.size_bytes == 940


def test_copies_on_the_path_go_before_anything_else() -> None:
    kept = store(k=4, records_count_max=3)
    kept.put(record(1, key=near(1), expires_s=90.0), SENDER, 0.0, nearer_count=4)
    kept.put(record(2, key=far(1), expires_s=10.0), SENDER, 0.0)
    kept.put(record(3, key=far(2), expires_s=10.0), SENDER, 0.0)
    assert kept.put(record(4, key=near(0), expires_s=90.0), SENDER, 0.0, nearer_count=4).code == "stored"
    assert kept.put(record(5, key=far(9), expires_s=5.0), SENDER, 0.0).code == "stored"
    assert kept.cached_count == 0
    assert kept.put(record(6, key=near(0)), SENDER, 0.0, nearer_count=4).code == "full"


def test_the_dead_make_room_before_the_living() -> None:
    kept = store(records_count_max=2)
    kept.put(record(1, key=near(1), expires_s=10.0), SENDER, 0.0)
    kept.put(record(2, key=near(2), expires_s=90.0), SENDER, 0.0)
    assert kept.put(record(3, key=near(3), expires_s=50.0), SENDER, 20.0).code == "stored"
    assert kept.counters["evicted"] == 0


def test_a_flood_from_one_owner_stays_within_its_quota() -> None:
    kept = store(records_count_max=200, per_owner_count_max=8)
    for index in range(150):
        kept.put(record(100 + index, key=near(1000 + index)), SENDER, 0.0)
    for index in range(400):
        kept.put(record(1, key=near(index), subkey=b"flood", expires_s=9e4), SENDER, 0.0)
    assert Counter(each.owner == peer_id(1) for each in kept) == {True: 8, False: 150}


def test_a_flood_of_many_owners_at_one_address_block_stays_within_its_quota() -> None:
    kept = store(records_count_max=200, per_group_count_max=20)
    for index in range(150):
        kept.put(record(100 + index, key=near(1000 + index)), at(f"8.8.{index}.1"), 0.0)
    for index in range(1000):
        flood = record(1000 + index, key=near(index), expires_s=9e4)
        kept.put(flood, at(f"9.9.9.{index % 250}", 1000 + index), 0.0)
    groups = Counter(kept_.group for kept_ in kept._quotas)
    assert groups["9.9.9.0/24"] == 20
    assert len(kept) == 170
    six = store(per_group_count_max=3)
    for index in range(9):
        six.put(record(index, key=near(index)), at(f"2001:db9:1:{index}::1"), 0.0)
    assert len(six) == 3, "a /48 of IPv6 is one block"


def test_private_addresses_form_no_group_unless_that_is_asked_for() -> None:
    for is_exempt, count in ((True, 9), (False, 3)):
        kept = store(per_group_count_max=3, private_exempt=is_exempt)
        for index in range(9):
            kept.put(record(index, key=near(index)), at("192.168.1.9"), 0.0)
        assert len(kept) == count


def test_a_flood_with_far_keys_pushes_out_nothing_that_is_nearer() -> None:
    kept = store(records_count_max=60)
    honest = [record(index, key=near(1 << 200 | index), expires_s=60.0) for index in range(50)]
    for each in honest:
        kept.put(each, SENDER, 0.0)
    for index in range(2000):
        flood = record(100 + index, key=far(index), expires_s=9e4)
        kept.put(flood, at(f"{1 + index % 100}.{index % 250}.7.1"), 0.0)
    assert set(honest) <= set(kept)
    assert len(kept) == 60


def test_no_address_block_fills_a_key_alone() -> None:
    """Under one key all are equally near: whoever takes most of it gives way first."""
    kept = store(per_key_count_max=32, private_exempt=True)
    for index in range(100):
        kept.put(record(1000 + index, expires_s=9e4), at(f"9.9.9.{index}"), 0.0)
    assert len(kept) == 32, "as long as nobody else wants it"
    for index in range(20):
        assert kept.put(record(index, expires_s=60.0), at(f"8.8.{index}.1"), 0.0).code == "stored"
    for index in range(100):
        kept.put(record(2000 + index, expires_s=9e4), at(f"9.9.9.{index}"), 0.0)
    owners = {each.owner for each in kept}
    assert {peer_id(index) for index in range(20)} <= owners
    assert len(kept) == 32


def test_nothing_stands_beside_a_record_that_the_key_belongs_to() -> None:
    """The key is the hash of what such a record says, so it is the key of nothing else."""
    key = own_key(public_key(1))
    bound = in_namespace("own", record(1, key=key, expires_s=60.0))
    junk = [record(10 + index, key=key, expires_s=9e4) for index in range(5)]
    kept = store(per_key_count_max=8)
    assert [kept.put(each, SENDER, 0.0).code for each in junk] == ["stored"] * 5
    assert kept.put(bound, SENDER, 0.0).code == "stored"
    assert list(kept) == [bound]
    assert kept.counters["unseated"] == 5
    assert [kept.put(each, SENDER, 0.0).code for each in junk] == ["invalid"] * 5
    content = key_of("content", b"bytes")
    copies = [in_namespace("content", record(owner, key=content, value=b"bytes")) for owner in (1, 2)]
    assert [kept.put(each, SENDER, 0.0).code for each in copies] == ["stored"] * 2
    other = in_namespace("swarm", record(3, key=content, value=b"10.0.0.1:1"))
    assert kept.put(other, SENDER, 0.0).code == "invalid"
    kept.sweep(60.0)
    assert kept.put(junk[0], SENDER, 60.0).code == "stored", "what is gone protects nothing"


def test_who_passes_a_record_on_does_not_take_it_over_from_its_owners_address() -> None:
    kept = store()
    owner, relay = at("8.8.8.8", 1), at("9.9.9.9", 2)

    def group() -> str | None:
        return next(iter(kept._quotas)).group

    kept.put(record(1, sequence=1), relay, 0.0)
    assert group() == "9.9.9.0/24"
    kept.put(record(1, sequence=1), owner, 0.0)
    assert group() == "8.8.8.0/24", "the owner stored it itself"
    kept.put(record(1, sequence=2), relay, 0.0)
    assert group() == "8.8.8.0/24"
    assert [each.sequence for each in kept] == [2]
    kept.put(record(1, sequence=3), at("7.7.7.7", 1), 0.0)
    assert group() == "7.7.7.0/24", "the owner moved"


def test_own_records_are_in_no_group() -> None:
    kept = store(per_group_count_max=1)
    for index in range(3):
        assert kept.put(record(0, subkey=b"%d" % index), at("8.8.8.8", 0), 0.0).code == "stored"


class StoreMachine(RuleBasedStateMachine):
    """The store beside a dumb twin that recounts everything: puts, time, sweeps and clocks set back."""

    @initialize(bytes_max=st.sampled_from([800, 1500, 1 << 20]), k=st.sampled_from([3, 20]))
    def start(self, bytes_max: int, k: int) -> None:
        self.k = k
        self.limits = dataclasses.replace(
            RecordConfig(),
            records_count_max=7,
            per_owner_count_max=3,
            per_key_count_max=4,
            per_group_share=3 / 7,
            forks_count_max=4,
            forks_per_owner_count_max=2,
            bytes_max=bytes_max,
        )
        self.kept = RecordStore(OWN, DhtConfig(k=k, record=self.limits))
        self.now = 100.0
        self.latest = 100.0
        self.accepted: set[DhtRecord] = set()

    @rule(
        place=st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 4)),
        sequence=st.integers(1, 4),
        value=st.sampled_from([b"", b"a", bytes(300)]),
        life_s=st.integers(1, 40),
        sender=st.tuples(st.sampled_from(["8.8.8.8", "8.8.8.9", "9.9.9.9", "10.0.0.1"]), st.integers(1, 4)),
        how=st.tuples(st.sampled_from([-1, -1, -1, 0, 1, 2]), st.integers(0, 24)),
    )
    def put(
        self,
        place: tuple[int, int, int],
        sequence: int,
        value: bytes,
        life_s: int,
        sender: tuple[str, int],
        how: tuple[int, int],
    ) -> None:
        key, subkey, owner = near(place[0]), bytes([place[1]]), place[2]
        each = record(
            owner, key=key, subkey=subkey, value=value, sequence=sequence, expires_s=self.now + life_s
        )
        before = {(one.key, one.subkey, one.owner): one for one in self.alive()}
        held = before.get((key, subkey, each.owner))
        expected, nearer_count = how
        placed = self.kept.put(each, at(*sender), self.now, expected=expected, nearer_count=nearer_count)
        after = {(one.key, one.subkey, one.owner): one for one in self.alive()}
        here = after.get((key, subkey, each.owner))
        if placed.code == "stored":
            assert here == each
            self.accepted.add(each)
            if held is not None and held != each:
                assert held.sequence < sequence
            if expected >= 0 and held != each:
                assert expected == (held.sequence if held is not None else 0)
        elif placed.code == "fork":
            assert placed.held == held
            assert held is not None
            assert here in (held, each)
            self.accepted.add(each)
        else:
            assert here == held, "a refused put changes nothing at its place"
            assert placed.held in (None, held)
        assert placed.code != "void" or each.expires_ms <= self.latest * 1000

    @rule(passed_s=st.integers(-30, 15))
    def wait(self, passed_s: int) -> None:
        self.now = max(0.0, self.now + passed_s)
        self.latest = max(self.latest, self.now)

    @rule()
    def sweep(self) -> None:
        self.latest = max(self.latest, self.now)
        self.kept.sweep(self.now)
        assert all(each.until_ms > self.latest * 1000 for each in self.kept._quotas)

    def alive(self) -> list[DhtRecord]:
        return [each.record for each in self.kept._quotas if each.until_ms > self.latest * 1000]

    @invariant()
    def no_quota_is_exceeded_and_all_counts_agree(self) -> None:
        if not hasattr(self, "kept"):
            return
        quotas = self.kept._quotas
        everything = list(quotas)
        limits = self.limits
        assert len(self.kept) == len(everything) <= limits.records_count_max
        assert self.kept.size_bytes == sum(map(record_size_bytes, self.kept)) <= limits.bytes_max
        owned = Counter(each.record.owner for each in everything)
        under_key = Counter(each.record.key for each in everything)
        grouped = Counter(each.group for each in everything if each.group is not None)
        assert {group: len(shelf) for group, shelf in quotas._by_group.items()} == grouped
        assert {owner: len(shelf) for owner, shelf in quotas._by_owner.items()} == owned
        assert {key: len(shelf) for key, shelf in quotas.by_key.items()} == under_key
        assert max(owned.values(), default=0) <= limits.per_owner_count_max
        assert max(under_key.values(), default=0) <= limits.per_key_count_max
        assert max(grouped.values(), default=0) <= limits.per_group_count_max
        assert max(len(quotas._by_worth), len(quotas._by_end)) <= 2 * len(everything) + 66
        assert len(self.kept.forks) <= limits.forks_count_max
        of_owner = Counter(fork.owner for fork in self.kept.forks)
        assert max(of_owner.values(), default=0) <= limits.forks_per_owner_count_max
        assert of_owner == self.kept._evidence._counts

    @invariant()
    def nothing_expired_and_nothing_unknown_is_served(self) -> None:
        if not hasattr(self, "kept"):
            return
        self.latest = max(self.latest, self.now)
        for index in range(4):
            served = self.kept.get(near(index), self.now)
            assert len(served) == len(set(served))
            for each in served:
                assert each.expires_ms > self.latest * 1000
                assert each in self.accepted
            preferred = [each for each in self.alive() if each.key == near(index)]
            assert served[: len(preferred)] == preferred


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
