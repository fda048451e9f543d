"""The few places that holders are at, so that a chain can be planned by the ways between its hops.

How far two peers are from each other is somebody else's estimate, of two opaque positions; a position's round
trip to itself is what its access link costs, both ways. Rules:

1. What is left without access links is a way between places: a holder is at the nearest of at most
   `PLACE_COUNT_MAX`, which are the positions farthest from each other. Fewer holders than that are a place
   each, but for neighbours, and the costs of chains are those of the estimates. More: a way is wrong by no
   more than the distance of both ends from the middle of their places, which `spread_s` tells.
2. A position is a peer's own word. It counts only while it agrees with the round trip measured to that peer;
   whose does not is planned with by its measured round trip alone.
3. Choosing places anew costs as many estimates as holders times places, so it is done once in as many news as
   there are holders.

Source: farthest-first traversal, Gonzalez (1985), within twice of the best choice of places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from p2pinfer.ids import PeerId
from p2pinfer.inference.chain_search import Ways

__all__ = ["PLACE_COUNT_MAX", "Places", "RoundTripOf", "Spot", "WayMap"]

PLACE_COUNT_MAX = 8
"""Continents and the larger of their regions; each costs time in the chain's search."""
PLACE_RADIUS_S = 0.001
"""Nearer than this is the same place, seconds of round trip: a LAN, or a city."""
ENTRY_SHARE = 1 / 16
"""Of a way between the entry peer and a chain's ends, in the cost of a token: the first token of an answer
waits for it, and none of the others does, which the last hop sends to the first one as well."""
AGREEMENT_FACTOR = 2.0
"""A position whose estimate is off by more than this factor from what is measured is not believed."""
AGREEMENT_S = 0.003
"""Nor is it where it is off by less than this, seconds: estimates are not that exact."""

RoundTripOf = Callable[[Any, Any], float | None]
"""The round trip to expect between two positions, seconds; None where they cannot be compared."""


class Spot(NamedTuple):
    """Where a holder is."""

    place: int
    access_s: float
    """What its access link costs for each token that passes: once in and once out."""


@dataclass(frozen=True, slots=True)
class WayMap:
    """What the planner needs of places; `spots` is a live view."""

    ways_ns: Ways
    """One way, in nanoseconds; what concerns the entry peer is scaled by `ENTRY_SHARE`."""
    home: int
    """The entry peer's own place; who has no spot is planned with as if it were there."""
    spots: Mapping[PeerId, Spot]

    def place_of(self, peer: PeerId) -> int:
        """Where a holder is planned with."""
        spot = self.spots.get(peer)
        return self.home if spot is None else spot.place


@dataclass(slots=True)
class _Known:
    position: Any
    access_s: float
    off_s: float = 0.0
    """The way to the middle of its place."""


@dataclass(slots=True)
class _Chart:
    """Places as they were chosen last."""

    centres: list[_Known] = field(default_factory=list)
    spots: dict[PeerId, Spot] = field(default_factory=dict)
    news_count: int = 0
    """Positions that came since."""
    map: WayMap | None = None
    """What was made of it last; None where something changed."""


