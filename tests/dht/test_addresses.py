"""What an address tells: its reach, its block, and what may be believed of it."""

import pytest

from p2pinfer.dht.addresses import Reach, network_group, plausible, reach
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.puzzle import zero_bits
from tests.dht.peers import peer_id


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8.8.8.8", Reach.GLOBAL),
        ("2606:4700::1", Reach.GLOBAL),
        ("::ffff:8.8.8.8", Reach.GLOBAL),
        ("100.64.0.1", Reach.GLOBAL),
        ("10.0.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("169.254.1.1", Reach.PRIVATE),
        ("fe80::1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("0.0.0.0", Reach.NOWHERE),
        ("0.1.2.3", Reach.NOWHERE),
        ("::", Reach.NOWHERE),
        ("::ffff:0.0.0.0", Reach.NOWHERE),
        ("224.0.0.1", Reach.NOWHERE),
        ("240.0.0.1", Reach.NOWHERE),
        ("255.255.255.255", Reach.NOWHERE),
        ("ff02::1", Reach.NOWHERE),
        ("example.org", Reach.NOWHERE),
        ("", Reach.NOWHERE),
        ("8.8.8", Reach.NOWHERE),
    ],
)
def test_how_far_an_address_can_be_reached(host: str, expected: Reach) -> None:
    assert reach(host) is expected


def test_blocks_are_what_one_operator_rents() -> None:
    assert network_group("8.8.8.8") == network_group("8.8.8.255") == "8.8.8.0/24"
    assert network_group("8.8.9.8") != network_group("8.8.8.8")
    assert network_group("::ffff:8.8.8.8") == network_group("8.8.8.8"), "one address, two spellings"
    assert network_group("2606:4700:1:2::3") == network_group("2606:4700:1:ffff::3") == "2606:4700:1::/48"
    assert network_group("2606:4700:2::") != network_group("2606:4700:1::")
    assert network_group("no address") == "no address"


def told(host: str, port: int = 7946, index: int = 1) -> Contact:
    return Contact(peer_id(index), Endpoint(host, port))


def test_a_private_address_is_believed_only_from_nearby() -> None:
    own = peer_id(0)
    assert plausible(told("10.0.0.1"), Reach.PRIVATE, own)
    assert not plausible(told("10.0.0.1"), Reach.GLOBAL, own)
    assert not plausible(told("::ffff:10.0.0.1"), Reach.GLOBAL, own)
    assert not plausible(told("127.0.0.1"), Reach.PRIVATE, own)
    assert plausible(told("8.8.8.8"), Reach.LOOPBACK, own)


def test_what_cannot_be_a_contact_is_not_believed() -> None:
    own = peer_id(0)
    for bad in (
        told("8.8.8.8", 0),
        told("8.8.8.8", 65536),
        told("0.0.0.0"),
        told("name"),
        told("8.8.8.8", index=0),
        Contact(None, Endpoint("8.8.8.8", 1)),
    ):
        assert not plausible(bad, Reach.LOOPBACK, own)


def test_ids_told_by_others_must_have_the_swarms_work_in_them() -> None:
    for index in range(1, 100):
        contact = told("8.8.8.8", index=index)
        for difficulty in (0, 1, 5):
            expected = zero_bits(peer_id(index)) >= difficulty
            assert plausible(contact, Reach.GLOBAL, peer_id(0), difficulty) == expected
