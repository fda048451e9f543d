"""Members and runs for the tests of balancers."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import Balancer, BalancingConfig
from p2pinfer.inference.balancing import make_balancer

PICK_COUNT = 100_000


def peers(count: int) -> list[PeerId]:
    return [PeerId(number.to_bytes(32, "big")) for number in range(1, count + 1)]


def made(
    name: str,
    members: Sequence[PeerId] | Mapping[PeerId, float],
    *,
    seed: int = 1,
    config: BalancingConfig | None = None,
) -> Balancer:
    """A balancer with members of weight 1, or of the weights given."""
    balancer = make_balancer(name, rng=random.Random(seed), config=config)
    weights = members if isinstance(members, Mapping) else dict.fromkeys(members, 1.0)
    for peer, weight in weights.items():
        balancer.join(peer, weight)
    return balancer


def must_pick(balancer: Balancer, key: bytes = b"", now: float = 0.0) -> PeerId:
    peer = balancer.pick(key, now)
    assert peer is not None
    return peer


def picked(balancer: Balancer, count: int = PICK_COUNT) -> Counter[PeerId]:
    """Who was picked how often, by that many keys, when nothing is begun."""
    return Counter(must_pick(balancer, b"key %d" % number) for number in range(count))


def closed_loop(
    balancer: Balancer,
    latency_s: Callable[[PeerId, float], float | None],
    *,
    concurrency: int = 1,
    pick_count: int = PICK_COUNT,
) -> Iterator[tuple[PeerId, float]]:
    """Keep as many sessions under way as said, and give each pick with its time.

    `latency_s` says what a session begun now takes; None is a failure after a millisecond.
    """
    now = 0.0
    ends: list[tuple[float, int, PeerId, float | None]] = []
    for number in range(pick_count):
        if len(ends) >= concurrency:
            now, _, peer, taken_s = heapq.heappop(ends)
            balancer.finished(peer, now, taken_s)
        peer = must_pick(balancer, b"key %d" % number, now)
        yield peer, now
        balancer.started(peer, now)
        taken_s = latency_s(peer, now)
        heapq.heappush(ends, (now + (0.001 if taken_s is None else taken_s), number, peer, taken_s))
