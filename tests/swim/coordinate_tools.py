"""Networks of known round trips, and peers that learn their coordinates in them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

from p2pinfer.ids import PeerId
from p2pinfer.swim.coordinates import CoordinateConfig, Coordinates
from p2pinfer.swim.vivaldi import Position

Truth = list[list[float]]

PLAIN = {"outlier_factor": 100.0, "outlier_floor": 1.0}
"""Settings with which nearly nothing is an outlier: Vivaldi as it is in serf."""


def peers(count: int) -> list[PeerId]:
    return [PeerId(index.to_bytes(32, "big")) for index in range(count)]


def matrix(count: int, round_trip_s: Callable[[int, int], float]) -> Truth:
    truth = [[0.0] * count for _ in range(count)]
    for i, j in itertools.combinations(range(count), 2):
        truth[i][j] = truth[j][i] = round_trip_s(i, j)
    return truth


class Errors(NamedTuple):
    """Relative errors of estimated round trips over all pairs."""

    mean: float
    median: float
    p90: float
    maximum: float


def errors(
    positions: list[Position], truth: Truth, among: list[int] | None = None, truth_s_min: float = 0.0
) -> Errors:
    found = sorted(
        abs(positions[i].distance_s(positions[j]) - truth[i][j]) / truth[i][j]
        for i, j in itertools.combinations(among or range(len(positions)), 2)
        if truth[i][j] >= truth_s_min
    )
    return Errors(sum(found) / len(found), found[len(found) // 2], found[int(len(found) * 0.9)], found[-1])


class Network:
    """Peers that observe each other, as serf's own simulation does: each another at random in every cycle."""

    def __init__(self, truth: Truth, seed: int, **settings: float) -> None:
        self.truth = truth
        self.rng = random.Random(seed)
        self.peers = peers(len(truth))
        config = CoordinateConfig(**settings)  # type: ignore[arg-type]
        self.nodes = [Coordinates(config, random.Random(seed * 1000 + i)) for i in range(len(truth))]

    def run(self, cycle_count: int, *, over_the_wire: bool = False) -> Errors:
        count = len(self.nodes)
        for _ in range(cycle_count):
            for i, node in enumerate(self.nodes):
                j = self.rng.randrange(count)
                if j != i and over_the_wire:
                    node.observe(self.peers[j], self.nodes[j].own, self.truth[i][j])
                elif j != i:
                    node.observe_position(self.peers[j], self.nodes[j].position, self.truth[i][j])
        return errors([node.position for node in self.nodes], self.truth)


def line() -> Truth:
    return matrix(10, lambda i, j: 0.010 * (j - i))


def grid() -> Truth:
    return matrix(25, lambda i, j: 0.010 * math.hypot(i % 5 - j % 5, i // 5 - j // 5))


def split() -> Truth:
    """Two sites: 1 ms in each, 11 ms between them."""
    return matrix(25, lambda i, j: 0.001 + (0.010 if (i <= 12) != (j <= 12) else 0.0))


def circle() -> Truth:
    """Peers on a circle of 100 ms, and peer 0 twice as far from each as the centre is."""

    def round_trip_s(i: int, j: int) -> float:
        a, b = 2 * math.pi * i / 25, 2 * math.pi * j / 25
        return 0.2 if i == 0 else 0.1 * math.hypot(math.cos(a) - math.cos(b), math.sin(a) - math.sin(b))

    return matrix(25, round_trip_s)


def noise() -> Truth:
    """Round trips that fit into no space."""
    rng = random.Random(1)
    return matrix(25, lambda i, j: rng.gauss(0.1, 0.01))


def sites(count: int, seed: int, *, scatter: bool = False) -> Truth:
    """Sites around the world, or peers everywhere, with access links of a few ms; detours of 8%."""
    rng = random.Random(seed)
    centres = [[rng.uniform(0, 0.12) for _ in range(3)] for _ in range(count if scatter else 6)]
    places = [centres[i] if scatter else rng.choice(centres) for i in range(count)]
    links_s = [rng.lognormvariate(-6.0, 0.8) for _ in range(count)]

    def round_trip_s(i: int, j: int) -> float:
        return (math.dist(places[i], places[j]) + links_s[i] + links_s[j]) * rng.lognormvariate(0, 0.08)

    return matrix(count, round_trip_s)


def lan(count: int, seed: int) -> Truth:
    rng = random.Random(seed)
    links_s = [rng.uniform(0.0001, 0.0003) for _ in range(count)]
    return matrix(count, lambda i, j: (links_s[i] + links_s[j]) * rng.lognormvariate(0, 0.08))


def minorities(count: int, seed: int) -> Truth:
    """A LAN of three fifths of the peers, and two more far away."""
    rng = random.Random(seed)
    centres = [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.1, 0.0), (0.05, 0.08)]
    links_s = [rng.uniform(0.0001, 0.0003) for _ in range(count)]

    def round_trip_s(i: int, j: int) -> float:
        way_s = math.dist(centres[i % 5], centres[j % 5]) + links_s[i] + links_s[j]
        return way_s * rng.lognormvariate(0, 0.03)

    return matrix(count, round_trip_s)
