"""How long the decisions take that every request, join or failure waits for.

    python -m benchmarks.planning [--json] [--rounds N]

A pick of round robin among 1,000 holders; a chain over 80 layers among 1,000 holders with spans of 4 to 40
layers that overlap in any way, half of the swarms near each other and half across the world; the same with
coordinates of all holders, in eight cities or anywhere, and what it takes to choose the places that they are
at, which is done once in as many news as there are holders; a division of 80
layers among 8 unequal peers with little memory, quick and exact; and the placement of 1,000 unequal peers.
Medians over rounds, each with another swarm from its own seed; nothing is cached between them. What is taken
is this process's CPU time: on a quiet machine it is the clock's, on a busy one the others do not count.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.inference.balancer import RoundRobin
from p2pinfer.inference.partition import Worker, Workload, layerwise, layerwise_quick
from p2pinfer.inference.placement import place
from p2pinfer.inference.places import Places
from p2pinfer.inference.planner import Holder, plan_chain
from p2pinfer.swim.vivaldi import distance_s
from p2pinfer.wire.messages.coordinates import Coordinate

LAYER_COUNT = 80
HOLDER_COUNT = 1000
PICK_COUNT = 10_000
PARTITION_COUNT = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    result = measure(args.rounds)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:24} {value}" for key, value in result.items()))


def measure(round_count: int) -> dict[str, float]:
    """Take the figures, all of them in each round, so that a busy machine slows none alone."""
    times_s: dict[str, list[float]] = {}
    for seed in range(round_count):
        for key, unit_s, run, count in _tasks(random.Random(seed), is_near=seed % 2 == 0):
            began = time.process_time()
            for _ in range(count):
                run()
            times_s.setdefault(key, []).append((time.process_time() - began) / count / unit_s)
    return {key: round(statistics.median(values), 3) for key, values in times_s.items()}


def _tasks(rng: random.Random, *, is_near: bool) -> list[tuple[str, float, Callable[[], object], int]]:
    """Name, unit, what to run and how often, on one random swarm."""
    balancer = RoundRobin()
    for _ in range(HOLDER_COUNT):
        balancer.join(PeerId(rng.randbytes(32)))
    holders = [_holder(rng, is_near=is_near) for _ in range(HOLDER_COUNT)]
    layers = Span(0, LAYER_COUNT)
    places = _places(rng, holders, is_near=is_near)
    group = [_worker(rng, room=(12, 24)) for _ in range(8)]
    workload = Workload(layer_count=LAYER_COUNT)
    swarm = [_worker(rng, room=(1, 40)) for _ in range(HOLDER_COUNT)]
    return [
        ("round_robin_pick_us", 1e-6, lambda: balancer.pick(b"", 0.0), PICK_COUNT),
        ("chain_1000_holders_ms", 1e-3, lambda: plan_chain(holders, layers), 1),
        ("chain_1000_placed_ms", 1e-3, lambda: plan_chain(holders, layers, ways=places.map), 1),
        ("places_1000_ms", 1e-3, places.choose, 1),
        ("partition_8x80_us", 1e-6, lambda: layerwise_quick(group, workload), PARTITION_COUNT),
        ("partition_exact_8x80_ms", 1e-3, lambda: layerwise(group, workload), 1),
        ("placement_1000_ms", 1e-3, lambda: place(LAYER_COUNT, swarm), 1),
    ]


def _holder(rng: random.Random, *, is_near: bool) -> Holder:
    contact = Contact(PeerId(rng.randbytes(32)), Endpoint("192.0.2.1", 7946))
    length = rng.randint(4, 40)
    start = rng.randint(0, LAYER_COUNT - length)
    step_s = length * rng.lognormvariate(-6.9, 0.6)
    round_trip_s = rng.uniform(0.0002, 0.001) if is_near else rng.lognormvariate(-2.5, 0.7)
    return Holder(contact, Span(start, start + length), step_s, rng.choice((0, 0, 0, 1, 2, 4)), round_trip_s)


def _places(rng: random.Random, holders: list[Holder], *, is_near: bool) -> Places:
    """Holders in eight cities, or one by one anywhere, with access links of a few milliseconds."""
    cities = [[rng.randint(-60_000, 60_000) for _ in range(8)] for _ in range(8)]
    places = Places(distance_s)
    places.set_own(_coordinate(rng, cities[0]))
    for holder in holders:
        middle = rng.choice(cities) if is_near else [rng.randint(-60_000, 60_000) for _ in range(8)]
        places.put(holder.peer, _coordinate(rng, middle))
    return places


def _coordinate(rng: random.Random, middle: list[int]) -> Coordinate:
    return Coordinate(
        components_us=tuple(each + rng.randint(-300, 300) for each in middle),
        height_us=round(rng.lognormvariate(7.3, 0.8)),
        adjustment_us=rng.randint(-500, 500),
        error_permille=100,
    )


def _worker(rng: random.Random, room: tuple[int, int]) -> Worker:
    return Worker(
        peer=PeerId(rng.randbytes(32)),
        layer_s=rng.lognormvariate(-6.9, 0.6),
        hop_s=rng.uniform(0.0003, 0.02),
        layer_count_max=rng.randint(*room),
    )


if __name__ == "__main__":
    main()
