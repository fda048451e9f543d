"""The arithmetic of network coordinates: how long a round trip should take, and where a push leads.

Sources: Dabek, Cox, Kaashoek, Morris, "Vivaldi: a decentralized network coordinate system" (SIGCOMM 2004) for
springs, errors and heights; Lee et al., "On suitability of Euclidean embedding for host-based network
coordinate systems" (ToN 2010) for the adjustment; Ledlie, Gardner, Seltzer, "Network coordinates in the
wild" (NSDI 2007) for gravity; serf (`coordinate/`) for the way all are put together. Rules:

1. Plain functions over frozen values, in seconds; only messages count microseconds.
2. A push moves a point in space by its force, and the height by no more. Departs from serf, where the height
   moves by force * heights / distance, however near the points are: between neighbours that is a thousand
   times the force, and where round trips fit into no space, errors grow for ever. Departs from Dabek (5.4),
   who divides the force between space and height: peers of one site then never agree which of the two it is.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from p2pinfer.wire.messages.coordinates import Coordinate

__all__ = ["Position", "distance_s"]

_COINCIDENT_S = 1e-6
"""Closer than this, two points have no direction from each other. serf (`zeroThreshold`)."""


@dataclass(frozen=True, slots=True)
class Position:
    """A coordinate to compute with: seconds as floats, not rounded."""

    components_s: tuple[float, ...]
    height_s: float
    adjustment_s: float
    error: float

    @classmethod
    def of(cls, coordinate: Coordinate) -> Position:
        """Return what a message says."""
        return cls(
            tuple(each / 1e6 for each in coordinate.components_us),
            coordinate.height_us / 1e6,
            coordinate.adjustment_us / 1e6,
            coordinate.error_permille / 1e3,
        )

    def coordinate(self) -> Coordinate:
        """Return the message that says this, to the nearest microsecond."""
        return Coordinate(
            components_us=tuple(round(each * 1e6) for each in self.components_s),
            height_us=round(self.height_s * 1e6),
            adjustment_us=round(self.adjustment_s * 1e6),
            error_permille=round(self.error * 1e3),
        )

    def raw_distance_s(self, other: Position) -> float:
        """The round trip that springs and heights alone explain."""
        return math.dist(self.components_s, other.components_s) + self.height_s + other.height_s

    def distance_s(self, other: Position) -> float:
        """The round trip to expect; adjustments that would make it negative are left out (serf)."""
        raw_s = self.raw_distance_s(other)
        adjusted_s = raw_s + self.adjustment_s + other.adjustment_s
        return adjusted_s if adjusted_s > 0 else raw_s

    def pushed(self, force_s: float, other: Position, height_s_min: float, rng: random.Random) -> Position:
        """Return this position moved by `force_s` away from another, or towards it where that is negative.

        Source: Dabek et al., 5.4. From a point in the same place it is pushed in a random direction (3.2).
        """
        difference = [a - b for a, b in zip(self.components_s, other.components_s, strict=True)]
        planar_s, height_s = math.hypot(*difference), self.height_s
        if planar_s <= _COINCIDENT_S:
            difference = [rng.gauss(0.0, 1.0) for _ in difference]
            share = force_s / (math.hypot(*difference) or 1.0)
        else:
            share = force_s / planar_s
            rise_s, most_s = share * (height_s + other.height_s), abs(force_s)
            height_s = max(height_s + min(max(rise_s, -most_s), most_s), height_s_min)
        components_s = tuple(a + share * d for a, d in zip(self.components_s, difference, strict=True))
        return replace(self, components_s=components_s, height_s=height_s)


def distance_s(a: Coordinate, b: Coordinate) -> float | None:
    """The round trip to expect between two peers, seconds; None if they count different dimensions."""
    if len(a.components_us) != len(b.components_us):
        return None
    raw_us = math.dist(a.components_us, b.components_us) + a.height_us + b.height_us
    adjusted_us = raw_us + a.adjustment_us + b.adjustment_us
    return (adjusted_us if adjusted_us > 0 else raw_us) / 1e6
