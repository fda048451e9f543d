"""How long a suspect has to refute: long while one member suspects it, short once several do.

Source: Lifeguard (Dadgar et al.), IV-B, "dynamic suspicion timeout". A peer that is itself slow hears no
confirmations and no refutations, and so waits longest before it takes others for dead.
"""

from __future__ import annotations

import math

from p2pinfer.ids import PeerId
from p2pinfer.swim.config import SwimConfig

__all__ = ["Suspicion", "confirmations_wanted", "suspicion_s_min", "suspicion_timeout_s"]


def suspicion_s_min(config: SwimConfig, member_count: int) -> float:
    """The shortest suspicion in a swarm of that size: it grows as dissemination takes longer."""
    return config.suspicion_factor * max(1.0, math.log10(max(1, member_count))) * config.probe_interval_s


def confirmations_wanted(config: SwimConfig, member_count: int) -> int:
    """How many confirmations bring the timeout down to its minimum; 0 where too few could give them.

    `member_count - 2` could: all but this peer and the suspect.
    """
    wanted = config.suspicion_factor - 2
    return wanted if member_count - 2 >= wanted else 0


def suspicion_timeout_s(confirmations: int, wanted: int, minimum_s: float, maximum_s: float) -> float:
    """From the first suspicion to death: the maximum with none, falling logarithmically to the minimum.

    Source: Lifeguard IV-B: max(min, max - (max - min) * log(C + 1) / log(K + 1)).
    """
    if wanted <= 0:
        return minimum_s
    decay = math.log(confirmations + 1) / math.log(wanted + 1)
    return max(minimum_s, maximum_s - (maximum_s - minimum_s) * decay)


class Suspicion:
    """The clock that runs against one suspect. It remembers at most `wanted` + 1 accusers."""

    __slots__ = ("_accusers", "_maximum_s", "_minimum_s", "_started", "_wanted", "deadline")

    def __init__(self, config: SwimConfig, member_count: int, accuser: PeerId, now: float) -> None:
        self._started = now
        self._wanted = confirmations_wanted(config, member_count) if config.lifeguard else 0
        self._minimum_s = suspicion_s_min(config, member_count)
        self._maximum_s = self._minimum_s * config.suspicion_max_factor
        self._accusers = {accuser}
        self.deadline = self._ends_at()
        """When the suspect is taken for dead, as things stand."""

    def _ends_at(self) -> float:
        confirmations = len(self._accusers) - 1
        return self._started + suspicion_timeout_s(
            confirmations, self._wanted, self._minimum_s, self._maximum_s
        )

    def confirm(self, accuser: PeerId) -> bool:
        """Count another accuser; False if it was counted before or no more are wanted."""
        if accuser in self._accusers or len(self._accusers) > self._wanted:
            return False
        self._accusers.add(accuser)
        self.deadline = self._ends_at()
        return True

    def postpone(self, lag_s: float) -> None:
        """Take out time in which this peer itself was stopped and could not have heard a refutation."""
        self._started += lag_s
        self.deadline += lag_s
