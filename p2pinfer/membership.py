"""Who belongs to a swarm: its owner's key, the certificates that follow from it, and invites.

A swarm's id is its owner's Ed25519 public key, so the chain owner -> delegate -> peer can be checked with no
other fact than the id. Rules:

1. A certificate is valid for one swarm and one issuer: both are part of the signed bytes.
2. Only a key with `may_invite` admits others, and a chain has two certificates at most: who was invited by a
   delegate cannot invite.
3. An invite carries the secret of a delegate key. Whoever holds it may join until it runs out; a membership
   never outlives the invite that it came from.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from p2pinfer.errors import (
    CertificateError,
    CertificateExpired,
    ConfigError,
    DecodeError,
    SignatureError,
    UnfitId,
    WrongSwarm,
)
from p2pinfer.identity import PUBLIC_KEY_SIZE_BYTES, SEED_SIZE_BYTES, Identity, Verifier
from p2pinfer.ids import Endpoint, PeerId, SwarmId
from p2pinfer.puzzle import DIFFICULTY_MAX, fits
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.membership import CHAIN_COUNT_MAX, Certificate, Membership

__all__ = [
    "ADDRESSES_COUNT_MAX",
    "ADDRESS_PREFIX",
    "INVITE_PREFIX",
    "Invite",
    "SwarmAddress",
    "SwarmPolicy",
    "check_id",
    "check_membership",
    "issue_certificate",
    "load_membership",
]

ADDRESSES_COUNT_MAX = 8
"""Addresses in an invite: enough that some peer answers, and the text still fits a chat message."""
BACKDATE_S = 300.0
"""How far a new certificate reaches back, so that peers with clocks behind ours take it at once."""
INVITE_PREFIX = "p2pinfer:"
INVITE_TEXT_SIZE_MAX = 4096
ADDRESS_PREFIX = "p2pinfer://"
ADDRESS_TEXT_SIZE_MAX = 4096
SWARM_DIGITS_MIN = 8
"""Of a swarm's id, in hexadecimal: who is a member already only has to tell it from its other swarms."""
_INVITE_VERSION = 1
_INVITE_VERSION_PUZZLE = 2
"""With the difficulty of the swarm's ids: where that is 0, as it was for all before, version 1 says it."""
_CHECKSUM_SIZE_BYTES = 4
_CERTIFICATE_PREFIX = b"p2pinfer certificate v1\x00"


@dataclass(frozen=True, slots=True)
class SwarmPolicy:
    """Which swarm, and whether anybody may take part in it.

    In an open swarm every key is a member, so one person can be a thousand peers: trust no majority there.

    Attributes:
        difficulty: The work that the id of a peer has in it, in bits (`puzzle.py`); set when it is founded.
    """

    id: SwarmId
    is_open: bool = False
    difficulty: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= DIFFICULTY_MAX:
            raise ConfigError(f"id_difficulty is 0 to {DIFFICULTY_MAX} bits, not {self.difficulty}")


def issue_certificate(
    issuer: Identity,
    swarm: SwarmId,
    subject: bytes,
    *,
    not_before: float,
    not_after: float,
    may_invite: bool = False,
) -> Certificate:
    """Certify a public key for a swarm. Times are seconds since the Unix epoch."""
    bare = Certificate(
        subject=subject,
        not_before_ms=int(not_before * 1000),
        not_after_ms=int(not_after * 1000),
        may_invite=may_invite,
    )
    signature = issuer.sign(_certificate_bytes(bare, swarm, issuer.public_key))
    return dataclasses.replace(bare, signature=signature)


def _certificate_bytes(certificate: Certificate, swarm: SwarmId, issuer: bytes) -> bytes:
    bare = dataclasses.replace(certificate, signature=b"")
    return b"".join((_CERTIFICATE_PREFIX, swarm, issuer, encode(bare)))


def check_id(swarm: SwarmPolicy, peer: PeerId) -> None:
    """Check that an id has the work in it that the swarm asks for.

    Raises:
        UnfitId: It has not.
    """
    if not fits(peer, swarm.difficulty):
        raise UnfitId(
            f"the id of peer {peer.short} lacks the work that this swarm asks for ({swarm.difficulty} bits): "
            "join with an invite of today and an empty --data-dir, so that a key is made that fits"
        )


