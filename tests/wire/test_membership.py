"""Certificates, memberships and invites: who is let in, who is not, and what a bad invite is told."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import re
from typing import Any

import msgpack
import pytest

from p2pinfer.errors import (
    CertificateError,
    CertificateExpired,
    ConfigError,
    DecodeError,
    LocalProtocolError,
    UnfitId,
    WrongSwarm,
)
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Endpoint, SwarmId
from p2pinfer.membership import (
    Invite,
    SwarmAddress,
    SwarmPolicy,
    check_membership,
    issue_certificate,
    load_membership,
)
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.membership import Certificate, Membership

NOW = 1_700_000_000.0
DAY_S = 86_400.0
OWNER, DELEGATE, ALICE, EVE = (Identity.from_seed(bytes((i,)) * 32) for i in range(4))
SWARM = SwarmPolicy(SwarmId(OWNER.public_key))
HOME = (Endpoint("192.0.2.1", 7946), Endpoint("::1", 7947))


def certify(issuer: Identity, subject: Identity, *, may_invite: bool = False, **changes: Any) -> Certificate:
    times = {"not_before": NOW - DAY_S, "not_after": NOW + DAY_S} | changes
    swarm = times.pop("swarm", SWARM.id)
    return issue_certificate(issuer, swarm, subject.public_key, may_invite=may_invite, **times)


def check(*chain: Certificate, of: Identity = ALICE, swarm: SwarmPolicy = SWARM, now: float = NOW) -> None:
    check_membership(swarm, of.public_key, Membership(swarm=SWARM.id, chain=chain), now, Verifier())


def test_the_owner_and_whom_it_admitted_are_members() -> None:
    check(of=OWNER)
    check(certify(OWNER, ALICE))
    check(certify(OWNER, DELEGATE, may_invite=True), certify(DELEGATE, ALICE))


def test_an_open_swarm_takes_everybody_and_a_closed_one_nobody_without_certificate() -> None:
    check(of=EVE, swarm=SwarmPolicy(SWARM.id, is_open=True))
    with pytest.raises(CertificateError, match="needs an invite"):
        check(of=EVE)


def test_a_certificate_of_another_key_is_refused() -> None:
    with pytest.raises(CertificateError, match="another key"):
        check(certify(OWNER, ALICE), of=EVE)


def test_a_certificate_that_the_owner_did_not_sign_is_refused() -> None:
    with pytest.raises(CertificateError, match="not signed by its issuer"):
        check(certify(EVE, ALICE))
    with pytest.raises(CertificateError, match="not signed by its issuer"):
        check(certify(EVE, DELEGATE, may_invite=True), certify(DELEGATE, ALICE))
    with pytest.raises(CertificateError, match="not signed by its issuer"):
        check(certify(OWNER, DELEGATE, may_invite=True), certify(EVE, ALICE))


@pytest.mark.parametrize(
    "change", [{"may_invite": True}, {"not_after_ms": 1 << 62}, {"signature": bytes(64)}, {"signature": b""}]
)
def test_a_changed_certificate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CertificateError, match="not signed by its issuer"):
        check(dataclasses.replace(certify(OWNER, ALICE), **change))


def test_a_certificate_for_another_swarm_of_the_same_issuer_is_refused() -> None:
    other = SwarmId(EVE.public_key)
    with pytest.raises(CertificateError, match="for this swarm"):
        check(certify(OWNER, ALICE, swarm=other))
    with pytest.raises(WrongSwarm):
        check_membership(SWARM, ALICE.public_key, Membership(swarm=other), NOW, Verifier())


def test_a_delegate_that_may_not_invite_admits_nobody() -> None:
    with pytest.raises(CertificateError, match="may not invite"):
        check(certify(OWNER, DELEGATE), certify(DELEGATE, ALICE))


def test_a_chain_of_three_is_refused_here_and_on_the_wire() -> None:
    chain = (
        certify(OWNER, DELEGATE, may_invite=True),
        certify(DELEGATE, EVE, may_invite=True),
        certify(EVE, ALICE),
    )
    with pytest.raises(CertificateError, match="at most 2"):
        check(*chain)
    with pytest.raises(LocalProtocolError, match="at most 2 items"):
        encode(Membership(swarm=SWARM.id, chain=chain))
    array = msgpack.unpackb(encode(Membership(swarm=SWARM.id, chain=chain[:1])))
    array[2] *= 3
    with pytest.raises(DecodeError, match="at most 2 items"):
        decode(msgpack.packb(array))


def test_a_certificate_is_valid_from_its_first_to_its_last_millisecond() -> None:
    first, last = NOW - DAY_S, NOW + DAY_S
    for now in (first, last):
        check(certify(OWNER, ALICE), now=now)
    with pytest.raises(CertificateExpired):
        check(certify(OWNER, ALICE), now=last + 0.001)
    with pytest.raises(CertificateError, match="not valid yet") as caught:
        check(certify(OWNER, ALICE), now=first - 0.001)
    assert not isinstance(caught.value, CertificateExpired)


def test_a_membership_ends_with_its_delegate() -> None:
    chain = (certify(OWNER, DELEGATE, may_invite=True, not_after=NOW + 1), certify(DELEGATE, ALICE))
    check(*chain)
    with pytest.raises(CertificateExpired):
        check(*chain, now=NOW + 2)


def test_an_invite_is_one_string_that_admits_its_holder() -> None:
    invite = Invite.create(OWNER, HOME, DAY_S, NOW)
    text = str(invite)
    assert text.startswith("p2pinfer:")
    assert text.isprintable()
    read = Invite.parse(f"  {text}\n")
    assert read == invite
    assert (read.addresses, read.swarm) == (HOME, SWARM)
    membership = read.admit(ALICE, NOW, valid_s=30 * DAY_S)
    for now in (NOW - 100, NOW, NOW + DAY_S):
        check_membership(SWARM, ALICE.public_key, membership, now, Verifier())
    with pytest.raises(CertificateExpired):
        check_membership(SWARM, ALICE.public_key, membership, NOW + DAY_S + 1, Verifier())
    assert load_membership(encode(membership)) == membership
    assert invite.delegate_seed.hex() not in repr(invite)


def test_an_invite_that_ran_out_admits_nobody() -> None:
    invite = Invite.create(OWNER, HOME, 10.0, NOW)
    with pytest.raises(ConfigError, match="run out"):
        invite.admit(ALICE, NOW + 11, DAY_S)


def test_who_was_invited_cannot_invite() -> None:
    invite = Invite.create(OWNER, HOME, DAY_S, NOW)
    membership = invite.admit(ALICE, NOW, DAY_S)
    with pytest.raises(CertificateError, match="at most 2"):
        check(*membership.chain, certify(ALICE, EVE), of=EVE)
    with pytest.raises(CertificateError, match="may not invite"):
        check(membership.chain[1], certify(ALICE, EVE), of=EVE)


def test_an_invite_to_an_open_swarm_carries_no_secret() -> None:
    invite = Invite.parse(str(Invite.create(OWNER, HOME, DAY_S, NOW, is_open=True)))
    assert invite.swarm.is_open
    assert invite.delegate_seed == b""
    membership = invite.admit(EVE, NOW, DAY_S)
    check_membership(invite.swarm, EVE.public_key, membership, NOW, Verifier())


def test_two_invites_have_different_keys() -> None:
    one, other = (Invite.create(OWNER, HOME, DAY_S, NOW) for _ in range(2))
    assert one.delegate_seed != other.delegate_seed


@pytest.mark.parametrize("count", [0, 9])
def test_an_invite_needs_one_to_eight_addresses(count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 8 addresses"):
        Invite.create(OWNER, HOME[:1] * count, DAY_S, NOW)


@pytest.mark.parametrize("valid_s", [0.0, -1.0, float("nan")])
def test_an_invite_needs_a_time_of_validity(valid_s: float) -> None:
    with pytest.raises(ConfigError, match="valid_s"):
        Invite.create(OWNER, HOME, valid_s, NOW)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with p2pinfer:"),
        ("https://example.org", "begins with p2pinfer:"),
        ("p2pinfer:", "wrong checksum"),
        ("p2pinfer:AAAAAAAA", "wrong checksum"),
        ("p2pinfer:A", "damaged"),
        ("p2pinfer:äöü", "damaged"),
        ("p2pinfer:" + "A" * 5000, "more than 4096"),
        ("p2pinfer://" + "ab" * 32, "a swarm's address, which gives no right to join"),
    ],
)
def test_what_is_no_invite_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Invite.parse(text)


def test_a_truncated_or_mistyped_invite_is_refused() -> None:
    text, rng = str(Invite.create(OWNER, HOME, DAY_S, NOW)), random.Random(3)
    for size in range(len(text)):
        with pytest.raises(ConfigError) as caught:
            Invite.parse(text[:size])
        assert "\n" not in str(caught.value)
    for place in rng.sample(range(9, len(text) - 1), 40):
        other = "A" if text[place] != "A" else "B"
        with pytest.raises(ConfigError):
            Invite.parse(text[:place] + other + text[place + 1 :])


def repack(**changes: Any) -> str:
    """An invite with a right checksum and wrong contents."""
    body = base64.urlsafe_b64decode(str(Invite.create(OWNER, HOME, DAY_S, NOW))[9:] + "==")[:-4]
    names = ("version", "swarm", "is_open", "addresses", "seed", "certificate")
    fields = dict(zip(names, msgpack.unpackb(body), strict=True)) | changes
    changed = msgpack.packb(list(fields.values()))
    checksum = hashlib.sha256(b"p2pinfer invite\x00" + changed).digest()[:4]
    return "p2pinfer:" + base64.urlsafe_b64encode(changed + checksum).decode().rstrip("=")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 3}, "version 3"),
        ({"version": 2}, "not in order"),
        ({"version": 2, "difficulty": "8"}, "not in order"),
        ({"version": 2, "difficulty": 25}, "0 to 24 bits"),
        ({"version": 2, "difficulty": 8, "more": 1}, "not in order"),
        ({"version": [1]}, "version"),
        ({"swarm": b"short"}, "not in order"),
        ({"swarm": None}, "not in order"),
        ({"addresses": []}, "1 to 8 addresses"),
        ({"addresses": [["h", 1]] * 9}, "1 to 8 addresses"),
        ({"addresses": [["h"]]}, "not in order"),
        ({"addresses": [["h", 70000]]}, "not in order"),
        ({"addresses": [["", 1]]}, "not in order"),
        ({"addresses": [[None, None]]}, "not in order"),
        ({"addresses": 5}, "not in order"),
        ({"seed": b""}, "no right to join"),
        ({"seed": "text" * 8}, "no right to join"),
        ({"seed": bytes(32)}, "do not belong together"),
        ({"certificate": b""}, "no right to join"),
        ({"certificate": b"\x91\x74"}, "no right to join"),
        ({"certificate": b"nonsense"}, "not in order"),
        ({"certificate": "text"}, "not in order"),
        ({"more": 1}, "not in order"),
    ],
)
def test_an_invite_with_wrong_contents_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Invite.parse(repack(**change))


def test_an_invite_of_before_means_no_difficulty_and_one_without_is_as_before() -> None:
    plain = str(Invite.create(OWNER, HOME, DAY_S, NOW))
    assert Invite.parse(plain).swarm.difficulty == 0
    fields = msgpack.unpackb(base64.urlsafe_b64decode(plain[9:] + "==")[:-4])
    assert (fields[0], len(fields)) == (1, 6), "older programs read it"


def test_the_difficulty_of_ids_travels_in_the_invite() -> None:
    for is_open in (False, True):
        invite = Invite.create(OWNER, HOME, DAY_S, NOW, is_open=is_open, difficulty=9)
        assert Invite.parse(str(invite)) == invite
        assert invite.swarm == SwarmPolicy(SWARM.id, is_open, 9)
    with pytest.raises(ConfigError, match="0 to 24 bits"):
        SwarmPolicy(SWARM.id, difficulty=25)


def test_an_id_without_its_work_is_refused_by_name_whoever_it_is() -> None:
    """S/Kademlia, section 4.1: in open swarms above all, where a key is all that it takes."""
    fit = Identity.generate(8)
    for is_open in (False, True):
        swarm = SwarmPolicy(SWARM.id, is_open, 8)
        check(certify(OWNER, fit), of=fit, swarm=swarm)
        with pytest.raises(UnfitId, match=rf"peer {ALICE.peer_id.short} lacks the work .* \(8 bits\): join"):
            check(certify(OWNER, ALICE), of=ALICE, swarm=swarm)
    with pytest.raises(UnfitId):
        check(of=OWNER, swarm=SwarmPolicy(SWARM.id, difficulty=24))


def test_a_damaged_membership_file_is_refused_by_name() -> None:
    for data in (b"", b"garbage", encode(certify(OWNER, ALICE))):
        with pytest.raises(ConfigError, match="join again"):
            load_membership(data)


@pytest.mark.parametrize(
    ("text", "digits", "places"),
    [
        ("p2pinfer://ABCDEF01", "abcdef01", ()),
        ("  p2pinfer://abcdef01/\n", "abcdef01", ()),
        (f"p2pinfer://{SWARM.id}", str(SWARM.id), ()),
        ("p2pinfer://abcdef01@10.0.0.1:7946", "abcdef01", (Endpoint("10.0.0.1", 7946),)),
        (
            "p2pinfer://abcdef01@[::1]:1,peers.example.org:2",
            "abcdef01",
            (Endpoint("::1", 1), Endpoint("peers.example.org", 2)),
        ),
    ],
)
def test_a_swarms_address_names_it_and_places(text: str, digits: str, places: tuple[Endpoint, ...]) -> None:
    address = SwarmAddress.parse(text)
    assert (address.digits, address.places) == (digits, places)
    assert SwarmAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("p2pinfer:abcdef01", "begins with p2pinfer://"),
        ("p2pinfer://", "'' is no swarm's id: write 8 to 64"),
        ("p2pinfer://abcdef0", "is no swarm's id"),
        ("p2pinfer://my-swarm-1", "is no swarm's id"),
        ("p2pinfer://" + "a" * 65, "is no swarm's id"),
        ("p2pinfer://abcdef01@", "is not host:port"),
        ("p2pinfer://abcdef01@nowhere", "is not host:port"),
        ("p2pinfer://abcdef01@" + ",".join(["10.0.0.1:1"] * 9), "at most 8 places, not 9"),
        ("p2pinfer://" + "a" * 5000, "begins with"),
    ],
)
def test_what_is_no_swarms_address_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        SwarmAddress.parse(text)


def test_another_swarms_address_is_refused() -> None:
    SwarmAddress.parse(f"p2pinfer://{str(SWARM.id)[:8]}").check(SWARM.id)
    with pytest.raises(ConfigError, match="name another directory with --data-dir"):
        SwarmAddress.parse("p2pinfer://00000000").check(SWARM.id)
