"""Sealed datagrams: what rotation lets through, what it does not, and that nothing can be changed."""

from __future__ import annotations

import dataclasses
import hashlib
from itertools import pairwise

import hypothesis
import msgpack
import pytest
from hypothesis import strategies

from p2pinfer.errors import (
    CertificateError,
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplayError,
    SealError,
    SignatureError,
    UnknownKey,
    Unsealed,
)
from p2pinfer.identity import Identity, Verifier, seal, unseal
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.rotation import first_keyring, install_key, remove_key, use_key
from p2pinfer.wire.codec import encode
from p2pinfer.wire.envelope import DATAGRAM_SIZE_BYTES_MAX, Envelopes, _nonce
from p2pinfer.wire.messages.dht import FindNodes
from p2pinfer.wire.messages.keyring import Keyring, key_id
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.messages.swim import Gossip, Ping
from tests.wire.test_envelope import ALICE, BOB, EVE, INVITE, NOW, OWNER, PING, SWARM, record_of

sign = OWNER.sign_statement
OLD, NEW = b"o" * 32, b"n" * 32
FIRST = first_keyring(OWNER.public_key, OLD, sign)
INSTALLED = install_key(FIRST, NEW, sign)
USED = use_key(INSTALLED, key_id(NEW), sign)
REMOVED = remove_key(USED, key_id(OLD), sign)
STEPS = (FIRST, INSTALLED, USED, REMOVED)


def envelopes(identity: Identity, keyring: Keyring | None = FIRST) -> Envelopes:
    made = Envelopes(identity, SWARM, INVITE.admit(identity, NOW, 600.0), Verifier())
    if keyring is not None:
        made.use_keyring(keyring)
    return made


def test_what_is_sealed_opens_and_shows_nothing_of_its_body() -> None:
    message = Ping(sequence=1, gossip=Gossip(records=(record_of(BOB),)))
    datagram = envelopes(ALICE).seal(message, NOW)
    assert envelopes(BOB).open(datagram, NOW).message == message
    assert encode(message) not in datagram
    assert BOB.public_key not in datagram
    assert b"192.0.2.7" not in datagram
    assert ALICE.public_key in datagram, "the header stays readable"


@pytest.mark.parametrize(("earlier", "later"), list(pairwise(STEPS)))
def test_each_step_of_a_rotation_is_heard_by_those_who_are_one_step_away(
    earlier: Keyring, later: Keyring
) -> None:
    for one, other in ((earlier, later), (later, earlier), (later, later)):
        datagram = envelopes(ALICE, one).seal(PING, NOW)
        assert envelopes(BOB, other).open(datagram, NOW).message == PING


def test_a_removed_key_neither_opens_nor_is_heard() -> None:
    with pytest.raises(UnknownKey, match=key_id(OLD).hex()) as unknown:
        envelopes(BOB, REMOVED).open(envelopes(ALICE, FIRST).seal(PING, NOW), NOW)
    assert unknown.value.sender == ALICE.peer_id
    with pytest.raises(UnknownKey, match=key_id(NEW).hex()):
        envelopes(ALICE, FIRST).open(envelopes(BOB, REMOVED).seal(PING, NOW), NOW)


def test_a_running_peer_follows_each_version() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    for keyring in STEPS:
        for one in (alice, bob):
            one.use_keyring(keyring)
            for sender, receiver in ((alice, bob), (bob, alice)):
                assert receiver.open(sender.seal(PING, NOW), NOW).message == PING


def test_a_member_without_a_keyring_is_told_apart_from_a_stranger() -> None:
    bob = envelopes(BOB)
    with pytest.raises(Unsealed) as unsealed:
        bob.open(envelopes(ALICE, None).seal(PING, NOW), NOW)
    assert unsealed.value.sender == ALICE.peer_id
    with pytest.raises(UnknownKey):
        envelopes(ALICE, None).open(bob.seal(PING, NOW), NOW)
    stranger = Envelopes(EVE, SWARM, Membership(swarm=SWARM.id), Verifier())
    for keyring in (None, FIRST):
        if keyring is not None:
            stranger.use_keyring(keyring)
        with pytest.raises(CertificateError):
            bob.open(stranger.seal(PING, NOW), NOW)
    forged = bytearray(envelopes(ALICE, None).seal(PING, NOW))
    forged[-1] ^= 1
    with pytest.raises(SignatureError):
        bob.open(bytes(forged), NOW)


