"""How the two ends of a stream prove who they are, right after the TLS handshake, and keep it alive.

    dialler                 listener
       |--Hello---------------->|   versions, swarm, membership and a nonce
       |<--Hello----------------|
       |<--Proof----------------|   signed: role, TLS certificate, both hellos
       |--Proof---------------->|
       |<--Welcome--------------|   from here on: frames of any message

Whoever refuses says why with an Alert and closes. A proof covers the hash of the certificate that this very
TLS connection was opened with, so it is worth nothing on another one; the nonces make a replayed one
worthless, and the role makes a reflected one so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Endpoint, SwarmId
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = ["Alert", "Goodbye", "Heartbeat", "Hello", "Proof", "Welcome"]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Both ends, first: who I say I am. Answered by a Hello, or by an Alert."""

    TAG: ClassVar[int] = 118
    PLANE: ClassVar[Plane] = Plane.STREAM

    versions: Annotated[tuple[Annotated[int, Between(0, 65535)], ...], Count(8)]
    """Protocol versions spoken; the highest common one is used."""
    swarm: SwarmId
    public_key: Annotated[bytes, Exactly(32)]
    membership: Membership | None
    endpoint: Endpoint
    """Where the sender listens; port 0 if it does not. An unspecified host stands for its address here."""
    nonce: Annotated[bytes, Exactly(32)]
    instance: Annotated[bytes, Exactly(16)]
    """Drawn when the process starts: a new one means that what it knew of earlier connections is gone."""
    lost: Annotated[bytes, Size(32)] = b""
    """The id of an earlier connection to this peer which the sender knows to be broken."""


@registered
@dataclass(frozen=True, slots=True)
class Proof(Message):
    """Both ends, after both hellos: the signature over role, TLS certificate and both hellos."""

    TAG: ClassVar[int] = 119
    PLANE: ClassVar[Plane] = Plane.STREAM

    signature: Annotated[bytes, Exactly(64)]


@registered
@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """Listener to dialler: the proof is good; the connection is open."""

    TAG: ClassVar[int] = 120
    PLANE: ClassVar[Plane] = Plane.STREAM


@registered
@dataclass(frozen=True, slots=True)
class Alert(Message):
    """Either end, at any time: why it closes. `code` is the name of one of the project's errors."""

    TAG: ClassVar[int] = 121
    PLANE: ClassVar[Plane] = Plane.STREAM

    code: Annotated[str, Size(64)]
    detail: Annotated[str, Size(256)] = ""


@registered
@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """Either end, where nothing else was sent for a while: this connection works. Not answered."""

    TAG: ClassVar[int] = 122
    PLANE: ClassVar[Plane] = Plane.STREAM


@registered
@dataclass(frozen=True, slots=True)
class Goodbye(Message):
    """Either end: my last message here. Both ends close once both have said it.

    Sent when a second connection of the same two peers is used instead, and at shutdown.
    """

    TAG: ClassVar[int] = 123
    PLANE: ClassVar[Plane] = Plane.STREAM
