"""What liars among the members can do to the coordinates of the honest: the evidence for rule 3 of the core.

Attacks are those of Newton (Seibert et al., ToN 2014, III) and of Zage and Nita-Rotaru (CCS 2007): inflation,
deflation, oscillation, and frog-boiling, where each lie is too small to be noticed. A liar knows the swarm's
coordinates, lies to each victim differently, claims no error at all, and can delay its answers at will.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from p2pinfer.swim.coordinates import Coordinates
from p2pinfer.swim.vivaldi import Position
from tests.swim.coordinate_tools import PLAIN, Errors, Network, Truth, errors, lan, sites

COUNT = 40
ROUNDS = 220


@dataclass(frozen=True)
class Victim:
    index: int
    own: Position
    honest: Position
    """Where the liar really is."""
    round_trip_s: float
    round_index: int


Lie = Callable[[Victim, random.Random], tuple[Position, float]]


def point(rng: random.Random, dimension_count: int, radius_s: float, height_s: float = 1e-5) -> Position:
    direction = [rng.gauss(0, 1) for _ in range(dimension_count)]
    share = radius_s / math.hypot(*direction)
    return Position(tuple(each * share for each in direction), height_s, 0.0, 0.0)


def constant(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return Position((3.0,) + (0.0,) * 7, 1e-5, 0.0, 0.0), victim.round_trip_s


def huge(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return point(rng, 8, rng.uniform(1.0, 4.9), rng.uniform(0, 1)), victim.round_trip_s


def oscillate(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return point(rng, 8, rng.uniform(0, 0.4)), victim.round_trip_s + rng.uniform(0, 0.5)


def deflate(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return Position((0.0,) * 8, 1e-5, 0.0, 0.0), victim.round_trip_s


def repel(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    """Claims to stand beside each victim, on the same side, and answers late."""
    near = tuple(each + 1e-5 for each in victim.own.components_s)
    return replace(victim.own, components_s=near, error=0.0), victim.round_trip_s * 3


def late(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return Position((0.0,) * 8, 1e-3, 0.0, 0.0), victim.round_trip_s + 2.0


def tall(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    return replace(victim.own, height_s=1.9, error=0.0), victim.round_trip_s


def boil_frogs(victim: Victim, rng: random.Random) -> tuple[Position, float]:
    """Pulls one half of the victims one way and the other half the other, a little more each round."""
    most_s = 0.6 * victim.round_trip_s
    shift_s = min(most_s, victim.round_index * 0.0005) * (1 if victim.index % 2 else -1)
    first, *others = victim.honest.components_s
    return replace(victim.honest, components_s=(first + shift_s, *others), error=0.0), victim.round_trip_s


LIES: tuple[Lie, ...] = (constant, huge, oscillate, deflate, repel, late, tall, boil_frogs)


def run(
    truth: Truth, lie: Lie | None, *, share: float = 0.2, round_count: int = ROUNDS, **settings: Any
) -> Errors:
    """Probe round-robin as SWIM does, with jitter and slow answers; return the errors among the honest."""
    network = Network(truth, 1, **settings)
    rng = network.rng
    count = len(truth)
    liars = set(rng.sample(range(count), int(count * share))) if lie else set()
    rings = [rng.sample([j for j in range(count) if j != i], count - 1) for i in range(count)]
    for number in range(round_count):
        for i, node in enumerate(network.nodes):
            j = rings[i][number % (count - 1)]
            slow_s = rng.expovariate(50) if rng.random() < 0.03 else 0.0
            round_trip_s = truth[i][j] * rng.lognormvariate(0, 0.05) + slow_s
            theirs = network.nodes[j].position
            if lie and j in liars and i not in liars:
                victim = Victim(i, node.position, theirs, round_trip_s, number)
                theirs, round_trip_s = lie(victim, rng)
            node.observe(network.peers[j], theirs.coordinate(), round_trip_s)
    honest = [i for i in range(count) if i not in liars]
    return errors([node.position for node in network.nodes], truth, honest)


@pytest.fixture(scope="module")
def quiet() -> dict[str, Errors]:
    """The same networks without liars."""
    return {
        "sites": run(sites(COUNT, 1), None),
        "world": run(sites(COUNT, 1, scatter=True), None),
        "lan": run(lan(COUNT, 1), None, round_count=2 * ROUNDS),
    }


def name_of(lie: Lie) -> str:
    return lie.__name__


@pytest.mark.parametrize("lie", LIES, ids=name_of)
def test_a_fifth_of_liars_does_little_harm_around_the_world(lie: Lie, quiet: dict[str, Errors]) -> None:
    """The median error of honest pairs stays within 2.2 times that without liars, and below 15%."""
    for name, truth in (("sites", sites(COUNT, 1)), ("world", sites(COUNT, 1, scatter=True))):
        found = run(truth, lie)
        assert found.median < 2.2 * quiet[name].median, name
        assert found.median < 0.15, name


@pytest.mark.parametrize("lie", LIES, ids=name_of)
def test_a_fifth_of_liars_does_little_harm_in_a_lan(lie: Lie, quiet: dict[str, Errors]) -> None:
    """Tenths of a millisecond beside lies of seconds: within 4 times, and below 25%, if it takes longer."""
    found = run(lan(COUNT, 1), lie, round_count=2 * ROUNDS)
    assert found.median < 4 * quiet["lan"].median
    assert found.median < 0.25


@pytest.mark.parametrize("lie", LIES, ids=name_of)
def test_a_tenth_of_liars_is_hardly_noticed(lie: Lie, quiet: dict[str, Errors]) -> None:
    assert run(sites(COUNT, 1), lie, share=0.1).median < 1.4 * quiet["sites"].median


@pytest.mark.parametrize("lie", [huge, oscillate, repel, tall], ids=name_of)
def test_believing_everybody_the_same_liars_ruin_the_map(
    lie: Lie, quiet: dict[str, Errors], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacks are real: without the bounds, as in serf, the honest are lost."""
    monkeypatch.setattr(Coordinates, "_strike", lambda *_: None)
    everything: dict[str, Any] = {**PLAIN, "step_s_max": 10.0}
    found = run(sites(COUNT, 1), lie, **everything)
    assert found.median > 2 * quiet["sites"].median


