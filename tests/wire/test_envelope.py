"""The datagram's envelope under attack: each way in has a test with its name."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgpack
import pytest

from p2pinfer.effects import Message
from p2pinfer.errors import (
    CertificateError,
    CertificateExpired,
    ConfigError,
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplayError,
    SignatureError,
    UnfitId,
    VersionMismatch,
    WrongSwarm,
)
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Endpoint, SwarmId
from p2pinfer.membership import Invite, SwarmPolicy, issue_certificate
from p2pinfer.swim.rotation import first_keyring
from p2pinfer.wire.codec import encode
from p2pinfer.wire.envelope import DATAGRAM_SIZE_BYTES_MAX, Envelopes
from p2pinfer.wire.messages.events import Query, QueryFilter, UserEvent
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import Gossip, Ping
from tests.wire.mutation import mutate

NOW = 1_700_000_000.0
OWNER, ALICE, BOB, EVE = (Identity.from_seed(bytes((i,)) * 32) for i in range(4))
INVITE = Invite.create(OWNER, [Endpoint("192.0.2.1", 7946)], 3600.0, NOW)
SWARM = INVITE.swarm
PING = Ping(sequence=7, gossip=Gossip())
RING = first_keyring(OWNER.public_key, b"k" * 32, OWNER.sign_statement)
SEALING_SIZE_BYTES = 20
"""The tag, and the key's id."""


def record_of(identity: Identity, incarnation: int = 1) -> PeerRecord:
    bare = PeerRecord(
        public_key=identity.public_key,
        endpoint=Endpoint("192.0.2.7", 7946),
        incarnation=incarnation,
        expires_ms=int(NOW * 1000) + 60_000,
    )
    return identity.sign_statement(bare)


def envelopes(identity: Identity, membership: Membership | None = None, **settings: Any) -> Envelopes:
    membership = membership or INVITE.admit(identity, NOW, 600.0)
    return Envelopes(identity, SWARM, membership, Verifier(), **settings)


def test_what_is_sealed_opens_at_another_member() -> None:
    message = Ping(sequence=1, gossip=Gossip(records=(record_of(BOB), record_of(OWNER))))
    opened = envelopes(BOB).open(envelopes(ALICE).seal(message, NOW), NOW + 1)
    assert opened.message == message
    assert (opened.sender, opened.public_key) == (ALICE.peer_id, ALICE.public_key)


def test_the_owner_needs_no_certificate() -> None:
    alice = envelopes(OWNER, Membership(swarm=SWARM.id))
    assert envelopes(BOB).open(alice.seal(PING, NOW), NOW).sender == OWNER.peer_id


def test_anybody_may_speak_in_an_open_swarm() -> None:
    swarm = SwarmPolicy(SWARM.id, is_open=True)
    one, other = (Envelopes(who, swarm, Membership(swarm=SWARM.id), Verifier()) for who in (EVE, BOB))
    assert other.open(one.seal(PING, NOW), NOW).sender == EVE.peer_id


@pytest.mark.parametrize("is_open", [False, True])
def test_an_id_without_the_swarms_work_is_refused_before_its_signature_is_checked(is_open: bool) -> None:
    swarm = SwarmPolicy(SWARM.id, is_open, 12)
    fit = Identity.generate(12)
    hearer, speaker = (Envelopes(who, swarm, INVITE.admit(who, NOW, 600.0), Verifier()) for who in (BOB, fit))
    assert hearer.open(speaker.seal(PING, NOW), NOW).sender == fit.peer_id
    datagram = envelopes(EVE).seal(PING, NOW)
    for each in (datagram, datagram[:-1] + bytes((datagram[-1] ^ 1,))):
        with pytest.raises(UnfitId, match="lacks the work that this swarm asks for"):
            hearer.open(each, NOW)


def test_forged_every_single_bit_counts() -> None:
    datagram, bob = envelopes(ALICE).seal(PING, NOW), envelopes(BOB)
    for place in range(len(datagram)):
        changed = datagram[:place] + bytes((datagram[place] ^ 1 << place % 8,)) + datagram[place + 1 :]
        with pytest.raises(RemoteProtocolError):
            bob.open(changed, NOW)
    assert bob.open(datagram, NOW).message == PING, "no forgery moved the replay window"


