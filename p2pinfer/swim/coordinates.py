"""Where this peer stands on the map of round trips, learnt from probes, and what liars can do about it.

Rules:

1. Vivaldi with height, adjustment, latency filter and gravity, as in serf; `vivaldi` has the arithmetic.
2. The one thing that a liar cannot do is to answer sooner than the network allows. So an observation is held
   against what was seen of other peers that answer as fast or faster: a crowd of liars that answer late does
   not outvote those nearby, and a peer that stands apart from all whom it is close to may still move there.
3. What an observation may do is bounded by how well the others fit: the whole of it counts while nothing fits
   yet, little once nearly all do. A peer that does not fit again and again counts half as much each time, and
   one that is observed more often than the others counts no more for it.

Departs from serf, which believes every valid coordinate. Rule 3 is the third invariant of Newton (Seibert et
al., ToN 2014: forces within a multiple of the median), by clipping instead of refusing, so that a real change
of the network is followed; `tests/swim/test_coordinate_liars.py` shows what it is worth.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.swim.vivaldi import Position
from p2pinfer.wire.messages.coordinates import COMPONENT_COUNT_MAX, Coordinate

__all__ = ["CoordinateConfig", "Coordinates"]

_RECENT_COUNT = 64
"""Peers observed last that an observation is held against: enough for a median, cheap to go through."""
_QUORUM = 5
"""Fewer others can be no judges: with five, two liars still lose."""
_ERROR_MIN = 0.001
"""The smallest error, as on the wire: one of zero would never move again."""
_STRIKE_FACTOR = 3.0
"""What is off by more than this multiple of what counts whole is no noise."""
_STRIKES_MAX = 6
"""A peer that never fits keeps 1/64 of its weight, so that it is not lost for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateConfig:
    """How quickly coordinates follow what is measured, and what is believed."""

    dimension_count: int = 8
    """Components of a coordinate; the same in the whole swarm. 1 to 8. serf; Ledlie et al., IV."""
    error_max: float = 1.5
    """Relative error of a peer that knows nothing yet, and the largest. 0.1 to 10. serf."""
    error_gain: float = 0.25
    """How much an observation changes the own error, c_e. 0.01 to 1. Dabek et al., 3.4; serf."""
    position_gain: float = 0.25
    """How far an observation moves the point, c_c. 0.01 to 1. Dabek et al., 3.4; serf."""
    adjustment_count: int = 20
    """Observations that the adjustment is averaged over; 0 does without. 0 to 1000. serf; Lee et al., V."""
    height_s_min: float = 10e-6
    """The smallest height, seconds: far below any access link. 1e-7 to 0.01. serf."""
    filter_count: int = 3
    """The median of so many round trips to a peer is taken for one. 1 to 31. serf; Ledlie et al., IV."""
    gravity_s: float = 150.0
    """The higher, the more weakly points are drawn to the origin, so that a swarm does not drift away.
    1 to 1e6. serf; Ledlie et al., VI."""
    round_trip_s_max: float = 10.0
    """Longer round trips are no observations, seconds. 0.1 to 10. serf."""
    radius_s_max: float = 5.0
    """No believable point is farther from the origin, seconds: half the longest round trip. 0.05 to 10.
    Extension."""
    height_s_max: float = 2.0
    """No believable height or adjustment is larger, seconds; geostationary satellites have 0.6. 0.01 to 10.
    Extension."""
    step_s_max: float = 0.1
    """No observation moves the point farther, seconds. 0.001 to 10. Extension."""
    outlier_factor: float = 2.0
    """What an observation is off by counts up to this multiple of the median of comparable ones. 1 to 100.
    Two medians are 1.35 standard deviations, Huber's choice (1964): hardly less precise where errors are
    normal. With a fifth of liars that all push one way, from 3 on errors that they cause let them cause more.
    Newton, IV-C, refuses from 5 on; here it is a clip."""
    outlier_floor: float = 0.1
    """It counts at least up to this part of the round trip, or in a network without noise all would be
    outliers. 0 to 1. Extension."""
    peer_count_max: int = 1024
    """Peers of which something is remembered; the one observed longest ago makes room. 8 to 100000."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}: give a value from {low:g} to {high:g}")


_RANGES: dict[str, tuple[float, float]] = {
    "dimension_count": (1, COMPONENT_COUNT_MAX),
    "error_max": (0.1, 10),
    "error_gain": (0.01, 1),
    "position_gain": (0.01, 1),
    "adjustment_count": (0, 1000),
    "height_s_min": (1e-7, 0.01),
    "filter_count": (1, 31),
    "gravity_s": (1, 1e6),
    "round_trip_s_max": (0.1, 10),
    "radius_s_max": (0.05, 10),
    "height_s_max": (0.01, 10),
    "step_s_max": (0.001, 10),
    "outlier_factor": (1, 100),
    "outlier_floor": (0, 1),
    "peer_count_max": (8, 100_000),
}

if set(_RANGES) != {each.name for each in fields(CoordinateConfig)}:  # a new setting without a range
    raise TypeError("every field of CoordinateConfig needs its range in _RANGES")


@dataclass(slots=True)
class _Track:
    """What is remembered of one peer."""

    samples_s: deque[float]
    """The latest round trips, for the filter."""
    round_trip_s: float = math.inf
    """The filtered one."""
    misfit_s: float = math.inf
    """By how much its coordinate was off when it was observed last, before this peer moved."""
    strikes: int = 0
    """How often of late it did not fit where the others did."""
    observed_at: int | None = None
    """Number of the observation."""


@dataclass(frozen=True, slots=True)
class _Judgement:
    """How much of an observation counts, by what the others say."""

    limit_s: float
    is_by_peers: bool
    """Whether enough comparable others stand behind it for a strike."""


@dataclass(slots=True)
class _Self:
    """This peer's own point and what the next adjustment is made of."""

    position: Position
    leftovers_s: deque[float] = field(default_factory=deque)


