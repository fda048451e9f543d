"""The addresses given by a person at which the swarm may be found, and when to try each.

Rules:

1. Targets are tried until a member answers anywhere, with doubling waits, and a little at random so that a
   swarm started by one script does not knock in step.
2. Then they sleep. They are woken when this peer is alone again, and one is tried from time to time where
   nobody alive is known: a swarm that fell apart, or was started in two halves, finds itself.
"""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import dataclass

from p2pinfer.ids import Endpoint
from p2pinfer.swim.config import SwimConfig

__all__ = ["JoinTargets"]

_TARGET_COUNT_MAX = 64


@dataclass(slots=True)
class _Target:
    attempt_count: int = 0
    due_at: float | None = None
    """When to try (again); None while it sleeps."""

    def is_due(self, now: float) -> bool:
        return self.due_at is not None and self.due_at <= now


class JoinTargets:
    """Join targets by endpoint, in the order given."""

    __slots__ = ("_config", "_rng", "_targets")

    def __init__(self, config: SwimConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._targets: dict[Endpoint, _Target] = {}

    @property
    def deadline(self) -> float | None:
        """When the next target is to be tried."""
        if not self._targets:
            return None
        return min((each.due_at for each in self._targets.values() if each.due_at is not None), default=None)

    def add(self, endpoint: Endpoint, now: float) -> None:
        """Try an endpoint at once; the oldest sleeping one makes room, else it is ignored."""
        if endpoint not in self._targets and len(self._targets) >= _TARGET_COUNT_MAX:
            sleeping = [each for each, target in self._targets.items() if target.due_at is None]
            if not sleeping:
                return
            del self._targets[sleeping[0]]
        self._targets[endpoint] = _Target(due_at=now)

    def take_due(self, now: float) -> list[Endpoint]:
        """The endpoints to try now; each is due again after its wait unless it answers."""
        due = [each for each, target in self._targets.items() if target.is_due(now)]
        for endpoint in due:
            self._targets[endpoint].attempt_count += 1
            self._wait(self._targets[endpoint], now)
        return due

    def on_failure(self, endpoint: Endpoint, now: float) -> bool:
        """Note that an endpoint cannot be reached; False if it is no target that is being tried."""
        target = self._targets.get(endpoint)
        if target is None or target.due_at is None:
            return False
        self._wait(target, now)
        return True

    def settle(self) -> None:
        """Put all to sleep: the swarm has been found."""
        for target in self._targets.values():
            target.attempt_count, target.due_at = 0, None

    def wake_all(self, now: float) -> None:
        """Try every sleeping target: nobody else is left to ask."""
        for target in self._targets.values():
            if target.due_at is None:
                target.due_at = now

    def choose_sleeping(self, known: Container[Endpoint]) -> Endpoint | None:
        """Draw a sleeping target at which no member is known to live."""
        sleeping = [
            each for each, target in self._targets.items() if target.due_at is None and each not in known
        ]
        return self._rng.choice(sleeping) if sleeping else None

    def _wait(self, target: _Target, now: float) -> None:
        longest_s, shortest_s = self._config.join_retry_s_max, self._config.join_retry_s_min
        wait_s = min(longest_s, shortest_s * 2 ** min(target.attempt_count - 1, 16))
        target.due_at = now + wait_s * self._rng.uniform(0.75, 1.25)
