"""Both ends of a stream prove their identity, for this very TLS connection and no other.

Rules:

1. Each signs the transcript: its role, the hash of the TLS certificate that the listener uses, and both
   hellos with their nonces. A man in the middle shows another certificate, a replay has another nonce, and a
   reflected proof another role: none of their signatures matches.
2. Whatever the other end does ends in a named error within a deadline, and it is told the same name.
3. Nothing of the other end is believed before its proof was checked.

The messages and their order are in `wire/messages/handshake.py`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import (
    HandshakeError,
    PeerUnreachable,
    RemoteProtocolError,
    SignatureError,
    UnavailableError,
    VersionMismatch,
    WrongSwarm,
)
from p2pinfer.identity import Identity, Verifier, verify
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.membership import SwarmPolicy, check_membership
from p2pinfer.runtime.remote_errors import code_of, error_of, text_of
from p2pinfer.runtime.tls import TlsStream
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.framing import Assembler, Frame, FrameReader, cut
from p2pinfer.wire.messages.handshake import Alert, Hello, Proof, Welcome
from p2pinfer.wire.messages.membership import Membership

__all__ = ["VERSIONS", "Credentials", "Established", "Greeter", "frame_of"]

VERSIONS = (1,)
"""Versions of the stream protocol spoken here."""
_MESSAGE_SIZE_BYTES_MAX = 2048
"""A hello with a chain of two certificates has some 600 bytes."""
_PREFIX = b"p2pinfer stream v1\x00"
_UNSPECIFIED = ("", "0.0.0.0", "::")

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this peer proves and how it checks others."""

    identity: Identity
    swarm: SwarmPolicy
    membership: Membership
    verifier: Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """What both ends know once the handshake is done."""

    peer: PeerId
    contact: Contact
    """Who is at the other end and where it listens; port 0 if it does not."""
    id: bytes
    """The same at both ends and for no other connection."""
    dialler: PeerId
    instance: bytes
    """The other end's process."""
    lost: bytes
    """The id of an earlier connection that the other end knows to be broken."""
    reader: FrameReader
    frames: tuple[Frame, ...]
    """What arrived right behind the handshake."""


def frame_of(message: Message) -> bytes:
    """Return a small message as one frame."""
    return b"".join(cut(0, 0, encode(message)))


class Greeter:
    """Runs the handshake in either role.

    Args:
        credentials: Ours.
        endpoint: Where we listen, for the other end to call back; port 0 if we do not.
        binding: The hash of our own TLS certificate.
        deadline_s: For each stage of the handshake.
    """

    def __init__(
        self, credentials: Credentials, endpoint: Endpoint, binding: bytes, *, deadline_s: float
    ) -> None:
        self._credentials = credentials
        self._endpoint = endpoint
        self._binding = binding
        self._deadline_s = deadline_s
        self._instance = secrets.token_bytes(16)

    def set_endpoint(self, endpoint: Endpoint) -> None:
        """Tell whoever comes from now on that we listen there."""
        self._endpoint = endpoint

    async def dial(
        self, tls: TlsStream, endpoint: Endpoint, now: float, *, expected: PeerId | None, lost: bytes = b""
    ) -> Established:
        """Prove who we are to whom we dialled, and check who answered.

        Raises:
            RemoteProtocolError: A kind of it, by what is wrong; the other end was told.
            PeerUnreachable: The connection broke or the deadline passed.
        """
        exchange = _Exchange(tls)
        with self._stage("the TLS handshake", PeerUnreachable):
            await tls.handshake()
        with self._refusing(exchange), self._stage("the handshake", PeerUnreachable):
            binding = tls.peer_binding()
            ours = self._hello(lost)
            exchange.send(ours)
            theirs, our_bytes, their_bytes = await exchange.receive(Hello), encode(ours), exchange.last
            self._check_hello(theirs, now)
            transcript = _transcript(binding, our_bytes, their_bytes)
            proof = await exchange.receive(Proof)
            _check_proof(b"listener", theirs, transcript, proof)
            peer = PeerId.from_public_key(theirs.public_key)
            if expected is not None and peer != expected:
                raise HandshakeError(f"{peer.short} answered at {endpoint}, not {expected.short}")
            exchange.send(Proof(self._credentials.identity.sign(_PREFIX + b"dialler" + transcript)))
            await exchange.receive(Welcome)
        return Established(
            peer=peer,
            contact=Contact(peer, self._reachable(theirs.endpoint, endpoint.host)),
            id=transcript,
            dialler=self._credentials.identity.peer_id,
            instance=theirs.instance,
            lost=theirs.lost,
            reader=exchange.reader,
            frames=tuple(exchange.frames),
        )

    async def listen(self, tls: TlsStream, source: Endpoint, now: float) -> Established:
        """Check who dialled, and prove who we are.

        Raises:
            RemoteProtocolError: A kind of it, by what is wrong; the other end was told.
            PeerUnreachable: The connection broke.
        """
        exchange = _Exchange(tls)
        with self._stage("the TLS handshake", HandshakeError):
            await tls.handshake()
        with self._refusing(exchange):
            with self._stage("its hello", HandshakeError):
                theirs, their_bytes = await exchange.receive(Hello), exchange.last
            self._check_hello(theirs, now)
            ours = self._hello(b"")
            transcript = _transcript(self._binding, their_bytes, encode(ours))
            exchange.send(ours, Proof(self._credentials.identity.sign(_PREFIX + b"listener" + transcript)))
            with self._stage("its proof", HandshakeError):
                proof = await exchange.receive(Proof)
            _check_proof(b"dialler", theirs, transcript, proof)
            exchange.send(Welcome())
        peer = PeerId.from_public_key(theirs.public_key)
        return Established(
            peer=peer,
            contact=Contact(peer, self._reachable(theirs.endpoint, source.host)),
            id=transcript,
            dialler=peer,
            instance=theirs.instance,
            lost=theirs.lost,
            reader=exchange.reader,
            frames=tuple(exchange.frames),
        )

    def _hello(self, lost: bytes) -> Hello:
        credentials = self._credentials
        return Hello(
            versions=VERSIONS,
            swarm=credentials.swarm.id,
            public_key=credentials.identity.public_key,
            membership=credentials.membership,
            endpoint=self._endpoint,
            nonce=secrets.token_bytes(32),
            instance=self._instance,
            lost=lost,
        )

    def _check_hello(self, hello: Hello, now: float) -> None:
        credentials = self._credentials
        if not set(hello.versions) & set(VERSIONS):
            raise VersionMismatch(f"no common version: {hello.versions} here and {VERSIONS} there; update")
        if hello.swarm != credentials.swarm.id:
            raise WrongSwarm(
                f"a stream of swarm {hello.swarm.short} came to one of {credentials.swarm.id.short}"
            )
        if hello.public_key == credentials.identity.public_key:
            raise HandshakeError("both ends have the same key: a peer dialled itself, or was reflected")
        check_membership(
            credentials.swarm,
            hello.public_key,
            hello.membership or Membership(swarm=hello.swarm),
            now,
            credentials.verifier,
        )

    def _reachable(self, endpoint: Endpoint, seen_host: str) -> Endpoint:
        return Endpoint(seen_host, endpoint.port) if endpoint.host in _UNSPECIFIED else endpoint

    @contextmanager
    def _stage(self, what: str, error: type[HandshakeError | PeerUnreachable]) -> Iterator[None]:
        try:
            with trio.fail_after(self._deadline_s):
                yield
        except trio.TooSlowError:
            raise error(f"the other end did not finish {what} within {self._deadline_s:g} s") from None

    @contextmanager
    def _refusing(self, exchange: _Exchange) -> Iterator[None]:
        """Tell the other end what it did wrong, unless it was itself who said so."""
        try:
            yield
        except RemoteProtocolError as error:
            if not exchange.was_refused:
                exchange.refuse(error)
            raise


