"""How a peer shows that the swarm's owner admitted it: a chain of one or two certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message
from p2pinfer.ids import SwarmId
from p2pinfer.wire.schema import Count, Exactly, Size, registered

__all__ = ["CHAIN_COUNT_MAX", "Certificate", "Membership"]

CHAIN_COUNT_MAX = 2
"""Owner -> delegate -> peer. A longer chain would let the invited invite, which nobody could survey."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Message):
    """The issuer says that a key belongs to a swarm for a time.

    Issuer and swarm stand in the signed bytes, not here: the issuer is the swarm's owner for the first
    certificate of a chain and the subject before it for the second.
    """

    TAG: ClassVar[int] = 3

    subject: Annotated[bytes, Exactly(32)]
    """The Ed25519 public key that is admitted."""
    not_before_ms: int
    not_after_ms: int
    """Milliseconds since the Unix epoch; both ends belong to the time of validity."""
    may_invite: bool = False
    """Whether the subject may certify others: true for the delegate key inside an invite alone."""
    signature: Annotated[bytes, Size(64)] = b""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Membership(Message):
    """What a peer shows to others of a swarm. The owner, and peers of an open swarm, have an empty chain."""

    TAG: ClassVar[int] = 4

    swarm: SwarmId
    chain: Annotated[tuple[Certificate, ...], Count(CHAIN_COUNT_MAX)] = ()
