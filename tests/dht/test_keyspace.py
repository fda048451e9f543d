import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.keyspace import (
    bucket_range,
    check_key,
    choose_key_in_bucket,
    distance,
    key_of,
    prefix_length,
)
from p2pinfer.errors import LocalProtocolError
from tests.dht.peers import peer_id

keys = st.binary(min_size=32, max_size=32)


@settings(deadline=None, derandomize=True)
@given(keys, keys, keys)
def test_distance_is_a_metric_with_one_point_at_each_distance(a: bytes, b: bytes, c: bytes) -> None:
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert distance(a, b) ^ distance(b, c) == distance(a, c)


@settings(deadline=None, derandomize=True)
@given(keys, keys)
def test_every_key_lies_in_exactly_the_bucket_of_its_prefix(own: bytes, other: bytes) -> None:
    prefix = prefix_length(own, other)
    if own == other:
        assert prefix == 256
        return
    number = int.from_bytes(other, "big")
    low, high = bucket_range(own, prefix)
    assert low <= number <= high
    for wrong in {0, prefix - 1, prefix + 1, 255} - {prefix, -1, 256}:
        low, high = bucket_range(own, wrong)
        assert not low <= number <= high


def test_the_buckets_cover_the_whole_space_but_the_own_key() -> None:
    own = peer_id(1)
    ranges = sorted(bucket_range(own, prefix) for prefix in range(256))
    number = int.from_bytes(own, "big")
    expected_low = 0
    for low, high in ranges:
        if expected_low == number:
            expected_low += 1
        assert low == expected_low
        expected_low = high + 1
    assert expected_low in (1 << 256, number)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(keys, st.integers(0, 255), st.integers(0, 99))
def test_a_drawn_key_lies_in_its_bucket(own: bytes, prefix: int, seed: int) -> None:
    assert prefix_length(own, choose_key_in_bucket(own, prefix, random.Random(seed))) == prefix


def test_a_namespace_keeps_equal_names_apart() -> None:
    assert key_of("holders", "m") != key_of("rendezvous", "m")
    assert key_of("holders", "m") == key_of("holders", b"m")
    assert key_of("ab", "c") != key_of("a", "bc")
    with pytest.raises(LocalProtocolError, match="NUL"):
        key_of("a\0b", "c")
    with pytest.raises(LocalProtocolError, match="namespace"):
        key_of("", "c")


def test_a_key_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes, not 20"):
        check_key(bytes(20))
