"""The envelope of a datagram: who says what in which swarm, when, and proof of it. Pure: time is handed in.

    [version, swarm hint, public key, [certificate, ...], sequence, time_ms, body, proof]

The proof is a signature (versions 1 and 2) or, to a peer that was heard before, a tag made with the key that
only these two share (versions 3 and 4): the receiver learns as much of it, a hundred times as fast, but can
prove it to nobody else. In versions 1 and 3 the body is a message; in 2 and 4 it is sealed with a key of the
swarm's keyring:

    key id (4 bytes), XChaCha20-Poly1305 of the message (16 bytes more than it has)

Everything before the body is bound to it as associated data, and its hash is the nonce. Sender, sequence
and time never come twice together: sequences begin with the microseconds of the start, so a peer whose clock
was set back would have to send a million datagrams a second to meet its earlier self.

The signature is the last 64 bytes. It covers a prefix, the whole id of the swarm, of which the hint is the
first eight bytes, and all bytes of the datagram before it. Rules:

1. What costs little is checked first: size, version and swarm by comparing bytes, then the time, the replay
   window, the id's work, and only then a signature. Garbage is refused without cryptography.
2. Nothing of this peer's state changes until the signature and the membership were good and the seal opened.
3. What `open` returns is authenticated: the sender is a member, and every signed structure inside the
   message was signed by its owner. The owner of such a structure need not be the sender, nor a member.
4. The seal is opened last: a member that missed a rotation is told apart from whoever is no member at all.
   Once a peer has a keyring, it takes no version 1 or 3.
5. Whoever steals a peer's key can speak to that peer alone as anybody, by tags, and to others as that peer.
   Therefore what is passed on, or believed of others, is signed in itself (rule 3).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgpack

from p2pinfer.effects import Message
from p2pinfer.errors import (
    ConfigError,
    DecodeError,
    LocalProtocolError,
    ReplayError,
    SealError,
    SignatureError,
    UnknownKey,
    Unsealed,
    VersionMismatch,
    WrongSwarm,
)
from p2pinfer.identity import (
    NONCE_SIZE_BYTES,
    PUBLIC_KEY_SIZE_BYTES,
    SEAL_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
    Identity,
    Verifier,
    seal,
    unseal,
    verify,
)
from p2pinfer.ids import PeerId
from p2pinfer.membership import SwarmPolicy, check_id, check_membership
from p2pinfer.wire.codec import decode_signed, encode
from p2pinfer.wire.messages.keyring import KEY_ID_SIZE_BYTES, Keyring
from p2pinfer.wire.messages.membership import CHAIN_COUNT_MAX, Certificate, Membership
from p2pinfer.wire.pair_keys import PairKeys
from p2pinfer.wire.replay import ReplayWindow

__all__ = ["ANNOUNCEMENT", "DATAGRAM", "DATAGRAM_SIZE_BYTES_MAX", "Envelopes", "Opened"]

DATAGRAM_SIZE_BYTES_MAX = 1400
"""Fits an Ethernet frame through a tunnel or two without being cut up by IP."""
TIME_WINDOW_S = 60.0
"""How far a sender's clock may differ from ours, transit included."""
MEMBERS_CACHE_COUNT_MAX = 4096
"""Memberships found good and kept until their first certificate runs out."""
_VERSIONS = (1, 2, 3, 4)
_SEALED = (2, 4)
_TAGGED = (3, 4)
DATAGRAM = b"p2pinfer datagram v1\x00"
ANNOUNCEMENT = b"p2pinfer announcement v1\x00"
"""The prefixes: what is signed as the one can never be passed off as the other."""
_HINT_SIZE_BYTES = 8
_HEAD_SIZE_BYTES = 4
_TAG_SIZE_BYTES = 16
_SIGNATURE_HEAD = bytes((0xC4, SIGNATURE_SIZE_BYTES))
_TAG_HEAD = bytes((0xC4, _TAG_SIZE_BYTES))
_FIXED_SIZE_BYTES = 1 + 1 + 10 + 34 + 1 + 9 + 9 + 3 + 66
"""Array, version, hint, key, chain, sequence, time, the body's length, signature."""
_NUMBERS = struct.Struct(">BqBq")
"""Sequence and time as msgpack has whole numbers of 64 bits (0xD3)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A datagram that passed every check."""

    sender: PeerId
    public_key: bytes
    message: Message