def check_membership(
    swarm: SwarmPolicy, public_key: bytes, membership: Membership, now: float, verifier: Verifier
) -> None:
    """Check that the swarm's owner admitted a key, through a delegate at most.

    Raises:
        WrongSwarm: The membership is for another swarm.
        UnfitId: The key's id lacks the work that the swarm asks for.
        CertificateExpired: It has run out.
        CertificateError: It is missing, not valid yet, of another key, or was not issued by who may.
    """
    if membership.swarm != swarm.id:
        raise WrongSwarm(f"a membership of swarm {membership.swarm.short}, not {swarm.id.short}")
    check_id(swarm, PeerId.from_public_key(public_key))
    if swarm.is_open or public_key == swarm.id:
        return
    chain = membership.chain
    if not chain:
        raise CertificateError("the swarm is closed and the peer shows no certificate: it needs an invite")
    if len(chain) > CHAIN_COUNT_MAX:
        raise CertificateError(f"a chain has at most {CHAIN_COUNT_MAX} certificates, not {len(chain)}")
    if chain[-1].subject != public_key:
        raise CertificateError("the certificate belongs to another key")
    issuer: bytes = swarm.id
    now_ms = int(now * 1000)
    for index, certificate in enumerate(chain):
        if now_ms < certificate.not_before_ms:
            raise CertificateError("a certificate is not valid yet: check the clocks of both peers")
        if now_ms > certificate.not_after_ms:
            raise CertificateExpired("a certificate has run out: the peer needs a new invite")
        if index < len(chain) - 1 and not certificate.may_invite:
            raise CertificateError("a certificate was issued by a peer that may not invite")
        try:
            verifier.verify(issuer, _certificate_bytes(certificate, swarm.id, issuer), certificate.signature)
        except SignatureError:
            raise CertificateError("a certificate was not signed by its issuer for this swarm") from None
        issuer = certificate.subject


def load_membership(data: bytes) -> Membership:
    """Read the bytes that `encode` made of a membership, from a file.

    Raises:
        ConfigError: They are damaged.
    """
    try:
        membership = decode(data)
    except DecodeError as error:
        raise ConfigError(f"the membership is damaged: join again with an invite ({error})") from error
    if not isinstance(membership, Membership):
        raise ConfigError("the file holds no membership: join again with an invite")
    return membership


