"""Statements that a peer makes about itself and signs, so that anybody may pass them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, TypeVar

from p2pinfer.effects import Message
from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.wire.messages.coordinates import Coordinate
from p2pinfer.wire.schema import Between, Exactly, Size, registered

__all__ = ["METADATA_SIZE_BYTES_MAX", "Holding", "PeerRecord", "Sign", "Signed"]


METADATA_SIZE_BYTES_MAX = 1 << 16
"""What a peer may say of itself beyond its record."""


class Signed(Message):
    """Base of a structure that carries its owner's public key and signature.

    The signature covers the structure encoded with an empty signature. `wire/envelope.py` checks every
    signed structure inside a message before a core sees it, so a core may believe its owner.
    Subclasses have the fields `public_key` and `signature`.
    """

    __slots__ = ()
    public_key: bytes
    signature: bytes

    @property
    def owner(self) -> PeerId:
        """Whose statement this is."""
        return PeerId.from_public_key(self.public_key)


S = TypeVar("S", bound=Signed)


class Sign(Protocol):
    """Signs this peer's own statements: handed into cores, which import no cryptography."""

    def __call__(self, statement: S) -> S:
        """Return the statement with its `signature` filled in."""
        ...


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Holding(Message):
    """The layers of one model that a peer serves, and how fast: what the planner needs of it."""

    TAG: ClassVar[int] = 1

    model: Annotated[str, Size(128)]
    """The model's name and tag, for people: `smollm2:135m`."""
    digest: Annotated[bytes, Exactly(32)]
    """The model's manifest digest: only equal digests may serve one chain."""
    layer_count: Annotated[int, Between(1, 1024)]
    """Layers of the whole model."""
    start: Annotated[int, Between(0, 1023)]
    end: Annotated[int, Between(1, 1024)]
    step_us: Annotated[int, Between(0, 1 << 40)]
    """Measured time of one decode step through the whole span, in microseconds; 0 while unknown."""
    queue: Annotated[int, Between(0, 1 << 20)] = 0
    """Sessions now open at the holder."""
    draining: bool = False
    """It will stop serving: new sessions go elsewhere where they can."""
    loading: bool = False
    """It does not serve these layers yet, but will: nobody else need fill that gap."""
    movable: bool = False
    """It may hold other layers as well, should the swarm lack them more."""

    @property
    def span(self) -> Span:
        """The layers as a half-open span.

        Raises:
            ValueError: start is not below end; `PeerRecord.is_plausible` tells without raising.
        """
        return Span(self.start, self.end)


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord(Signed):
    """What a peer says of itself: that it lives, where it listens and what it holds.

    Gossiped by SWIM inside the swarm and stored in the DHT. Only its owner can make one; a later one has a
    higher incarnation and replaces all earlier. It is void after `expires_ms`, whoever passes it on.
    """

    TAG: ClassVar[int] = 2

    public_key: Annotated[bytes, Exactly(32)]
    endpoint: Endpoint
    incarnation: int
    expires_ms: int
    """Milliseconds since the Unix epoch."""
    leaving: bool = False
    """The owner's last word: it leaves on purpose."""
    holding: Holding | None = None
    name: Annotated[str, Size(63)] = ""
    """What people call the peer; any text, so it is shown and never compared."""
    metadata_digest: Annotated[bytes, Size(32)] = b""
    """SHA-256 of what the owner says besides, which is asked of it over a stream; empty if nothing."""
    coordinate: Coordinate | None = None
    """Where the owner stood on the map of round trips when it signed."""
    signature: Annotated[bytes, Size(64)] = b""

    @property
    def contact(self) -> Contact:
        """Where to reach the owner."""
        return Contact(self.owner, self.endpoint)

    @property
    def is_plausible(self) -> bool:
        """Whether the fields agree with each other; a record that fails this is ignored."""
        held = self.holding
        return held is None or held.start < held.end <= held.layer_count
