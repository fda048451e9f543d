import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import AnswerConfig, DhtConfig, QueryConfig, RecordConfig, TableConfig
from p2pinfer.dht.records import Standing, check_put, compare, newest, place_of
from p2pinfer.dht.store import RecordStore
from p2pinfer.errors import ConfigError, LocalProtocolError
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import peer_id, record

KEY = bytes(32)


def store(**settings_changed: float) -> RecordStore:
    return RecordStore(dataclasses.replace(RecordConfig(), **settings_changed))  # type: ignore[arg-type]


def test_many_owners_and_subkeys_share_a_key() -> None:
    kept = store()
    for owner in (1, 2, 3):
        for subkey in (b"a", b"b"):
            assert kept.put(record(owner, subkey=subkey), 0.0) == "stored"
    assert len(kept.get(KEY, 0.0)) == 6
    assert kept.get(bytes([1]) * 32, 0.0) == []


def test_the_higher_sequence_wins_and_an_old_one_is_refused() -> None:
    kept = store()
    assert kept.put(record(sequence=5, value=b"five"), 0.0) == "stored"
    assert kept.put(record(sequence=4, value=b"four"), 0.0) == "old"
    assert [each.value for each in kept.get(KEY, 0.0)] == [b"five"]
    assert kept.put(record(sequence=6, value=b"six"), 0.0) == "stored"
    assert [each.value for each in kept.get(KEY, 0.0)] == [b"six"]
    assert len(kept) == 1


def test_of_a_fork_the_first_is_kept_and_it_is_counted() -> None:
    kept = store()
    assert kept.put(record(value=b"one"), 0.0) == "stored"
    assert kept.put(record(value=b"two"), 0.0) == "fork"
    assert kept.put(record(value=b"one", expires_s=61.0), 0.0) == "fork"
    assert kept.put(record(value=b"one"), 0.0) == "stored", "the same again is no fork"
    assert kept.counters["fork"] == 2
    assert [each.value for each in kept.get(KEY, 0.0)] == [b"one"]


def test_nothing_is_served_or_kept_past_its_owners_expiry() -> None:
    kept = store()
    kept.put(record(expires_s=10.0), 0.0)
    assert kept.get(KEY, 9.999)
    assert kept.get(KEY, 10.0) == []
    assert kept.put(record(2, expires_s=10.0), 10.0) == "void"
    assert kept.sweep(10.0) == 1
    assert len(kept) == 0


def test_a_shorter_life_under_a_higher_sequence_counts() -> None:
    kept = store()
    kept.put(record(sequence=1, expires_s=100.0), 0.0)
    kept.put(record(sequence=2, expires_s=10.0), 0.0)
    assert kept.sweep(10.0) == 1
    assert kept.sweep(100.0) == 0
    assert len(kept) == 0


def test_an_expired_record_does_not_block_a_lower_sequence() -> None:
    kept = store()
    kept.put(record(sequence=9, expires_s=10.0), 0.0)
    assert kept.put(record(sequence=3, expires_s=60.0), 20.0) == "stored"
    assert len(kept) == 1


def test_a_life_longer_than_anything_may_live_is_refused() -> None:
    kept = store(ttl_s_max=100.0)
    assert kept.put(record(expires_s=103.0), 0.0) == "stored", "the clocks may differ a little"
    assert kept.put(record(2, expires_s=104.0), 0.0) == "void"


@pytest.mark.parametrize("quota", ["per_owner_count_max", "per_key_count_max", "records_count_max"])
def test_each_quota_evicts_what_expires_first(quota: str) -> None:
    limits = {"records_count_max": 3, "per_owner_count_max": 3, "per_key_count_max": 3}
    kept = store(**limits)
    one_owner = quota == "per_owner_count_max"
    one_key = quota == "per_key_count_max"

    def make(index: int, expires_s: float) -> DhtRecord:
        key = KEY if one_key else bytes([index]) * 32
        return record(1 if one_owner else index, key=key, subkey=bytes([index]), expires_s=expires_s)

    for index, expires_s in ((1, 30.0), (2, 10.0), (3, 20.0)):
        assert kept.put(make(index, expires_s), 0.0) == "stored"
    assert kept.put(make(4, 5.0), 0.0) == "full", "it would itself be the first to go"
    assert kept.put(make(4, 40.0), 0.0) == "stored"
    assert sorted(each.expires_ms for each in kept) == [20_000, 30_000, 40_000]
    assert kept.put(dataclasses.replace(make(4, 15.0), sequence=2), 0.0) == "stored", "a successor fits"
    assert len(kept) == 3


