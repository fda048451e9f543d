"""A host's own clock: the world's time, displaced and running fast or slow, and never going backwards.

host time = world time + offset_s + drift * (world time - when the drift began).
"""

from __future__ import annotations

__all__ = ["HostClock"]


class HostClock:
    """Reads host time from world time, and finds the world time at which a host deadline falls."""

    __slots__ = ("_drift", "_floor_s", "_offset_s", "_since_s", "_true")

    def __init__(self, start_s: float) -> None:
        self._offset_s = 0.0
        self._drift = 0.0
        self._since_s = start_s
        self._floor_s = start_s
        self._true = True

    def skew(self, offset_s: float, drift: float, world_s: float) -> None:
        """Set the displacement from the world's time and the drift, in seconds a second, from now on.

        Raises:
            ValueError: The clock would stand still or run backwards.
        """
        if drift <= -1.0:
            raise ValueError(f"a clock's drift is above -1 second a second, not {drift}")
        self._offset_s, self._drift, self._since_s = offset_s, drift, world_s
        self._true = offset_s == 0.0 and drift == 0.0

    def read(self, world_s: float, at_least_s: float = 0.0) -> float:
        """Return the host's time; never less than what was read before, nor than `at_least_s`.

        `at_least_s` is the deadline that a tick was planned for: it keeps a rounded division from making
        every tick of a skewed host one part in 2**52 early.
        """
        host_s = world_s
        if not self._true:
            host_s += self._offset_s + self._drift * (world_s - self._since_s)
        if host_s < at_least_s:
            host_s = at_least_s
        if host_s < self._floor_s:
            return self._floor_s
        self._floor_s = host_s
        return host_s

    def world_time(self, host_s: float) -> float:
        """Return the world time at which this clock shows `host_s`."""
        if self._true:
            return host_s
        return (host_s - self._offset_s + self._drift * self._since_s) / (1.0 + self._drift)
