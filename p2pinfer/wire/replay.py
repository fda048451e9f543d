"""Which datagrams were seen before: a sliding window of sequence numbers for each sender. Pure.

The window is that of IPsec (RFC 4303, section 3.4.3): the highest number seen and a bitmap of those below.
`check` changes nothing; `advance` is called once the signature was found good, so that a forger cannot move
a window. Memory is bounded: a sender is forgotten only once all that it said lies outside the time window,
where it is refused for its age. Until then newcomers are turned away, so that a crowd of made-up senders
cannot push out those that are known.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pinfer.errors import ConfigError, ReplayError
from p2pinfer.ids import PeerId

__all__ = ["ReplayWindow"]

WINDOW_COUNT = 1024
"""Numbers below the highest that may still come: reordering on a network stays far below."""
SENDERS_COUNT_MAX = 4096
"""Senders remembered, about 400 bytes each: four times the members that SWIM is meant for."""


class ReplayWindow:
    """The sequence numbers seen, by sender.

    Invariant: the lowest bit of a sender's bitmap stands for its highest number, and is set.
    """

    __slots__ = ("_mask", "_senders", "_senders_count_max", "_window_count")

    def __init__(self, window_count: int = WINDOW_COUNT, senders_count_max: int = SENDERS_COUNT_MAX) -> None:
        if window_count < 1 or senders_count_max < 1:
            raise ConfigError("window_count and senders_count_max are at least 1")
        self._window_count = window_count
        self._mask = (1 << window_count) - 1
        self._senders_count_max = senders_count_max
        self._senders: OrderedDict[PeerId, tuple[int, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._senders)

    def check(self, sender: PeerId, sequence: int, oldest_ms: int) -> None:
        """Refuse what was seen, or what could not be remembered. Changes nothing.

        Args:
            sender: Who claims to have sent it.
            sequence: Its number.
            oldest_ms: The earliest time that a datagram may have now: older ones never reach this check.

        Raises:
            ReplayError: Seen before, below the sender's window, or an unknown sender while there is no room.
        """
        known = self._senders.get(sender)
        if known is None:
            if len(self._senders) >= self._senders_count_max and not self._oldest_is_stale(oldest_ms):
                raise ReplayError(f"more than {self._senders_count_max} senders at a time")
            return
        highest, seen, _ = known
        age = highest - sequence
        if age >= self._window_count:
            raise ReplayError(f"sequence {sequence} is {age} below the sender's highest")
        if age >= 0 and seen >> age & 1:
            raise ReplayError(f"sequence {sequence} was seen before")

    def advance(self, sender: PeerId, sequence: int, time_ms: int) -> None:
        """Remember a number that `check` let pass and whose sender proved itself."""
        known = self._senders.get(sender)
        if known is None:
            if len(self._senders) >= self._senders_count_max:
                self._senders.popitem(last=False)
            self._senders[sender] = (sequence, 1, time_ms)
            return
        highest, seen, latest_ms = known
        if sequence > highest:
            ahead = sequence - highest
            # A jump of any size: only what stays inside the window is shifted.
            seen = (seen << ahead & self._mask | 1) if ahead < self._window_count else 1
            highest = sequence
        else:
            seen |= 1 << (highest - sequence)
        self._senders[sender] = (highest, seen, max(latest_ms, time_ms))
        self._senders.move_to_end(sender)

    def _oldest_is_stale(self, oldest_ms: int) -> bool:
        """Whether all that the sender heard least recently ever said is refused for its age by now."""
        _, _, latest_ms = next(iter(self._senders.values()))
        return latest_ms < oldest_ms
