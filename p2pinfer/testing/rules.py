"""Rules about single packets: the way to lose, delay or let through exactly what a test means.

Rules are asked in the order in which they were added, before partitions and before the link's own chances;
the first that has an opinion decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pinfer.effects import Message, Plane

__all__ = ["Delay", "Drop", "Packet", "Pass", "Rule", "Verdict"]


@dataclass(frozen=True, slots=True)
class Packet:
    """What a rule sees: one message on its way, with the names of both hosts."""

    source: str
    target: str
    message: Message
    now: float

    @property
    def plane(self) -> Plane:
        """Datagram or stream."""
        return self.message.PLANE


@dataclass(frozen=True, slots=True)
class Pass:
    """Let it through as the link would, and ask no later rule."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Let it through, that many seconds later than the link would, and ask no later rule."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Lose it; on a stream it is sent again until it passes or the connection is given up."""


Verdict = Pass | Delay | Drop | None
Rule = Callable[[Packet], Verdict]
"""Says what becomes of a packet; None leaves it to the next rule."""
