"""The clock that is handed to every core: seconds since the Unix epoch that never go backwards."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

__all__ = ["Clock"]


_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_steady: Callable[[], float] = (
    time.monotonic if _BOOT_TIME is None else functools.partial(time.clock_gettime, _BOOT_TIME)
)
"""Seconds of a clock that also counts while the machine sleeps, where the system has one.

A laptop that wakes up must see that its records have expired in the meantime.
"""


class Clock:
    """Anchored to the system's date once, then driven by a steady clock: setting the date changes nothing.

    Args:
        steady: Seconds from any origin, never going backwards.
        date: Seconds since the Unix epoch; read once, here.
    """

    def __init__(self, steady: Callable[[], float] = _steady, date: Callable[[], float] = time.time) -> None:
        self._steady = steady
        self._offset_s = date() - steady()

    def now(self) -> float:
        """Seconds since the Unix epoch, as this peer believes."""
        return self._offset_s + self._steady()
