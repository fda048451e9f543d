"""How long things take: a floor and a jitter of a chosen shape, drawn from a given generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

__all__ = ["Latency"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a distribution: `base_s` at least, with a jitter on top.

    Shapes: "uniform" adds up to `jitter_s`; "exponential" adds `jitter_s` on average with a long tail, as
    queues do; "lognormal" adds a median of `jitter_s` with a longer one.
    """

    base_s: float
    jitter_s: float = 0.0
    shape: Literal["uniform", "exponential", "lognormal"] = "uniform"

    def __post_init__(self) -> None:
        if self.base_s < 0 or self.jitter_s < 0:
            raise ValueError(f"a latency is not negative: base_s={self.base_s}, jitter_s={self.jitter_s}")
        if self.shape not in ("uniform", "exponential", "lognormal"):
            raise ValueError(f"{self.shape!r} is no shape of a latency: uniform, exponential or lognormal")

    def draw(self, rng: random.Random) -> float:
        """Return one value in seconds."""
        jitter_s = self.jitter_s
        if not jitter_s:
            return self.base_s
        if self.shape == "uniform":
            return self.base_s + jitter_s * rng.random()
        if self.shape == "exponential":
            return self.base_s + rng.expovariate(1.0 / jitter_s)
        return self.base_s + jitter_s * rng.lognormvariate(0.0, 1.0)
