"""Where a peer stands on the map of round trips, by its own word.

Rules:

1. Whole numbers in stated bounds: neither NaN nor infinity exists on the wire, so no check for them can be
   forgotten behind it.
2. It is a claim, signed or not. Whoever uses it holds it against round trips that it measured itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message
from p2pinfer.wire.schema import Between, Count, registered

__all__ = ["COMPONENT_COUNT_MAX", "Coordinate"]

COMPONENT_COUNT_MAX = 8
"""Ledlie et al. (NSDI 2007) found no gain beyond seven dimensions; serf uses eight."""
_OFFSET_US_MAX = 10_000_000
"""Ten seconds: no round trip that is longer counts (serf, `coordinate/client.go`)."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate(Message):
    """A point of the network coordinates of SWIM's members: a part of other messages, never sent alone.

    The round trip between two peers is estimated as the Euclidean distance of their components, plus both
    heights, plus both adjustments. Typical values take 30 to 45 bytes: up to 32 ms a component has three.
    """

    TAG: ClassVar[int] = 25

    components_us: Annotated[
        tuple[Annotated[int, Between(-_OFFSET_US_MAX, _OFFSET_US_MAX)], ...], Count(COMPONENT_COUNT_MAX)
    ]
    """The point in space, microseconds. Members of one swarm have the same number of components."""
    height_us: Annotated[int, Between(0, _OFFSET_US_MAX)]
    """The access link, which every way to the peer takes, microseconds. Dabek et al. (2004), 5.4."""
    adjustment_us: Annotated[int, Between(-_OFFSET_US_MAX, _OFFSET_US_MAX)]
    """What no point in space can express, microseconds. Lee et al. (2010), section V."""
    error_permille: Annotated[int, Between(0, 10_000)]
    """The peer's own estimate of its relative error, thousandths; 1500 is serf's value for "no idea"."""