def test_forged_in_the_name_of_another() -> None:
    fields = msgpack.unpackb(envelopes(EVE, Membership(swarm=SWARM.id)).seal(PING, NOW))
    fields[2] = ALICE.public_key
    with pytest.raises(SignatureError):
        envelopes(BOB).open(msgpack.packb(fields), NOW)


def test_a_stolen_certificate_does_not_help_another_key() -> None:
    thief = envelopes(EVE, INVITE.admit(ALICE, NOW, 600.0))
    with pytest.raises(CertificateError, match="another key"):
        envelopes(BOB).open(thief.seal(PING, NOW), NOW)


def test_a_stranger_is_refused_and_takes_no_room() -> None:
    bob = envelopes(BOB)
    for seed in range(4, 9):
        stranger = envelopes(Identity.from_seed(bytes((seed,)) * 32), Membership(swarm=SWARM.id))
        with pytest.raises(CertificateError, match="needs an invite"):
            bob.open(stranger.seal(PING, NOW), NOW)
    assert len(bob._replay) == 0
    assert len(bob._members) == 0


def test_replayed() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    datagrams = [alice.seal(PING, NOW) for _ in range(5)]
    for datagram in reversed(datagrams):
        bob.open(datagram, NOW)
    for datagram in datagrams:
        with pytest.raises(ReplayError, match="seen before"):
            bob.open(datagram, NOW)


def test_replayed_to_another_peer_it_is_still_who_it_was() -> None:
    """A datagram names no receiver: passing one on gives nobody another name."""
    datagram = envelopes(ALICE).seal(PING, NOW)
    for receiver in (BOB, EVE):
        assert envelopes(receiver).open(datagram, NOW).sender == ALICE.peer_id


def test_a_restarted_peer_goes_on_above_what_it_used() -> None:
    bob, first = envelopes(BOB), envelopes(ALICE)
    for _ in range(100):
        bob.open(first.seal(PING, NOW), NOW)
    assert bob.open(envelopes(ALICE).seal(PING, NOW + 0.01), NOW + 0.01).message == PING


@pytest.mark.parametrize("shift_s", [-60.001, 60.001, -1e6, 1e6])
def test_wrong_time(shift_s: float) -> None:
    invite = Invite.create(OWNER, [Endpoint("192.0.2.1", 1)], 1e9, NOW - 1e7)
    alice = envelopes(ALICE, invite.admit(ALICE, NOW - 1e7, 1e9))
    with pytest.raises(ReplayError, match="check the clocks"):
        envelopes(BOB).open(alice.seal(PING, NOW + shift_s), NOW)


@pytest.mark.parametrize("shift_s", [-59.9, 0.0, 59.9])
def test_a_clock_within_the_window_is_taken(shift_s: float) -> None:
    assert envelopes(BOB).open(envelopes(ALICE).seal(PING, NOW + shift_s), NOW).message == PING


def test_other_swarm() -> None:
    swarm = SwarmPolicy(SwarmId(EVE.public_key))
    stranger = Envelopes(EVE, swarm, Membership(swarm=swarm.id), Verifier())
    with pytest.raises(WrongSwarm):
        envelopes(BOB).open(stranger.seal(PING, NOW), NOW)


def test_other_swarm_with_the_same_hint() -> None:
    """The hint is eight bytes of the id; the signature covers all of it."""
    twin = SwarmPolicy(SwarmId(SWARM.id[:8] + bytes(24)), is_open=True)
    stranger = Envelopes(ALICE, twin, Membership(swarm=twin.id), Verifier())
    with pytest.raises(SignatureError):
        envelopes(BOB).open(stranger.seal(PING, NOW), NOW)


def test_expired_membership_although_it_was_good_before() -> None:
    alice, bob = envelopes(ALICE, INVITE.admit(ALICE, NOW, 10.0)), envelopes(BOB)
    bob.open(alice.seal(PING, NOW), NOW)
    bob.open(alice.seal(PING, NOW + 10), NOW + 10)
    with pytest.raises(CertificateExpired):
        bob.open(alice.seal(PING, NOW + 11), NOW + 11)


