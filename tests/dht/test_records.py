"""Which of two records is newer, and what everybody prefers of two that contradict each other."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import RECORD_SIZE_BYTES_MAX, RecordConfig
from p2pinfer.dht.records import (
    Place,
    Standing,
    check_put,
    compare,
    digest_of,
    fork_of,
    is_expected,
    newest,
    place_of,
    record_size_bytes,
)
from p2pinfer.errors import LocalProtocolError
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import in_namespace, peer_id, public_key, record

INT_MAX = (1 << 63) - 1


def test_standing_and_the_newest_of_a_place() -> None:
    assert compare(record(sequence=2), record(sequence=1)) is Standing.NEWER
    assert compare(record(sequence=1), record(sequence=2)) is Standing.OLDER
    assert compare(record(), record()) is Standing.SAME
    assert compare(record(value=b"x"), record()) is Standing.FORK
    assert compare(record(expires_s=61.0), record()) is Standing.FORK
    assert compare(in_namespace("swarm", record()), record()) is Standing.FORK
    places = {place_of(record()): record(sequence=2, value=b"v")}
    assert not newest(places, record(value=b"x"))
    assert newest(places, record(sequence=3, value=b"y"))
    assert [each.value for each in places.values()] == [b"y"]
    assert next(iter(places)) == (b"", peer_id(1))


def test_of_a_fork_everybody_prefers_the_same_one_in_whatever_order_it_is_seen() -> None:
    forked = [record(value=b"%d" % index) for index in range(4)]
    preferred = min(forked, key=digest_of)
    for order in itertools.permutations(forked):
        places: dict[Place, DhtRecord] = {}
        for each in order:
            newest(places, each)
        assert list(places.values()) == [preferred]


def test_a_fork_is_evidence_only_where_one_owner_contradicts_itself_in_one_place() -> None:
    one, other = record(value=b"a"), record(value=b"b")
    fork = fork_of(one, other)
    assert fork == fork_of(other, one)
    assert fork is not None
    assert {fork.first, fork.second} == {one, other}
    assert digest_of(fork.first) < digest_of(fork.second)
    assert fork.owner == peer_id(1)
    for innocent in (
        record(value=b"a"),
        record(2, value=b"b"),
        record(value=b"b", sequence=2),
        record(value=b"b", subkey=b"s"),
        record(value=b"b", key=bytes([1]) * 32),
    ):
        assert fork_of(one, innocent) is None


def test_a_condition_of_bep_44_names_the_sequence_that_is_replaced() -> None:
    """BEP-44, "CAS": the put is refused unless the stored sequence is the one given."""
    assert is_expected(None, -1)
    assert is_expected(record(sequence=5), -1)
    assert is_expected(None, 0)
    assert not is_expected(record(sequence=0), 0)
    assert not is_expected(None, 5)
    assert is_expected(record(sequence=5), 5)
    assert not is_expected(record(sequence=6), 5)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 16), st.integers(0, 64), st.integers(0, 512), st.integers(0, INT_MAX))
def test_the_counted_size_of_a_record_is_never_below_the_real_one(
    namespace: int, subkey: int, value: int, number: int
) -> None:
    each = DhtRecord(
        public_key=public_key(1),
        namespace="n" * namespace,
        key=bytes(32),
        subkey=bytes(subkey),
        value=bytes(value),
        sequence=number,
        expires_ms=number,
        signature=bytes(64),
    )
    assert encoded_size(each) <= record_size_bytes(each) <= RECORD_SIZE_BYTES_MAX


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