def test_a_newcomer_finds_its_place_among_liars(quiet: dict[str, Errors]) -> None:
    """Everybody is a newcomer at once in `run`; here one joins an old swarm, and meets liars first."""
    truth = sites(COUNT, 1)
    network = Network(truth, 1)
    network.run(ROUNDS)
    newcomer, rng = 0, random.Random(2)
    mine = Network(truth, 9).nodes[newcomer]
    order = list(range(COUNT - 10, COUNT)) + list(range(1, COUNT - 10))
    for number in range(6 * len(order)):
        j = order[number % len(order)]
        theirs, round_trip_s = network.nodes[j].position, truth[newcomer][j]
        if j >= COUNT - 10:
            theirs, round_trip_s = huge(Victim(newcomer, mine.position, theirs, round_trip_s, number), rng)
        mine.observe(network.peers[j], theirs.coordinate(), round_trip_s)
    off = [
        abs(mine.position.distance_s(network.nodes[j].position) / truth[newcomer][j] - 1)
        for j in range(1, COUNT - 10)
    ]
    assert statistics.median(off) < 2 * quiet["sites"].median + 0.03
    assert mine.statistics()["peers_doubted"] >= 5


def test_two_hundred_peers_stand_it_as_well() -> None:
    truth = sites(200, 3)
    quiet, found = run(truth, None, round_count=100), run(truth, huge, round_count=100)
    assert found.median < 2 * quiet.median


def test_a_fifth_of_liars_cannot_push_the_swarm_off_the_map() -> None:
    """All push the same way, which no distance among the honest tells of; beyond the map all begin anew."""
    truth = sites(30, 1)
    network = Network(truth, 1)
    liars, honest = range(6), range(6, 30)
    for _ in range(600):
        for i, node in enumerate(network.nodes):
            j = network.rng.randrange(30)
            if j == i:
                continue
            theirs, round_trip_s = network.nodes[j].position, truth[i][j]
            if j in liars and i in honest:
                first, *others = node.position.components_s
                theirs = replace(node.position, components_s=(first - 1e-4, *others), error=0.0)
                round_trip_s *= 3
            node.observe(network.peers[j], theirs.coordinate(), round_trip_s)
    points = [network.nodes[i].position.components_s for i in honest]
    centre = [statistics.mean(axis) for axis in zip(*points, strict=True)]
    assert math.hypot(*centre) < 0.25
    assert not any(network.nodes[i].statistics()["resets"] for i in honest)
