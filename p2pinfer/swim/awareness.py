"""How well this peer itself does: whoever misses answers may be the one that is slow.

Rules:

1. A score from 0 (well) to `health_max` - 1. A probe that is answered lowers it by one; a failed probe raises
   it by the helpers of whom nothing was heard either, or by one where none was asked. Having to refute a
   suspicion of oneself, and having been stopped, raise it by one.
2. Probe interval and probe timeout are the configured ones times the score plus one.

Source: Lifeguard (Dadgar et al. 2017), IV-A, "local health aware probe".
memberlist scales the interval alone.
"""

from __future__ import annotations

from p2pinfer.swim.config import SwimConfig

__all__ = ["Awareness"]


class Awareness:
    """The local health multiplier.

    Invariant: 0 <= score < max(1, health_max).
    """

    __slots__ = ("_max", "score")

    def __init__(self, config: SwimConfig) -> None:
        self._max = max(1, config.health_max) - 1
        self.score = 0

    @property
    def stretch(self) -> int:
        """How many times longer than configured a probe takes now."""
        return self.score + 1

    def answered(self) -> None:
        """A probe of this peer's was answered in time."""
        self._change(-1)

    def unanswered(self, asked_count: int, nack_count: int) -> None:
        """A probe failed.

        Args:
            asked_count: Helpers that were asked.
            nack_count: Those that said that they hear nothing either: they prove that this peer is reached.
        """
        self._change(asked_count - nack_count if asked_count else 1)

    def accused(self) -> None:
        """Somebody suspected this peer of this very incarnation."""
        self._change(1)

    def stopped(self) -> None:
        """This peer did nothing for longer than a probe may take."""
        self._change(1)

    def _change(self, by: int) -> None:
        self.score = min(self._max, max(0, self.score + by))
