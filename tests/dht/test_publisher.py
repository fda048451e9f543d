"""What this peer wants stored: when it is said again, under which sequence, and when no more."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig, RecordConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.namespaces import endpoint_value
from p2pinfer.dht.publisher import Publisher
from p2pinfer.dht.put import Put
from p2pinfer.dht.store import RecordStore
from p2pinfer.errors import LocalProtocolError
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import contact, endpoint, peer_id, public_key, unsigned

KEY = key_of("value", "key")
INT_MAX = (1 << 63) - 1


def publisher(seed: int = 1, **changed: float) -> Publisher:
    config = DhtConfig(record=dataclasses.replace(RecordConfig(), **changed))  # type: ignore[arg-type]
    return Publisher(public_key(1), unsigned, config, random.Random(seed))


def said(ours: Publisher, value: bytes, now: float, *, ttl_s: float = 100.0, key: bytes = KEY) -> DhtRecord:
    ours.put(Put(key=key, value=value, ttl_s=ttl_s))
    return ours.make_record(key, b"", now)


def test_a_record_is_said_again_at_a_share_of_its_life_with_a_higher_sequence() -> None:
    """BEP-44 republishes every hour; a shorter life needs it sooner."""
    ours = publisher()
    first = said(ours, b"v", 1000.0)
    assert (first.sequence, first.expires_ms, first.value) == (1_000_000, 1_100_000, b"v")
    assert ours.due(1031.9, 9) == []
    assert ours.deadline is not None
    assert 1032.0 <= ours.deadline <= 1040.0
    (second,) = ours.due(ours.deadline, 9)
    assert second.sequence > first.sequence
    assert second.value == b"v"
    said(ours, b"v", 1000.0, ttl_s=100_000.0)
    assert ours.deadline <= 1000.0 + 3600.0


def test_records_put_at_different_times_come_to_be_said_together_and_near_keys_side_by_side() -> None:
    ours = publisher()
    keys = [key_of("value", str(index)) for index in range(12)]
    for index, key in enumerate(keys):
        said(ours, b"v", 1000.0 + index, key=key)
    now, lookups = 1011.0, 0
    while now < 2000.0:
        assert ours.deadline is not None
        now = max(now, ours.deadline)
        batch = ours.due(now, 16)
        assert batch
        assert [each.key for each in batch] == sorted(each.key for each in batch)
        lookups += 1
    rounds = 1000.0 / 36.0
    assert lookups < 2 * rounds, "where each alone would be a lookup, twelve a round"


def test_what_is_too_much_at_once_is_due_at_the_next_call() -> None:
    ours = publisher()
    for index in range(5):
        said(ours, b"v", 0.0, key=key_of("value", str(index)))
    first, second = ours.due(60.0, 3), ours.due(60.0, 3)
    assert [len(first), len(second)] == [3, 2]
    assert len({each.key for each in first + second}) == 5
    assert ours.due(60.0, 0) == []


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1e6), st.booleans()), max_size=30))
def test_sequences_only_rise_whatever_the_clock_does_and_whatever_was_unput(
    steps: list[tuple[int, float, bool]],
) -> None:
    ours = publisher()
    last = 0
    for index, now, is_unput in steps:
        key = key_of("value", str(index))
        record = said(ours, b"v", now, key=key)
        assert record.sequence > last
        last = record.sequence
        if is_unput:
            assert ours.unput(key, b"")
            assert not ours.unput(key, b"")


def test_after_a_restart_the_clock_carries_the_sequence_on() -> None:
    first = said(publisher(), b"old", 1000.0)
    second = said(publisher(), b"new", 1000.5)
    assert second.sequence > first.sequence


def test_after_a_restart_with_the_clock_set_back_a_holder_tells_how_far_we_were() -> None:
    store = RecordStore(peer_id(0), DhtConfig())
    before = said(publisher(), b"old", 5000.0, ttl_s=9000.0)
    store.put(before, contact(1), 1000.0)
    ours = publisher()
    record = said(ours, b"new", 1000.0)
    placed = store.put(record, contact(1), 1000.0)
    assert (placed.code, placed.held) == ("old", before)
    ours.outrun(before, 1000.0)
    assert ours.deadline == 1005.0
    (again,) = ours.due(1005.0, 9)
    assert store.put(again, contact(1), 1005.0).code == "stored"
    assert again.value == b"new"
    ours.outrun(before, 1006.0)
    assert ours.due(1015.0, 9) == [], "what is held is older than what was said"


def test_nobody_elses_record_and_no_last_sequence_moves_ours() -> None:
    ours = publisher()
    mine = said(ours, b"v", 10.0)
    stranger = dataclasses.replace(mine, public_key=public_key(2), sequence=1 << 50)
    ours.outrun(stranger, 10.0)
    ours.outrun(dataclasses.replace(mine, sequence=INT_MAX), 10.0)
    assert said(ours, b"w", 11.0).sequence == 11_000


def test_a_compare_and_swap_is_said_once_and_kept_alive_when_it_has_won() -> None:
    ours = publisher()
    ours.put(Put(key=KEY, value=b"v", ttl_s=100.0, expected=5_000_000))
    record = ours.make_record(KEY, b"", 10.0)
    assert record.sequence == 5_000_001, "above what it replaces, wherever the clock stands"
    assert ours.due(1e6, 9) == []
    assert [ours.deadline] == [None]
    ours.confirm(record)
    assert ours.deadline == pytest.approx(10.0 + 36.0, abs=4.0)
    (again,) = ours.due(60.0, 9)
    assert again.sequence > record.sequence
    ours.refused(record)
    assert len(ours) == 1, "it has won already"


def test_a_compare_and_swap_that_lost_is_not_said_again_nor_what_stood_there_before() -> None:
    ours = publisher()
    said(ours, b"mine", 10.0)
    ours.put(Put(key=KEY, value=b"swap", ttl_s=100.0, expected=0))
    swap = ours.make_record(KEY, b"", 11.0)
    ours.refused(swap)
    assert len(ours) == 0
    assert ours.due(1e6, 9) == []
    ours.confirm(swap)
    ours.put(Put(key=KEY, value=b"swap", ttl_s=100.0, expected=0))
    late = ours.make_record(KEY, b"", 12.0)
    said(ours, b"newer wish", 13.0)
    ours.refused(late)
    assert len(ours) == 1, "something else was put there meanwhile"


def test_provider_and_own_records_carry_their_namespace() -> None:
    ours = publisher()
    ours.put(Put(key=KEY, value=endpoint_value(endpoint(1)), namespace="provider", ttl_s=60.0))
    assert ours.make_record(KEY, b"", 0.0).namespace == "provider"
    own = key_of("own", public_key(1) + b"s")
    ours.put(Put(key=own, value=b"v", namespace="own", subkey=b"s", ttl_s=60.0))
    assert ours.make_record(own, b"s", 0.0).namespace == "own"


@pytest.mark.parametrize(
    ("namespace", "value", "subkey", "ttl_s", "expected", "message"),
    [
        ("value", bytes(513), b"", 60.0, None, "512 bytes"),
        ("value", b"", bytes(65), 60.0, None, "64 bytes"),
        ("value", b"", b"", 0.0, None, "ttl_s"),
        ("value", b"", b"", 60.0, -1, "expected is a sequence"),
        ("value", b"", b"", 60.0, INT_MAX, "expected is a sequence"),
        ("provider", b"junk", b"", 60.0, None, "'provider' is refused: its value"),
        ("own", b"", b"", 60.0, None, "'own' is refused: its key"),
        ("content", b"x", b"", 60.0, None, "'content' is refused: its key"),
        ("n" * 17, b"", b"", 60.0, None, "namespace"),
    ],
)
def test_what_no_peer_would_keep_is_refused_by_name(
    namespace: str, value: bytes, subkey: bytes, ttl_s: float, expected: int | None, message: str
) -> None:
    ours = publisher()
    wanted = Put(key=KEY, value=value, namespace=namespace, subkey=subkey, ttl_s=ttl_s, expected=expected)
    with pytest.raises(LocalProtocolError, match=message):
        ours.put(wanted)
    assert len(ours) == 0


def test_no_more_is_put_than_peers_keep_of_one_owner() -> None:
    ours = publisher(per_owner_count_max=2)
    said(ours, b"v", 0.0, key=key_of("value", "a"))
    said(ours, b"v", 0.0, key=key_of("value", "b"))
    said(ours, b"w", 0.0, key=key_of("value", "b"))
    with pytest.raises(LocalProtocolError, match="2 records are put already"):
        said(ours, b"v", 0.0, key=key_of("value", "c"))