class Coordinates:
    """This peer's coordinate, moved by each observation of another peer's."""

    __slots__ = ("_config", "_counters", "_number", "_origin", "_rng", "_self", "_tracks")

    def __init__(self, config: CoordinateConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._origin = Position((0.0,) * config.dimension_count, config.height_s_min, 0.0, config.error_max)
        self._self = self._fresh()
        self._tracks: dict[PeerId, _Track] = {}  # the one observed last comes last
        self._number = 0
        self._counters: Counter[str] = Counter()

    @property
    def own(self) -> Coordinate:
        """What this peer says of itself now."""
        return self._self.position.coordinate()

    @property
    def position(self) -> Position:
        """The same, not rounded."""
        return self._self.position

    def observe(self, peer: PeerId, theirs: Coordinate, round_trip_s: float) -> bool:
        """Learn from one round trip to a peer and the coordinate that came with the answer.

        Args:
            peer: Who answered.
            theirs: What it says of itself.
            round_trip_s: Measured here, between the question and the answer.

        Returns:
            False if that cannot be, and was counted and ignored.
        """
        if not 0 < round_trip_s <= self._config.round_trip_s_max:  # false for a NaN
            self._counters["round_trips_refused"] += 1
            return False
        other = Position.of(theirs)
        if not self._is_believable(other):
            self._counters["coordinates_refused"] += 1
            return False
        self.observe_position(peer, other, round_trip_s)
        return True

    def observe_position(self, peer: PeerId, other: Position, round_trip_s: float) -> None:
        """Learn from what is known to be believable already."""
        config, own = self._config, self._self
        track = self._track_of(peer)
        freshness = self._freshness(track)
        track.samples_s.append(round_trip_s)
        round_trip_s = sorted(track.samples_s)[len(track.samples_s) // 2]
        judgement = self._judge(round_trip_s)
        off_s = round_trip_s - own.position.distance_s(other)
        track.round_trip_s, track.misfit_s = round_trip_s, abs(off_s)
        weight = self._weight(other) * freshness / (1 << track.strikes)
        self._strike(track, judgement)
        counted_s = math.copysign(min(abs(off_s), judgement.limit_s), off_s)
        error = own.position.error
        error += config.error_gain * weight * (abs(counted_s) / round_trip_s - error)
        force_s = config.position_gain * weight * counted_s
        force_s = math.copysign(min(abs(force_s), config.step_s_max), force_s)
        moved = own.position.pushed(force_s, other, config.height_s_min, self._rng)
        own.position = replace(moved, error=min(max(error, _ERROR_MIN), config.error_max))
        if track.misfit_s <= judgement.limit_s and freshness:
            self._adjust(other, round_trip_s)
        self._fall(freshness)
        self._number += 1

    def forget(self, peer: PeerId) -> None:
        """A member is dead or gone."""
        self._tracks.pop(peer, None)

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, the own error, and how many peers are remembered."""
        return {
            "observations": self._number,
            "round_trips_refused": self._counters["round_trips_refused"],
            "coordinates_refused": self._counters["coordinates_refused"],
            "observations_clipped": self._counters["observations_clipped"],
            "resets": self._counters["resets"],
            "peers_doubted": sum(track.strikes >= _STRIKES_MAX // 2 for track in self._tracks.values()),
            "peers_tracked": len(self._tracks),
            "error": round(self._self.position.error, 3),
        }

    # ------------------------------------------------------------------ what is believed

    def _is_believable(self, other: Position) -> bool:
        config = self._config
        return (
            len(other.components_s) == config.dimension_count
            and math.hypot(*other.components_s) <= config.radius_s_max
            and other.height_s <= config.height_s_max
            and abs(other.adjustment_s) <= config.height_s_max
        )

    def _judge(self, round_trip_s: float) -> _Judgement:
        """How far an observation may be off and still count whole. The peer's own track comes last."""
        config = self._config
        recent = list(islice(reversed(self._tracks.values()), 1, 1 + _RECENT_COUNT))
        typical_s = _median([round_trip_s, *(track.round_trip_s for track in recent)])
        if len(recent) < _QUORUM:
            return _Judgement(typical_s, is_by_peers=False)
        near_s = [track.misfit_s for track in recent if track.round_trip_s <= 2 * round_trip_s]
        if len(near_s) < _QUORUM:
            # Too few are as close for a judgement: a pair of neighbours far from all others must be able to
            # come together, and one liar nearby must not throw this peer across the map.
            fits_s = config.outlier_factor * _median([track.misfit_s for track in recent])
            return _Judgement(max(fits_s, typical_s / 2), is_by_peers=False)
        floor_s = config.outlier_floor * min(round_trip_s, typical_s)
        return _Judgement(max(config.outlier_factor * _median(near_s), floor_s), is_by_peers=True)

    def _strike(self, track: _Track, judgement: _Judgement) -> None:
        if track.misfit_s <= judgement.limit_s:
            track.strikes = max(0, track.strikes - 1)
            return
        self._counters["observations_clipped"] += 1
        if judgement.is_by_peers and track.misfit_s > _STRIKE_FACTOR * judgement.limit_s:
            track.strikes = min(_STRIKES_MAX, track.strikes + 1)

    def _weight(self, other: Position) -> float:
        """Dabek et al., 3.4: who is surer of its place moves less.

        Nobody is believed to be surer than this peer itself, or a liar that claims to be would have twice the
        weight of the honest; a newcomer pays with half of its first steps.
        """
        error = self._self.position.error
        return error / (error + max(other.error, error))

    def _freshness(self, track: _Track) -> float:
        """Less than 1 for a peer that comes again before a quarter of the others had their turn."""
        others = len(self._tracks) - 1
        if track.observed_at is None or others == 0:
            freshness = 1.0
        else:
            freshness = min(1.0, (self._number - track.observed_at) / (others / 4))
        track.observed_at = self._number + 1
        return freshness

    def _track_of(self, peer: PeerId) -> _Track:
        track = self._tracks.pop(peer, None)
        if track is None:
            if len(self._tracks) >= self._config.peer_count_max:
                del self._tracks[next(iter(self._tracks))]
            track = _Track(deque(maxlen=self._config.filter_count))
        self._tracks[peer] = track
        return track

    # ------------------------------------------------------------------ how the point moves

    def _adjust(self, other: Position, round_trip_s: float) -> None:
        """Lee et al., V: half of what springs leave over, on average over a fixed window."""
        count, own = self._config.adjustment_count, self._self
        if count == 0:
            return
        own.leftovers_s.append(round_trip_s - own.position.raw_distance_s(other))
        if len(own.leftovers_s) > count:
            own.leftovers_s.popleft()
        limit_s = self._config.height_s_max
        adjustment_s = min(max(sum(own.leftovers_s) / (2 * count), -limit_s), limit_s)
        own.position = replace(own.position, adjustment_s=adjustment_s)

    def _fall(self, freshness: float) -> None:
        """Ledlie et al., VI: gravity. And begin anew where others would not believe this peer any more."""
        own, config = self._self, self._config
        pull_s = (self._origin.distance_s(own.position) / config.gravity_s) ** 2 * freshness
        own.position = own.position.pushed(-pull_s, self._origin, config.height_s_min, self._rng)
        if not self._is_believable(own.position):
            self._counters["resets"] += 1
            self._self = self._fresh()

    def _fresh(self) -> _Self:
        return _Self(self._origin)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
