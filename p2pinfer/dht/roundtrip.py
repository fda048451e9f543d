"""How long to wait for an answer: TCP's estimate of a round trip and its spread.

Source: RFC 6298, section 2. Departs from it: an answer after a repetition counts from the first datagram
(Karn would drop it). That errs on the long side, but a peer slower than the first guess is learnt at all.
"""

from __future__ import annotations

from p2pinfer.dht.config import QueryConfig

__all__ = ["RoundTrip"]

_SMOOTHING = 1 / 8
_SPREAD_SMOOTHING = 1 / 4
_SPREADS = 4


class RoundTrip:
    """A running estimate, of one peer or of all together."""

    __slots__ = ("_mean_s", "_spread_s")

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._spread_s = 0.0

    @property
    def mean_s(self) -> float | None:
        """The smoothed round trip in seconds; None before the first."""
        return self._mean_s

    def add(self, round_trip_s: float) -> None:
        """Take one measured round trip, in seconds."""
        sample_s = max(0.0, round_trip_s)
        if self._mean_s is None:
            self._mean_s, self._spread_s = sample_s, sample_s / 2
            return
        error_s = sample_s - self._mean_s
        self._spread_s += _SPREAD_SMOOTHING * (abs(error_s) - self._spread_s)
        self._mean_s += _SMOOTHING * error_s

    def timeout_s(self, config: QueryConfig) -> float | None:
        """How long to wait for the first datagram's answer, in seconds; None while nothing is known."""
        if self._mean_s is None:
            return None
        wait_s = self._mean_s + _SPREADS * self._spread_s
        return min(max(wait_s, config.timeout_s_min), config.timeout_s_max)