def test_not_yet_valid_membership() -> None:
    certificate = issue_certificate(
        OWNER, SWARM.id, ALICE.public_key, not_before=NOW + 30, not_after=NOW + 60
    )
    alice, bob = envelopes(ALICE, Membership(swarm=SWARM.id, chain=(certificate,))), envelopes(BOB)
    with pytest.raises(CertificateError, match="not valid yet"):
        bob.open(alice.seal(PING, NOW), NOW)
    assert bob.open(alice.seal(PING, NOW + 30), NOW + 30).message == PING


def test_delegate_without_may_invite() -> None:
    chain = (
        issue_certificate(OWNER, SWARM.id, EVE.public_key, not_before=NOW - 1, not_after=NOW + 1),
        issue_certificate(EVE, SWARM.id, ALICE.public_key, not_before=NOW - 1, not_after=NOW + 1),
    )
    with pytest.raises(CertificateError, match="may not invite"):
        envelopes(BOB).open(envelopes(ALICE, Membership(swarm=SWARM.id, chain=chain)).seal(PING, NOW), NOW)


def test_chain_too_long() -> None:
    chain = INVITE.admit(ALICE, NOW, 600.0).chain * 2
    alice = envelopes(ALICE, Membership(swarm=SWARM.id, chain=chain))
    with pytest.raises(DecodeError, match="at most 2 certificates"):
        envelopes(BOB).open(alice.seal(PING, NOW), NOW)


def test_tampered_nested_record() -> None:
    """The sender is honest to the envelope and lies about another peer."""
    good = record_of(ALICE)
    for forged in (
        dataclasses.replace(good, incarnation=2),
        dataclasses.replace(good, endpoint=Endpoint("203.0.113.9", 1)),
        dataclasses.replace(good, signature=b""),
        dataclasses.replace(record_of(EVE), public_key=ALICE.public_key),
    ):
        message = Ping(sequence=1, gossip=Gossip(records=(record_of(OWNER), forged)))
        with pytest.raises(SignatureError):
            envelopes(BOB).open(envelopes(EVE).seal(message, NOW), NOW)


def test_tampered_nested_event_or_query() -> None:
    """Whoever passes a broadcast on can change nothing of it, nor speak in another's name."""
    common: dict[str, Any] = {
        "public_key": ALICE.public_key,
        "sequence": 5,
        "time_us": 1 << 50,
        "recent": 0,
        "kept": 0,
        "name": "deploy",
        "payload": b"v2",
    }
    event = ALICE.sign_statement(UserEvent(**common))
    query = ALICE.sign_statement(Query(**common, to=QueryFilter(name_prefix="a"), lifetime_ms=1000))
    good = Gossip(broadcasts=(event, query))
    assert envelopes(BOB).open(envelopes(EVE).seal(good, NOW), NOW).message == good
    for forged in (
        dataclasses.replace(event, sequence=6),
        dataclasses.replace(event, time_us=1),
        dataclasses.replace(event, payload=b"v3"),
        dataclasses.replace(event, public_key=EVE.public_key),
        dataclasses.replace(query, to=QueryFilter()),
        dataclasses.replace(query, lifetime_ms=600_000),
        dataclasses.replace(query, signature=b""),
    ):
        with pytest.raises(SignatureError):
            envelopes(BOB).open(envelopes(EVE).seal(Gossip(broadcasts=(event, forged)), NOW), NOW)


def test_a_record_that_comes_twice_is_checked_once() -> None:
    alice, verifier = envelopes(ALICE), Verifier()
    bob = Envelopes(BOB, SWARM, INVITE.admit(BOB, NOW, 600.0), verifier)
    for _ in range(5):
        bob.open(alice.seal(record_of(EVE), NOW), NOW)
    assert verifier.miss_count == 3, "two certificates and the record"


def test_a_body_that_is_no_message() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    for body in (b"", b"\xc1", b"\x91\x7f", encode(PING)[:-1], encode(PING) + b"\x00"):
        fields = msgpack.unpackb(alice.seal(PING, NOW))
        fields[6] = body
        unsigned = msgpack.packb(fields)[:-64]
        with pytest.raises(DecodeError):
            bob.open(unsigned + ALICE.sign(alice._prefix + unsigned), NOW)