class Envelopes:
    """Seals this peer's datagrams and opens those of others.

    Invariant: `_primary` is the id of one of `_keys`, or empty like them.
    """

    __slots__ = (
        "_heads",
        "_identity",
        "_keys",
        "_members",
        "_pairs",
        "_prefix",
        "_primary",
        "_replay",
        "_sequence",
        "_starts",
        "_swarm",
        "_verifier",
        "_window_ms",
    )

    def __init__(
        self,
        identity: Identity,
        swarm: SwarmPolicy,
        membership: Membership,
        verifier: Verifier,
        *,
        window_s: float = TIME_WINDOW_S,
        prefix: bytes = DATAGRAM,
    ) -> None:
        if membership.swarm != swarm.id:
            raise ConfigError("the membership is for another swarm: join this one with an invite")
        if not window_s > 0:
            raise ConfigError(f"window_s is above 0, not {window_s}")
        self._identity = identity
        self._swarm = swarm
        self._verifier = verifier
        self._window_ms = int(window_s * 1000)
        hint = bytes((0xC4, _HINT_SIZE_BYTES)) + swarm.id[:_HINT_SIZE_BYTES]
        self._heads = tuple(bytes((0x98, version)) + hint for version in _VERSIONS)
        self._prefix = prefix + swarm.id
        certificates = tuple(encode(certificate) for certificate in membership.chain)
        own: bytes = msgpack.packb(identity.public_key) + msgpack.packb(certificates)
        self._starts = tuple(head + own for head in self._heads)
        self._pairs = PairKeys(identity)
        self._replay = ReplayWindow()
        self._members: OrderedDict[tuple[bytes, tuple[bytes, ...]], tuple[int, int]] = OrderedDict()
        self._sequence = 0
        self._keys: dict[bytes, bytes] = {}
        self._primary = b""

    def use_keyring(self, keyring: Keyring) -> None:
        """Seal with the keyring's primary key from now on, and open with any of its keys."""
        self._keys = dict(zip(keyring.key_ids, keyring.keys, strict=True))
        self._primary = keyring.notice.primary

    @property
    def overhead_bytes(self) -> int:
        """What an envelope adds to a message at most: a core packs up to 1400 bytes less this."""
        own = len(self._starts[0]) - len(self._heads[0]) - (2 + PUBLIC_KEY_SIZE_BYTES) - 1
        return _FIXED_SIZE_BYTES + own + KEY_ID_SIZE_BYTES + SEAL_SIZE_BYTES

    def seal(self, message: Message, now: float, to: PeerId | None = None) -> bytes:
        """Return the datagram that carries a message; one for `to` alone where that is given.

        Raises:
            LocalProtocolError: It would have more than 1400 bytes.
        """
        # Microseconds of the first use: a restarted peer goes on above what it used before.
        self._sequence = self._sequence + 1 if self._sequence else max(1, int(now * 1e6))
        body = encode(message)
        message_size = len(body)
        pair_key = self._pairs.key_to(to)
        numbers = _NUMBERS.pack(0xD3, self._sequence, 0xD3, int(now * 1000))
        header = self._starts[bool(self._primary) + 2 * (pair_key is not None)] + numbers
        if self._primary:
            key = self._keys[self._primary]
            body = self._primary + seal(key, _nonce(header), body, self._prefix + header)
        size = len(body)
        if len(header) + 3 + size + 2 + SIGNATURE_SIZE_BYTES > DATAGRAM_SIZE_BYTES_MAX:
            raise LocalProtocolError(
                f"a {type(message).__name__} of {message_size} bytes does not fit a datagram: "
                "pack fewer parts"
            )
        length = bytes((0xC4, size)) if size < 256 else b"\xc5" + size.to_bytes(2, "big")
        if pair_key is not None:
            bare = b"".join((header, length, body, _TAG_HEAD))
            return bare + self._tag(pair_key, bare)
        bare = b"".join((header, length, body, _SIGNATURE_HEAD))
        return bare + self._identity.sign(self._prefix + bare)

    def open(self, data: bytes, now: float) -> Opened:
        """Check a datagram and return what it carries.

        Raises:
            SealError: A kind of it: a member sealed it in another way than we can open.
            RemoteProtocolError: One of its other kinds, by what is wrong.
        """
        if not data.startswith(self._heads) or len(data) > DATAGRAM_SIZE_BYTES_MAX:
            raise self._explain(data)
        public_key, certificates, sequence, time_ms, body, proof = _read(data)
        now_ms = int(now * 1000)
        if not -self._window_ms <= time_ms - now_ms <= self._window_ms:
            raise ReplayError(
                f"a datagram {now_ms - time_ms} ms old by our clock: check the clocks of both peers"
            )
        sender = PeerId.from_public_key(public_key)
        self._replay.check(sender, sequence, now_ms - self._window_ms)
        check_id(self._swarm, sender)
        self._check_proof(public_key, data, proof)
        self._check_member(public_key, certificates, now)
        if self._keys or data[1] in _SEALED:
            body = self._unsealed(sender, data, body)
        self._replay.advance(sender, sequence, time_ms)
        self._pairs.heard(sender, public_key)
        message, statements = decode_signed(body)
        for statement in statements:
            self._verifier.verify_statement(statement)
        return Opened(sender, public_key, message)

    def _check_proof(self, public_key: bytes, data: bytes, proof: bytes) -> None:
        """Check that the datagram is from whoever has this public key.

        Raises:
            SignatureError: It is not.
        """
        bare = data[: -len(proof)]
        if data[1] not in _TAGGED:
            verify(public_key, self._prefix + bare, proof)
        elif not hmac.compare_digest(self._tag(self._pairs.key_with(public_key), bare), proof):
            raise SignatureError("the tag of a datagram does not match its sender's key and ours")

    def _tag(self, pair_key: bytes, bare: bytes) -> bytes:
        return hashlib.blake2b(self._prefix + bare, key=pair_key, digest_size=_TAG_SIZE_BYTES).digest()

    def _unsealed(self, sender: PeerId, data: bytes, body: bytes) -> bytes:
        """Open the body of a datagram of a member."""
        if data[1] not in _SEALED:
            raise Unsealed(
                f"peer {sender.short} does not seal its datagrams: it has no keyring yet", sender=sender
            )
        name = body[:KEY_ID_SIZE_BYTES]
        key = self._keys.get(name)
        if key is None:
            raise UnknownKey(
                f"peer {sender.short} seals with key {name.hex()}, which is not in our keyring", sender=sender
            )
        proof_size = _TAG_SIZE_BYTES if data[1] in _TAGGED else SIGNATURE_SIZE_BYTES
        header = data[: len(data) - len(body) - (2 if len(body) < 256 else 3) - 2 - proof_size]
        try:
            return unseal(key, _nonce(header), body[KEY_ID_SIZE_BYTES:], self._prefix + header)
        except SealError as error:
            raise SealError(
                f"a datagram of peer {sender.short} does not open with key {name.hex()}", sender=sender
            ) from error

    def _explain(self, data: bytes) -> Exception:
        """Say why the first bytes are not ours; called only for what is refused."""
        if len(data) > DATAGRAM_SIZE_BYTES_MAX:
            return DecodeError(f"a datagram has at most {DATAGRAM_SIZE_BYTES_MAX} bytes")
        if len(data) < _HEAD_SIZE_BYTES or not 0x90 < data[0] < 0xA0 or data[1] >= 0x80:
            return DecodeError("not a p2pinfer datagram")
        if data[1] not in _VERSIONS:
            known = f"{_VERSIONS[0]} to {_VERSIONS[-1]}"
            return VersionMismatch(f"a datagram of version {data[1]}: we speak {known}")
        if data[2:4] == self._heads[0][2:4]:
            return WrongSwarm("a datagram of another swarm")
        return DecodeError("not a p2pinfer datagram")

    def _check_member(self, public_key: bytes, certificates: tuple[bytes, ...], now: float) -> None:
        """Check the sender's membership, or find it among those that were good a while ago."""
        if self._swarm.is_open or public_key == self._swarm.id:
            return
        key, now_ms = (public_key, certificates), int(now * 1000)
        known = self._members.get(key)
        if known is not None and known[0] <= now_ms <= known[1]:
            self._members.move_to_end(key)
            return
        chain: list[Certificate] = []
        for each in certificates:
            certificate, _ = decode_signed(each)
            if not isinstance(certificate, Certificate):
                raise DecodeError("a membership is a chain of certificates")
            chain.append(certificate)
        membership = Membership(swarm=self._swarm.id, chain=tuple(chain))
        check_membership(self._swarm, public_key, membership, now, self._verifier)
        self._members[key] = (
            max(each.not_before_ms for each in chain),
            min(each.not_after_ms for each in chain),
        )
        if len(self._members) > MEMBERS_CACHE_COUNT_MAX:
            self._members.popitem(last=False)


