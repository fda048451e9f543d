"""Datagrams with a tag in place of a signature: between two peers that have heard each other."""

from __future__ import annotations

import msgpack
import pytest

from p2pinfer.errors import CertificateError, RemoteProtocolError, SealError, SignatureError
from p2pinfer.wire.codec import encode
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.messages.membership import Membership
from tests.wire.test_envelope import ALICE, BOB, EVE, NOW, OWNER, PING, RING, SWARM, envelopes


def acquainted() -> tuple[Envelopes, Envelopes]:
    """Alice and Bob, who have heard each other."""
    alice, bob = envelopes(ALICE), envelopes(BOB)
    bob.open(alice.seal(PING, NOW), NOW)
    alice.open(bob.seal(PING, NOW, ALICE.peer_id), NOW)
    return alice, bob


def test_who_was_heard_is_sent_a_tag_in_place_of_a_signature() -> None:
    alice, bob = acquainted()
    signed, tagged = alice.seal(PING, NOW), alice.seal(PING, NOW, BOB.peer_id)
    assert (signed[1], tagged[1]) == (1, 3)
    assert len(signed) - len(tagged) == 48
    opened = bob.open(tagged, NOW)
    assert (opened.sender, opened.message) == (ALICE.peer_id, PING)
    assert envelopes(BOB).open(alice.seal(PING, NOW, BOB.peer_id), NOW).sender == ALICE.peer_id, (
        "after a restart"
    )


def test_a_stranger_and_whoever_was_not_heard_get_signatures() -> None:
    alice = envelopes(ALICE)
    assert alice.seal(PING, NOW, BOB.peer_id)[1] == 1
    assert alice.seal(PING, NOW, None)[1] == 1


def test_a_tagged_datagram_is_for_its_receiver_alone_and_no_other_can_make_it() -> None:
    alice, _ = acquainted()
    tagged = alice.seal(PING, NOW, BOB.peer_id)
    with pytest.raises(SignatureError, match="tag"):
        envelopes(OWNER, Membership(swarm=SWARM.id)).open(tagged, NOW)
    with pytest.raises(SignatureError, match="tag"):
        alice.open(tagged, NOW)  # sent back to its sender, whose key with itself is another
    fields = msgpack.unpackb(tagged)
    fields[2] = EVE.public_key  # the same bytes as somebody else's
    with pytest.raises(SignatureError, match="tag"):
        envelopes(BOB).open(msgpack.packb(fields), NOW)


def test_no_byte_of_a_tagged_datagram_can_be_changed() -> None:
    alice, _ = acquainted()
    tagged = alice.seal(PING, NOW, BOB.peer_id)
    for index in range(len(tagged)):
        changed = bytearray(tagged)
        changed[index] ^= 1
        with pytest.raises(RemoteProtocolError):
            envelopes(BOB).open(bytes(changed), NOW)


def test_a_tag_admits_nobody_who_is_no_member() -> None:
    stranger = envelopes(EVE, Membership(swarm=SWARM.id))
    stranger.open(envelopes(BOB).seal(PING, NOW), NOW)
    tagged = stranger.seal(PING, NOW, BOB.peer_id)
    assert tagged[1] == 3
    with pytest.raises(CertificateError, match="shows no certificate"):
        envelopes(BOB).open(tagged, NOW)


def test_a_key_that_shares_nothing_secret_is_refused() -> None:
    """A low-order point would make a key that anybody knows."""
    for bad in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32):
        with pytest.raises(SignatureError):
            ALICE.pair_key(bad)


def test_tagged_datagrams_are_sealed_as_well() -> None:
    alice, bob = acquainted()
    for each in (alice, bob):
        each.use_keyring(RING)
    tagged = alice.seal(PING, NOW, BOB.peer_id)
    assert tagged[1] == 4
    assert encode(PING) not in tagged
    assert bob.open(tagged, NOW).message == PING
    with pytest.raises(SealError):
        envelopes(BOB).open(tagged, NOW)
