"""The message of local discovery: I am here, to whoever of my swarm is on the same network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Endpoint
from p2pinfer.wire.schema import registered

__all__ = ["Announcement"]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement(Message):
    """Any member to its local network, by multicast, now and then: I am here. It is not answered.

    A member that does not have the sender among the living pings it, once and a little later. The envelope
    has a prefix of its own, so that an announcement is no datagram of the swarm and none is an announcement,
    and it is signed but never sealed: who missed a change of keys must still hear where the others are.
    """

    TAG: ClassVar[int] = 56
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    endpoint: Endpoint
    """Where the sender listens, as in its record."""
