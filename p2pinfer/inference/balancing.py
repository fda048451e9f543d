"""Balancers by name: what a setting may say, and what it makes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from p2pinfer.errors import ConfigError
from p2pinfer.inference.balancer import (
    Balancer,
    BalancingConfig,
    LeastConnections,
    PowerOfTwo,
    RoundRobin,
    WeightedRoundRobin,
)
from p2pinfer.inference.hashing import ConsistentHash, Rendezvous
from p2pinfer.inference.measuring import Adaptive, LeastLatency, ResourceAware

__all__ = ["BALANCERS", "make_balancer"]

BALANCERS: Mapping[str, Callable[[random.Random, BalancingConfig], Balancer]] = MappingProxyType(
    {
        "round_robin": lambda rng, config: RoundRobin(),
        "weighted_round_robin": lambda rng, config: WeightedRoundRobin(),
        "least_connections": lambda rng, config: LeastConnections(),
        "least_latency": lambda rng, config: LeastLatency(config, is_peak=False),
        "peak_latency": lambda rng, config: LeastLatency(config, is_peak=True),
        "power_of_two": lambda rng, config: PowerOfTwo(rng),
        "consistent_hash": lambda rng, config: ConsistentHash(config),
        "client_address": lambda rng, config: Rendezvous(),
        "resource_aware": lambda rng, config: ResourceAware(config),
        "adaptive": lambda rng, config: Adaptive(config),
    }
)
"""By name: how one is made."""


def make_balancer(name: str, *, rng: random.Random, config: BalancingConfig | None = None) -> Balancer:
    """Return a new balancer without members.

    Args:
        name: A key of `BALANCERS`.
        rng: For the strategies that draw.
        config: Settings of the strategies; None for the usual ones.

    Raises:
        ConfigError: There is no such strategy; the message names those there are.
    """
    make = BALANCERS.get(name)
    if make is None:
        raise ConfigError(f"balancer is {name!r}, but must be one of {', '.join(BALANCERS)}")
    return make(rng, config or BalancingConfig())