def test_before_there_is_a_keyring_all_speak_in_the_open() -> None:
    assert envelopes(BOB, None).open(envelopes(ALICE, None).seal(PING, NOW), NOW).message == PING


def test_what_does_not_open_moves_no_window() -> None:
    """Once the key is there, a datagram that came too early for it is as good as one that was late."""
    alice, bob = envelopes(ALICE, USED), envelopes(BOB, FIRST)
    datagram = alice.seal(PING, NOW)
    with pytest.raises(UnknownKey):
        bob.open(datagram, NOW)
    assert len(bob._replay) == 0
    bob.use_keyring(INSTALLED)
    assert bob.open(datagram, NOW).message == PING
    with pytest.raises(ReplayError):
        bob.open(datagram, NOW)


def test_no_bit_of_a_sealed_datagram_can_be_changed() -> None:
    datagram, bob = envelopes(ALICE).seal(PING, NOW), envelopes(BOB)
    for place in range(len(datagram)):
        changed = datagram[:place] + bytes((datagram[place] ^ 1 << place % 8,)) + datagram[place + 1 :]
        with pytest.raises(RemoteProtocolError):
            bob.open(changed, NOW)
    assert bob.open(datagram, NOW).message == PING


def test_every_byte_of_the_header_is_bound_to_the_seal_itself() -> None:
    """Also against a member, who can sign anything: it cannot put its own header before another's body."""
    alice = envelopes(ALICE)
    datagram = alice.seal(PING, NOW)
    fields = msgpack.unpackb(datagram)
    body = fields[6]
    header = datagram[: len(datagram) - len(body) - 2 - 66]
    assert unseal(OLD, _nonce(header), body[4:], alice._prefix + header) == encode(PING)
    nonce = _nonce(header)
    for place in range(len(header)):
        changed = header[:place] + bytes((header[place] ^ 1,)) + header[place + 1 :]
        assert _nonce(changed) != nonce
        with pytest.raises(SealError):
            unseal(OLD, nonce, body[4:], alice._prefix + changed)  # the associated data alone
    with pytest.raises(SealError):
        unseal(OLD, nonce, body[4:], b"p2pinfer datagram v1\x00" + EVE.public_key + header)
    thief = envelopes(EVE)
    own = msgpack.unpackb(thief.seal(PING, NOW))
    own[6] = body
    unsigned = msgpack.packb(own)[:-64]
    with pytest.raises(SealError) as stolen:
        envelopes(BOB).open(unsigned + EVE.sign(thief._prefix + unsigned), NOW)
    assert stolen.value.sender == EVE.peer_id


@pytest.mark.parametrize("body", [b"", b"abc", key_id(OLD), key_id(OLD) + bytes(15), key_id(OLD) + bytes(16)])
def test_a_member_that_seals_nonsense_gets_a_named_error(body: bytes) -> None:
    alice = envelopes(ALICE)
    fields = msgpack.unpackb(alice.seal(PING, NOW))
    fields[6] = body
    unsigned = msgpack.packb(fields)[:-64]
    with pytest.raises(SealError) as refused:
        envelopes(BOB).open(unsigned + ALICE.sign(alice._prefix + unsigned), NOW)
    assert refused.value.sender == ALICE.peer_id


def test_a_sealed_body_that_is_no_message() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    header = alice._starts[1] + b"\xd3" + (77).to_bytes(8) + b"\xd3" + int(NOW * 1000).to_bytes(8)
    for body in (b"", b"\xc1", encode(PING)[:-1], encode(PING) + b"\x00"):
        sealed = key_id(OLD) + seal(OLD, _nonce(header), body, alice._prefix + header)
        unsigned = header + bytes((0xC4, len(sealed))) + sealed + b"\xc4\x40"
        with pytest.raises(DecodeError):
            bob.open(unsigned + ALICE.sign(alice._prefix + unsigned), NOW)
        header = header[:-10] + bytes((header[-10] + 1,)) + header[-9:]


def test_another_key_of_the_same_id_does_not_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is a name of four bytes, which a stranger's key may share: the seal decides."""
    monkeypatch.setattr("p2pinfer.wire.messages.keyring.key_id", lambda key: b"same")
    one, other = (first_keyring(OWNER.public_key, key, sign) for key in (OLD, NEW))
    one, other = (
        Keyring(notice=dataclasses.replace(each.notice, primary=b"same"), keys=each.keys)
        for each in (one, other)
    )
    with pytest.raises(SealError) as refused:
        envelopes(BOB, other).open(envelopes(ALICE, one).seal(PING, NOW), NOW)
    assert not isinstance(refused.value, UnknownKey)
    assert envelopes(BOB, one).open(envelopes(ALICE, one).seal(PING, NOW), NOW).message == PING