class Places:
    """Holders' positions, and the places that they make."""

    def __init__(self, round_trip_s: RoundTripOf) -> None:
        self._round_trip_s = round_trip_s
        self._known: dict[PeerId, _Known] = {}
        self._own: _Known | None = None
        self._chart = _Chart()

    @property
    def map(self) -> WayMap | None:
        """What to plan with; None while this peer's own position or everybody else's is unknown."""
        if self._own is None or not self._chart.spots:
            return None
        if self._chart.map is None:
            self._chart.map = self._draw(self._own)
        return self._chart.map

    @property
    def spread_s(self) -> float:
        """The longest way from a holder to the middle of its place, seconds of round trip."""
        return max((known.off_s for known in self._known.values()), default=0.0)

    def set_own(self, position: Any) -> None:
        """This peer is there now."""
        self._own = self._know(position)
        self._chart.map = None

    def put(self, peer: PeerId, position: Any) -> None:
        """A holder says that it is there now."""
        known = self._know(position)
        if known is None:
            self.forget(peer)
            return
        before = self._known.get(peer)
        if before is not None and before.position == position:
            return
        self._known[peer] = known
        self._chart.news_count += 1
        if self._chart.news_count >= len(self._known):
            self.choose()
        else:
            self._assign(peer, known)

    def forget(self, peer: PeerId) -> None:
        """A holder is gone, or its position is not believed."""
        if self._known.pop(peer, None) is not None:
            self._chart.spots.pop(peer, None)
            if not self._chart.spots:
                self._chart = _Chart()

    def agrees(self, position: Any, measured_s: float) -> bool:
        """Whether a position is where a round trip of this length can end, as seen from here."""
        if self._own is None:
            return True
        expected_s = self._round_trip_s(self._own.position, position)
        if expected_s is None:
            return False
        if abs(expected_s - measured_s) <= AGREEMENT_S:
            return True
        return measured_s / AGREEMENT_FACTOR <= expected_s <= measured_s * AGREEMENT_FACTOR

    # ------------------------------------------------------------------ places

    def _know(self, position: Any) -> _Known | None:
        twice_s = self._round_trip_s(position, position)
        return None if twice_s is None else _Known(position, max(0.0, twice_s / 2))

    def _way_s(self, a: _Known, b: _Known) -> float:
        """The round trip between two positions without both access links; infinite where there is none."""
        round_trip_s = self._round_trip_s(a.position, b.position)
        return math.inf if round_trip_s is None else max(0.0, round_trip_s - a.access_s - b.access_s)

    def choose(self) -> None:
        """Choose the places anew: each next is the position farthest from all those before."""
        self._chart = chart = _Chart()
        peers = sorted(self._known)
        centre = self._own or self._known[peers[0]]
        nearest = dict.fromkeys(peers, (math.inf, 0))
        while len(chart.centres) < PLACE_COUNT_MAX:
            place = len(chart.centres)
            chart.centres.append(centre)
            for peer in peers:
                nearest[peer] = min(nearest[peer], (self._way_s(self._known[peer], centre), place))
            (farthest_s, _), farthest = max((nearest[peer], peer) for peer in peers)
            if farthest_s <= PLACE_RADIUS_S:
                break
            centre = self._known[farthest]
        for peer, (off_s, place) in nearest.items():
            self._settle(peer, off_s, place)

    def _assign(self, peer: PeerId, known: _Known) -> None:
        ways = ((self._way_s(known, centre), place) for place, centre in enumerate(self._chart.centres))
        off_s, place = min(ways)
        if off_s > PLACE_RADIUS_S and len(self._chart.centres) < PLACE_COUNT_MAX:
            off_s, place = 0.0, len(self._chart.centres)
            self._chart.centres.append(known)
        self._settle(peer, off_s, place)

    def _settle(self, peer: PeerId, off_s: float, place: int) -> None:
        known = self._known[peer]
        known.off_s = off_s
        self._chart.spots[peer] = Spot(place, known.access_s)
        self._chart.map = None

    def _draw(self, own: _Known) -> WayMap:
        """Make the map: detours that estimates make look shorter than the way itself are the way."""
        chart = self._chart
        places = range(len(chart.centres))
        ways = [[self._way_s(a, b) for b in chart.centres] for a in chart.centres]
        within: list[list[float]] = [[] for _ in places]
        for peer, spot in chart.spots.items():
            within[spot.place].append(self._known[peer].off_s)
        for place, offs_s in enumerate(within):
            # Two holders of a place are as far from each other as two random steps of this length.
            ways[place][place] = math.sqrt(2) * sum(offs_s) / len(offs_s) if offs_s else 0.0
        between = [[round(min(way, 1e3) * 1e9 / 2) for way in row] for row in ways]
        for via in places:
            for a in places:
                for b in places:
                    between[a][b] = min(between[a][b], between[a][via] + between[via][b])
        _, home = min((self._way_s(own, centre), place) for place, centre in enumerate(chart.centres))
        entry = tuple(round(way * ENTRY_SHARE) for way in between[home])
        return WayMap(Ways(tuple(map(tuple, between)), entry), home, chart.spots)
