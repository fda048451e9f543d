import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.addresses import Reach, network_group, plausible, reach
from p2pinfer.dht.keyspace import (
    bucket_range,
    check_key,
    choose_key_in_bucket,
    distance,
    key_of,
    prefix_length,
)
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint
from tests.dht.peers import contact, peer_id

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


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8.8.8.8", Reach.GLOBAL),
        ("2a00:1450::1", Reach.GLOBAL),
        ("10.1.2.3", Reach.PRIVATE),
        ("fe80::1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("0.0.0.0", Reach.NOWHERE),
        ("224.0.0.1", Reach.NOWHERE),
        ("255.255.255.255", Reach.NOWHERE),
        ("example.org", Reach.NOWHERE),
        ("", Reach.NOWHERE),
    ],
)
def test_reach(host: str, expected: Reach) -> None:
    assert reach(host) is expected


def test_a_group_is_a_24_or_a_48() -> None:
    assert network_group("8.8.8.8") == network_group("8.8.8.250") != network_group("8.8.9.8")
    assert (
        network_group("2a00:1450:1::1")
        == network_group("2a00:1450:1:9::2")
        != network_group("2a00:1450:2::1")
    )
    assert network_group("::ffff:8.8.8.8") == network_group("8.8.8.1")


def test_a_private_address_is_believed_only_from_a_private_one() -> None:
    own, stranger, neighbour = peer_id(0), reach("8.8.8.8"), reach("10.0.0.2")
    assert not plausible(contact(3, "192.168.1.1"), stranger, own)
    assert not plausible(contact(3, "127.0.0.1"), neighbour, own)
    assert plausible(contact(3, "192.168.1.1"), neighbour, own)
    assert plausible(contact(3, "9.9.9.9"), neighbour, own)
    assert not plausible(contact(0, "9.9.9.9"), neighbour, own)
    assert not plausible(Contact(None, Endpoint("9.9.9.9", 1)), neighbour, own)
    assert not plausible(Contact(peer_id(3), Endpoint("9.9.9.9", 0)), neighbour, own)