def test_what_the_cores_may_pack_fits_a_datagram_of_an_invited_peer() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    room = DATAGRAM_SIZE_BYTES_MAX - alice.overhead_bytes
    assert room >= SwimConfig().datagram_body_bytes_max
    padding = room - len(encode(FindNodes(query=1, keys=(b"k" * 32,), padding=bytes(256)))) + 256
    largest = FindNodes(query=1, keys=(b"k" * 32,), padding=bytes(padding))
    assert len(encode(largest)) == room
    datagram = alice.seal(largest, NOW)
    assert len(datagram) == DATAGRAM_SIZE_BYTES_MAX
    assert bob.open(datagram, NOW).message == largest
    with pytest.raises(LocalProtocolError, match="does not fit a datagram"):
        alice.seal(FindNodes(query=1, keys=(b"k" * 32,), padding=bytes(padding + 1)), NOW)


def test_sealing_adds_a_tag_and_a_keys_id() -> None:
    assert len(envelopes(ALICE).seal(PING, NOW)) == len(envelopes(ALICE, None).seal(PING, NOW)) + 20


def test_no_nonce_comes_twice() -> None:
    """Not within a life, not after a restart, not between peers."""
    nonces = set()
    made = 0
    for identity in (ALICE, BOB):
        for restart in range(3):
            one = envelopes(identity)
            for index in range(200):
                header, _, _ = _parts(one.seal(PING, NOW + restart * 0.5 + index / 1000))
                nonces.add(_nonce(header))
                made += 1
    assert len(nonces) == made


def _parts(datagram: bytes) -> tuple[bytes, bytes, bytes]:
    fields = msgpack.unpackb(datagram)
    body = fields[6]
    head = 2 if len(body) < 256 else 3
    size = len(datagram) - 66 - len(body) - head
    return datagram[:size], body, fields[7]


def test_the_nonce_is_a_hash_of_what_identifies_the_datagram() -> None:
    header, _, _ = _parts(envelopes(ALICE).seal(PING, NOW))
    assert _nonce(header) == hashlib.blake2b(header, digest_size=24).digest()
    assert ALICE.public_key in header
    assert int(NOW * 1e6).to_bytes(8) in header
    assert int(NOW * 1000).to_bytes(8) in header


@hypothesis.given(
    body=strategies.binary(max_size=1200),
    header=strategies.binary(max_size=400),
    key=strategies.binary(min_size=32, max_size=32),
    place=strategies.integers(min_value=0),
)
@hypothesis.settings(max_examples=100, derandomize=True, deadline=None)
def test_a_seal_opens_unchanged_alone(body: bytes, header: bytes, key: bytes, place: int) -> None:
    nonce = _nonce(header)
    sealed = seal(key, nonce, body, header)
    assert len(sealed) == len(body) + 16
    assert unseal(key, nonce, sealed, header) == body
    place %= len(sealed)
    changed = sealed[:place] + bytes((sealed[place] ^ 0x80,)) + sealed[place + 1 :]
    for wrong in (
        (key, nonce, changed, header),
        (key, nonce, sealed[:-1], header),
        (key, nonce, sealed, header + b"\x00"),
        (bytes(32) if key != bytes(32) else b"1" * 32, nonce, sealed, header),
    ):
        with pytest.raises(SealError):
            unseal(*wrong)


def test_garbage_is_refused_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("something was computed for garbage")

    bob, datagram = envelopes(BOB), envelopes(ALICE).seal(PING, NOW)
    for name in ("verify", "unseal"):
        monkeypatch.setattr(f"p2pinfer.wire.envelope.{name}", fail)
    for size in range(len(datagram)):
        with pytest.raises(RemoteProtocolError):
            bob.open(datagram[:size], NOW)
    with pytest.raises(ReplayError):
        bob.open(datagram, NOW + 61)


def test_a_seal_is_opened_only_for_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a stranger's seal was opened")

    stranger = Envelopes(EVE, SWARM, Membership(swarm=SWARM.id), Verifier())
    stranger.use_keyring(FIRST)
    datagram = stranger.seal(PING, NOW)
    monkeypatch.setattr("p2pinfer.wire.envelope.unseal", fail)
    with pytest.raises(CertificateError):
        envelopes(BOB).open(datagram, NOW)