class _Exchange:
    """Messages of the handshake, one at a time."""

    def __init__(self, tls: TlsStream) -> None:
        self.reader = FrameReader()
        self.frames: deque[Frame] = deque()
        self.last = b""
        """The bytes of the message received last: hashed as they came, not as they would be encoded here."""
        self.was_refused = False
        self._tls = tls
        self._assembler = Assembler()

    def send(self, *messages: Message) -> None:
        """Send messages in one write: they are small and fit the socket's buffer."""
        self._tls.write_nowait(b"".join(frame_of(message) for message in messages))

    async def receive(self, kind: type[M]) -> M:
        """Return the next message, which must be of this kind.

        Raises:
            RemoteProtocolError: It is another, or the other end refused us: then its error.
        """
        while not self.frames:
            data = await self._tls.receive()
            if not data:
                raise PeerUnreachable("the other end closed the connection during the handshake")
            self.frames.extend(self.reader.feed(data))
        frame = self.frames.popleft()
        if not frame.is_last:
            raise HandshakeError("a message of the handshake came in parts")
        self.last = frame.payload
        message = decode(frame.payload, size_bytes_max=_MESSAGE_SIZE_BYTES_MAX)
        if isinstance(message, Alert):
            self.was_refused = True
            error = error_of(message.code, f"refused by the other peer: {message.detail}")
            raise (
                error
                if isinstance(error, RemoteProtocolError | UnavailableError)
                else HandshakeError(str(error))
            )
        if not isinstance(message, kind):
            raise HandshakeError(f"{kind.__name__} was due, {type(message).__name__} came")
        return message

    def refuse(self, error: RemoteProtocolError) -> None:
        """Say why, if the connection still takes it."""
        try:
            self.send(Alert(code_of(error), text_of(error, 256)))
        except PeerUnreachable:
            pass  # it is gone, which is just as well


def _transcript(binding: bytes, dialler_hello: bytes, listener_hello: bytes) -> bytes:
    parts = (binding, hashlib.sha256(dialler_hello).digest(), hashlib.sha256(listener_hello).digest())
    return hashlib.sha256(_PREFIX + b"".join(parts)).digest()


def _check_proof(role: bytes, hello: Hello, transcript: bytes, proof: Proof) -> None:
    try:
        verify(hello.public_key, _PREFIX + role + transcript, proof.signature)
    except SignatureError:
        raise HandshakeError(
            "the proof is not of this connection: somebody is between the two peers, or replays an old one"
        ) from None