def test_the_dead_make_room_before_the_living() -> None:
    kept = store(records_count_max=2, per_owner_count_max=2, per_key_count_max=2)
    kept.put(record(1, key=bytes([1]) * 32, expires_s=10.0), 0.0)
    kept.put(record(2, key=bytes([2]) * 32, expires_s=90.0), 0.0)
    assert kept.put(record(3, key=bytes([3]) * 32, expires_s=50.0), 20.0) == "stored"
    assert kept.counters["evicted"] == 0


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(0, 3), st.integers(0, 2), st.integers(1, 3), st.integers(1, 40)
        ),
        max_size=80,
    )
)
def test_the_store_agrees_with_a_dumb_twin(steps: list[tuple[int, int, int, int, int]]) -> None:
    """Without full quotas the store is a dictionary of the highest sequences, less the expired."""
    kept = store()
    twin: dict[tuple[bytes, bytes, bytes], DhtRecord] = {}
    for at, (owner, key, subkey, sequence, life_s) in enumerate(steps):
        now = float(at)
        each = record(
            owner, key=bytes([key]) * 32, subkey=bytes([subkey]), sequence=sequence, expires_s=now + life_s
        )
        where = (each.key, each.subkey, bytes(each.owner))
        known = twin.get(where)
        if known is None or known.expires_ms <= now * 1000 or known.sequence < sequence:
            twin[where] = each
        kept.put(each, now)
        if at % 7 == 0:
            kept.sweep(now)
        alive = {place: kept for place, kept in twin.items() if kept.expires_ms > now * 1000}
        found = {
            (r.key, r.subkey, bytes(r.owner)): r for k in range(4) for r in kept.get(bytes([k]) * 32, now)
        }
        assert found == alive
    kept.sweep(1000.0)
    assert len(kept) == 0
    assert not kept._by_owner
    assert not kept._by_key


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(1, 50)), max_size=80))
def test_no_quota_is_ever_exceeded(steps: list[tuple[int, int, int]]) -> None:
    kept = store(records_count_max=6, per_owner_count_max=3, per_key_count_max=4)
    for index, (owner, key, life_s) in enumerate(steps):
        kept.put(record(owner, key=bytes([key]) * 32, subkey=bytes([index]), expires_s=float(life_s)), 0.0)
        everything = list(kept)
        assert len(kept) == len(everything) <= 6
        for one in everything:
            assert sum(other.key == one.key for other in everything) <= 4
            assert sum(other.owner == one.owner for other in everything) <= 3
        assert len(kept._by_expiry) <= 13


def test_standing_and_the_newest_of_a_place() -> None:
    assert compare(record(sequence=2), record(sequence=1)) is Standing.NEWER
    assert compare(record(sequence=1), record(sequence=2)) is Standing.OLDER
    assert compare(record(), record()) is Standing.SAME
    assert compare(record(value=b"x"), record()) is Standing.FORK
    places = {place_of(record()): record()}
    assert not newest(places, record(value=b"x"))
    assert newest(places, record(sequence=2, value=b"y"))
    assert [each.value for each in places.values()] == [b"y"]
    assert next(iter(places)) == (b"", peer_id(1))


@pytest.mark.parametrize(
    ("value", "subkey", "ttl_s", "message"),
    [
        (bytes(513), b"", 1.0, "512 bytes, not 513"),
        (b"", bytes(65), 1.0, "64 bytes, not 65"),
        (b"", b"", 0.0, "ttl_s"),
        (b"", b"", 1e9, "ttl_s"),
    ],
)
def test_what_no_peer_would_keep_is_refused_by_name(
    value: bytes, subkey: bytes, ttl_s: float, message: str
) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        check_put(value, subkey, ttl_s, RecordConfig())


def test_settings_that_contradict_each_other_are_refused_by_name() -> None:
    for make, message in (
        (lambda: DhtConfig(k=0), "k is 1 to"),
        (lambda: DhtConfig(k=2), "alpha is 1 to k"),
        (lambda: DhtConfig(answer=AnswerConfig(contacts_count=10)), "contacts_count"),
        (lambda: QueryConfig(timeout_s_min=2.0), "timeout_s_min"),
        (lambda: TableConfig(bucket_group_count_max=20), "bucket_group_count_max"),
        (lambda: RecordConfig(republish_share=1.0), "republish_share"),
        (lambda: AnswerConfig(body_size_bytes_max=1300), "body_size_bytes_max"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    assert DhtConfig.wan() == DhtConfig()
    assert DhtConfig.lan().query.timeout_initial_s < DhtConfig.wan().query.timeout_initial_s