@dataclass(frozen=True, slots=True)
class SwarmAddress:
    """Where a swarm is: `p2pinfer://SWARM` or `p2pinfer://SWARM@HOST:PORT,HOST:PORT`. It is no secret.

    It gives no right to join: who comes by it shows a membership, or brings an invite as well. Members have
    the swarm's id, of which the first eight digits are enough, and places where one of them may listen; from
    whoever answers the others are learnt.

    Attributes:
        digits: The first hexadecimal digits of the swarm's id, 8 to 64.
        places: Where to ask; none means wherever members are remembered.
    """

    digits: str
    places: tuple[Endpoint, ...] = ()

    def __str__(self) -> str:
        places = "@" + ",".join(map(str, self.places)) if self.places else ""
        return f"{ADDRESS_PREFIX}{self.digits}{places}"

    @classmethod
    def parse(cls, text: str) -> SwarmAddress:
        """Read a swarm's address.

        Raises:
            ConfigError: It is none; the message says what is wrong.
        """
        text = text.strip()
        if not text.startswith(ADDRESS_PREFIX) or len(text) > ADDRESS_TEXT_SIZE_MAX:
            raise ConfigError(f"not a swarm's address: it begins with {ADDRESS_PREFIX}")
        digits, separator, listed = text.removeprefix(ADDRESS_PREFIX).rstrip("/").partition("@")
        digits = digits.lower()
        is_id = SWARM_DIGITS_MIN <= len(digits) <= 2 * PUBLIC_KEY_SIZE_BYTES
        if not is_id or any(digit not in "0123456789abcdef" for digit in digits):
            raise ConfigError(
                f"{digits[:80]!r} is no swarm's id: write {SWARM_DIGITS_MIN} to {2 * PUBLIC_KEY_SIZE_BYTES} "
                "of its hexadecimal digits, as `p2pinfer status --json` shows them"
            )
        try:
            places = tuple(Endpoint.parse(place) for place in listed.split(",")) if separator else ()
        except ValueError as error:
            raise ConfigError(f"the swarm's address: {error}") from error
        if len(places) > ADDRESSES_COUNT_MAX:
            raise ConfigError(
                f"a swarm's address has at most {ADDRESSES_COUNT_MAX} places, not {len(places)}"
            )
        return cls(digits, places)

    def check(self, swarm: SwarmId) -> None:
        """Refuse another swarm's address.

        Raises:
            ConfigError: It does not name that swarm.
        """
        if not str(swarm).startswith(self.digits):
            raise ConfigError(
                f"the address is that of swarm {self.digits[:SWARM_DIGITS_MIN]}, the membership here of "
                f"swarm {swarm.short}: name another directory with --data-dir"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """One string that carries addresses, the swarm's id and the right to join. It is a secret.

    Attributes:
        delegate_seed: The delegate's key; empty for an open swarm, where nothing is needed to join.
        delegate: The owner's certificate for it; None for an open swarm.
    """

    swarm: SwarmPolicy
    addresses: tuple[Endpoint, ...]
    delegate_seed: bytes = dataclasses.field(default=b"", repr=False)
    delegate: Certificate | None = None

    @classmethod
    def create(
        cls,
        owner: Identity,
        addresses: Sequence[Endpoint],
        valid_s: float,
        now: float,
        *,
        is_open: bool = False,
        difficulty: int = 0,
    ) -> Invite:
        """Make an invite to the swarm that this identity owns.

        Raises:
            ConfigError: No addresses, too many, or no time of validity.
        """
        _check_addresses(addresses)
        if not valid_s > 0:
            raise ConfigError(f"valid_s is how long an invite is good for, above 0, not {valid_s}")
        swarm = SwarmPolicy(SwarmId(owner.public_key), is_open, difficulty)
        if is_open:
            return cls(swarm=swarm, addresses=tuple(addresses))
        delegate, seed = _new_delegate()
        certificate = issue_certificate(
            owner,
            swarm.id,
            delegate.public_key,
            not_before=now - BACKDATE_S,
            not_after=now + valid_s,
            may_invite=True,
        )
        return cls(swarm=swarm, addresses=tuple(addresses), delegate_seed=seed, delegate=certificate)

    def admit(self, identity: Identity, now: float, valid_s: float) -> Membership:
        """Certify a key with the invite: how its holder joins the swarm.

        Raises:
            ConfigError: The invite has run out.
        """
        if self.delegate is None or identity.public_key == self.swarm.id:
            return Membership(swarm=self.swarm.id)
        not_after = min(now + valid_s, self.delegate.not_after_ms / 1000)
        if not_after <= now:
            raise ConfigError("the invite has run out: ask the swarm's owner for a new one")
        certificate = issue_certificate(
            Identity.from_seed(self.delegate_seed),
            self.swarm.id,
            identity.public_key,
            not_before=now - BACKDATE_S,
            not_after=not_after,
        )
        return Membership(swarm=self.swarm.id, chain=(self.delegate, certificate))

    def __str__(self) -> str:
        difficulty = self.swarm.difficulty
        body: bytes = msgpack.packb(
            [
                _INVITE_VERSION_PUZZLE if difficulty else _INVITE_VERSION,
                self.swarm.id,
                self.swarm.is_open,
                [[address.host, address.port] for address in self.addresses],
                self.delegate_seed,
                encode(self.delegate) if self.delegate else b"",
                *([difficulty] if difficulty else []),
            ]
        )
        text = base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=")
        return INVITE_PREFIX + text.decode("ascii")

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite.

        Raises:
            ConfigError: It is no invite, or was damaged on its way; the message says which.
        """
        return _read_invite(_invite_body(text.strip()))


def _check_addresses(addresses: Sequence[Endpoint]) -> None:
    if not 1 <= len(addresses) <= ADDRESSES_COUNT_MAX:
        raise ConfigError(f"an invite has 1 to {ADDRESSES_COUNT_MAX} addresses, not {len(addresses)}")


def _new_delegate() -> tuple[Identity, bytes]:
    seed = secrets.token_bytes(SEED_SIZE_BYTES)
    return Identity.from_seed(seed), seed


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"p2pinfer invite\x00" + body).digest()[:_CHECKSUM_SIZE_BYTES]


def _invite_body(text: str) -> bytes:
    if not text.startswith(INVITE_PREFIX):
        raise ConfigError(f"not an invite: it begins with {INVITE_PREFIX}")
    if text.startswith(ADDRESS_PREFIX):
        raise ConfigError("that is a swarm's address, which gives no right to join: an invite does")
    if len(text) > INVITE_TEXT_SIZE_MAX:
        raise ConfigError(f"not an invite: more than {INVITE_TEXT_SIZE_MAX} characters")
    encoded = text[len(INVITE_PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("the invite is damaged: copy the whole of it again, on one line") from None
    body, checksum = data[:-_CHECKSUM_SIZE_BYTES], data[-_CHECKSUM_SIZE_BYTES:]
    if _checksum(body) != checksum:
        raise ConfigError(
            "the invite is truncated or was changed (wrong checksum): copy the whole of it again"
        )
    return body


def _read_invite(body: bytes) -> Invite:
    try:
        fields: Any = msgpack.unpackb(body, use_list=False, max_array_len=16, max_map_len=0, max_ext_len=0)
        version = fields[0]
        if version not in (_INVITE_VERSION, _INVITE_VERSION_PUZZLE):
            raise ConfigError(
                f"the invite has version {version}, this program knows 1 and 2: update p2pinfer"
            )
        _, swarm_id, is_open, places, seed, certificate, *rest = fields
        (difficulty,) = rest if version == _INVITE_VERSION_PUZZLE else (0, *rest)
        if type(difficulty) is not int:
            raise TypeError("the difficulty of ids is no whole number")
        swarm = SwarmPolicy(SwarmId(swarm_id), is_open is True, difficulty)
        addresses = tuple(Endpoint.parse(str(Endpoint(host, port))) for host, port in places)
        delegate = decode(certificate) if certificate else None
    except ConfigError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, DecodeError) as error:
        raise ConfigError(f"the invite's contents are not in order: ask for a new one ({error})") from error
    _check_addresses(addresses)
    if swarm.is_open:
        return Invite(swarm=swarm, addresses=addresses)
    if not isinstance(delegate, Certificate) or type(seed) is not bytes or len(seed) != SEED_SIZE_BYTES:
        raise ConfigError("the invite carries no right to join: ask the swarm's owner for a new one")
    if Identity.from_seed(seed).public_key != delegate.subject or len(swarm.id) != PUBLIC_KEY_SIZE_BYTES:
        raise ConfigError("the invite's key and certificate do not belong together: ask for a new one")
    return Invite(swarm=swarm, addresses=addresses, delegate_seed=seed, delegate=delegate)
