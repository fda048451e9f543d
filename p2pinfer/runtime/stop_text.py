"""Ends an answer at a text, which may be spread over several tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopText"]


class StopText:
    """Passes text on, but holds back what may yet turn out to be the start of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.has_stopped = False

    def push(self, text: str) -> str:
        """Take the next piece and return what is certain not to belong to a stop text."""
        self._held += text
        found = min((i for stop in self._stops if (i := self._held.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.has_stopped = True
            given, self._held = self._held[:found], ""
            return given
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        given, self._held = self._held[:cut], self._held[cut:]
        return given

    def flush(self) -> str:
        """Return what was held back: the answer ended before it became a stop text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that a stop text begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