def _nonce(header: bytes) -> bytes:
    """The nonce of a datagram: a hash of its sender, sequence and time, and of what stands beside them."""
    return hashlib.blake2b(header, digest_size=NONCE_SIZE_BYTES).digest()


def _read(data: bytes) -> tuple[bytes, tuple[bytes, ...], int, int, bytes, bytes]:
    """Take an envelope apart; its first bytes are known to be in order."""
    try:
        fields: Any = msgpack.unpackb(data, use_list=False, max_array_len=8, max_map_len=0, max_ext_len=0)
        version, _, public_key, certificates, sequence, time_ms, body, proof = fields
    except ValueError as error:
        raise DecodeError(f"not a p2pinfer datagram: {error}") from error
    if type(public_key) is not bytes or len(public_key) != PUBLIC_KEY_SIZE_BYTES:
        raise DecodeError("an envelope's public key has 32 bytes")
    if type(certificates) is not tuple or len(certificates) > CHAIN_COUNT_MAX:
        raise DecodeError(f"an envelope has at most {CHAIN_COUNT_MAX} certificates")
    if not all(type(each) is bytes for each in certificates) or type(body) is not bytes:
        raise DecodeError("an envelope's certificates and body are bytes")
    if type(sequence) is not int or type(time_ms) is not int or not 0 < sequence < 1 << 63:
        raise DecodeError("an envelope's sequence and time are whole numbers above 0")
    proof_size = _TAG_SIZE_BYTES if version in _TAGGED else SIGNATURE_SIZE_BYTES
    if type(proof) is not bytes or len(proof) != proof_size:
        raise DecodeError("an envelope ends with a signature of 64 bytes or a tag of 16")
    return public_key, certificates, sequence, time_ms, body, proof