WRONG_FIELDS: dict[int, list[Any]] = {
    0: ["x", None],
    2: [b"short", 5],
    3: [5, [1], {}],
    4: [-1, 0, 1 << 63, True],
    5: [1.5, None],
    6: ["text", None],
    7: [b"short", "t" * 64, None],
}


@pytest.mark.parametrize(
    ("index", "value"), [(index, each) for index, values in WRONG_FIELDS.items() for each in values]
)
def test_an_envelope_with_a_wrong_field(index: int, value: Any) -> None:
    fields = msgpack.unpackb(envelopes(ALICE).seal(PING, NOW))
    fields[index] = value
    with pytest.raises(RemoteProtocolError):
        envelopes(BOB).open(msgpack.packb(fields), NOW)


def test_a_datagram_above_the_size_is_refused_although_all_else_is_right() -> None:
    alice, bob = envelopes(ALICE), envelopes(BOB)
    fields = msgpack.unpackb(alice.seal(PING, NOW))
    array = msgpack.unpackb(fields[6])
    fields[6] = msgpack.packb([*array, bytes(1420 - alice.overhead_bytes)])
    unsigned = msgpack.packb(fields)[:-64]
    with pytest.raises(DecodeError, match="at most 1400 bytes"):
        bob.open(unsigned + ALICE.sign(alice._prefix + unsigned), NOW)


def test_another_version_is_named() -> None:
    fields = msgpack.unpackb(envelopes(ALICE).seal(PING, NOW))
    fields[0] = 9
    with pytest.raises(VersionMismatch, match="version 9"):
        envelopes(BOB).open(msgpack.packb(fields), NOW)


def test_garbage_is_refused_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a signature was checked")

    monkeypatch.setattr("p2pinfer.wire.envelope.verify", fail)
    rng, bob = random.Random(4), envelopes(BOB)
    datagram = envelopes(ALICE).seal(PING, NOW)
    flood = [rng.randbytes(rng.randint(0, 1500)) for _ in range(300)]
    flood += [datagram[:size] for size in range(0, len(datagram), 5)] + [datagram + b"\x00" * 1400]
    flood += [bob._heads[index % 2] + rng.randbytes(rng.randint(0, 300)) for index in range(300)]
    for data in flood:
        with pytest.raises(RemoteProtocolError):
            bob.open(data, NOW)


def test_damaged_datagrams_raise_remote_errors_alone() -> None:
    rng, bob, alice = random.Random(5), envelopes(BOB), envelopes(ALICE)
    for _ in range(500):
        datagram = alice.seal(PING, NOW)
        damaged = mutate(datagram, [datagram], rng)
        if damaged != datagram:
            with pytest.raises(RemoteProtocolError):
                bob.open(damaged, NOW)


def test_overhead_is_what_a_core_can_count_on() -> None:
    owner = envelopes(OWNER, Membership(swarm=SWARM.id))
    assert owner.overhead_bytes == len(owner.seal(PING, NOW)) - len(encode(PING)) + 1 + SEALING_SIZE_BYTES
    for one in (envelopes(ALICE), owner):
        one.use_keyring(RING)
        room = DATAGRAM_SIZE_BYTES_MAX - one.overhead_bytes
        for count in range(1, 12):
            message: Message = Gossip(records=tuple(record_of(ALICE, i) for i in range(count)))
            if len(encode(message)) > room:
                with pytest.raises(LocalProtocolError, match="does not fit a datagram"):
                    one.seal(message, NOW)
                break
            sealed = one.seal(message, NOW)
            assert (
                len(encode(message))
                < len(sealed)
                <= min(len(encode(message)) + one.overhead_bytes, DATAGRAM_SIZE_BYTES_MAX)
            )
        else:
            pytest.fail("nothing was too large")
    assert owner.overhead_bytes == len(owner.seal(PING, NOW)) - len(encode(PING)) + 1


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="another swarm"):
        envelopes(ALICE, Membership(swarm=SwarmId(EVE.public_key)))
    with pytest.raises(ConfigError, match="window_s"):
        envelopes(ALICE, window_s=0.0)
