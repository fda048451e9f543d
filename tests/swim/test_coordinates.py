"""Coordinates that peers learn: serf's own tests of its coordinates, and what each rule is for."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError
from p2pinfer.swim.coordinates import CoordinateConfig, Coordinates
from p2pinfer.swim.vivaldi import Position, distance_s
from p2pinfer.wire.messages.coordinates import Coordinate
from tests.swim.coordinate_tools import (
    PLAIN,
    Errors,
    Network,
    Truth,
    circle,
    grid,
    line,
    minorities,
    noise,
    peers,
    sites,
    split,
)
from tests.wire.strategies import messages

SEEDS = range(1, 4)
ORIGIN = Coordinate(components_us=(0,) * 8, height_us=10, adjustment_us=0, error_permille=1500)


def node(seed: int = 1, **settings: float) -> Coordinates:
    return Coordinates(CoordinateConfig(**settings), random.Random(seed))  # type: ignore[arg-type]


def typical(truth: Truth, cycle_count: int, **settings: float) -> Errors:
    """The median over seeds: serf's tolerances are for the one seed of its tests."""
    runs = [Network(truth, seed, **settings).run(cycle_count) for seed in SEEDS]
    return Errors(*(statistics.median(values) for values in zip(*runs, strict=True)))


# ---------------------------------------------------------------------- accuracy


@pytest.mark.parametrize(
    ("network", "mean", "maximum"),
    [(line, 0.0031, 0.0130), (grid, 0.0016, 0.0230), (split, 0.00012, 0.0015), (noise, 0.075, 0.33)],
)
def test_believing_everybody_it_is_as_exact_as_serf(
    network: Callable[[], Truth], mean: float, maximum: float
) -> None:
    """serf, `coordinate/performance_test.go`: its cycles; twice its tolerances, which fit one seed."""
    found = typical(network(), 1000, **PLAIN)
    assert found.mean <= mean * 2
    assert found.maximum <= maximum * 2


@pytest.mark.parametrize(
    ("network", "mean", "maximum"),
    [(line, 0.006, 0.03), (grid, 0.003, 0.03), (split, 0.001, 0.01), (noise, 0.075, 0.66)],
)
def test_clipping_outliers_costs_little_where_nobody_lies(
    network: Callable[[], Truth], mean: float, maximum: float
) -> None:
    found = typical(network(), 1000)
    assert found.mean <= mean
    assert found.maximum <= maximum


@pytest.mark.parametrize("is_plain", [True, False])
def test_height_is_what_no_place_in_the_plane_explains(is_plain: bool) -> None:
    """Dabek et al., 5.4; serf's test of the same name, with its tolerances."""
    network = Network(circle(), 1, dimension_count=2, **(PLAIN if is_plain else {}))
    found = network.run(1000)
    above, *others = [each.position.height_s for each in network.nodes]
    assert above > 0.097
    assert max(others) < 0.003
    assert found.mean <= 0.0028 * 1.2
    assert found.maximum <= 0.064 * 1.2


def test_whole_microseconds_are_fine_enough() -> None:
    """What travels is rounded: 1 ms stays within a few tenths of a per cent."""
    found = Network(split(), 2).run(1500, over_the_wire=True)
    assert found.median < 0.001
    assert found.p90 < 0.005


def test_a_minority_far_from_a_lan_finds_its_place() -> None:
    """Who is far from the most moves; who is near them stays. A robust estimate might keep both apart."""
    for seed in (1, 2):
        network = Network(minorities(40, seed), seed)
        found = network.run(600)
        far = errors_between(network, 3, 4)
        assert found.median < 0.15
        assert statistics.median(far) < 0.15


def errors_between(network: Network, one: int, other: int) -> list[float]:
    """Relative errors between the peers of two sites of `minorities`."""
    count = len(network.nodes)
    return [
        abs(network.nodes[i].position.distance_s(network.nodes[j].position) / network.truth[i][j] - 1)
        for i in range(one, count, 5)
        for j in range(other, count, 5)
    ]


def test_gravity_keeps_a_swarm_from_drifting_away() -> None:
    """Ledlie et al., VI; serf's drift test: a square far from the origin comes nearer and keeps its shape."""

    def centre_s(network: Network) -> float:
        points = [each.position.components_s for each in network.nodes]
        middle = [(min(axis) + max(axis)) / 2 for axis in zip(*points, strict=True)]
        return math.hypot(*middle)

    # Gravity is twenty-five times stronger than serf's, so that few cycles show it.
    corners = [(0.3, 0.3), (0.3, 0.4), (0.4, 0.4), (0.4, 0.3)]
    truth = [[math.dist(a, b) for b in corners] for a in corners]
    networks = [Network(truth, 1, dimension_count=2, gravity_s=g) for g in (30.0, 1e6)]
    for network in networks:
        for each, corner in zip(network.nodes, corners, strict=True):
            each._self.position = Position(corner, 1e-5, 0.0, 0.1)
        network.run(1500)
    assert centre_s(networks[0]) < 0.8 * centre_s(networks[1])
    assert networks[0].run(1).maximum < 0.05


def test_coordinates_stay_true_for_hours() -> None:
    """Where round trips fit into no space, serf's rule for heights lets the errors grow without end."""
    network = Network(noise(), 1)
    early = network.run(1000)
    late = network.run(3000)
    assert late.mean < early.mean * 1.3


def test_a_change_of_the_network_is_followed() -> None:
    """All round trips change at once, as when a peer's uplink does: its old place is no excuse."""
    truth = sites(30, 1)
    network = Network(truth, 1)
    before = network.run(300)
    for i in range(1, 30):
        truth[0][i] += 0.08
        truth[i][0] += 0.08
    network.run(300)
    own = network.nodes[0].position
    off = [abs(own.distance_s(network.nodes[i].position) / truth[0][i] - 1) for i in range(1, 30)]
    assert statistics.median(off) < 2 * before.median + 0.05


# ---------------------------------------------------------------------- what is refused and forgotten


@pytest.mark.parametrize("round_trip_s", [0.0, -1.0, 10.001, math.inf, -math.inf, math.nan])
def test_an_impossible_round_trip_is_refused(round_trip_s: float) -> None:
    """serf: 0 to 10 s."""
    mine = node()
    before = mine.own
    assert not mine.observe(peers(1)[0], ORIGIN, round_trip_s)
    assert mine.own == before
    assert mine.statistics()["round_trips_refused"] == 1
    assert mine.statistics()["peers_tracked"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"components_us": (9_000_000,) + (0,) * 7},
        {"components_us": (2_000_000,) * 8},
        {"components_us": (0,) * 7},
        {"components_us": ()},
        {"height_us": 2_000_001},
        {"adjustment_us": -2_000_001},
    ],
)
def test_a_coordinate_that_no_peer_has_is_refused(changes: dict[str, object]) -> None:
    mine = node()
    before = mine.own
    assert not mine.observe(peers(1)[0], dataclasses.replace(ORIGIN, **changes), 0.1)  # type: ignore[arg-type]
    assert mine.own == before
    assert mine.statistics()["coordinates_refused"] == 1


def test_what_is_remembered_of_peers_is_bounded_and_forgotten() -> None:
    mine = node(peer_count_max=8)
    names = peers(50)
    for name in names:
        assert mine.observe(name, ORIGIN, 0.05)
    assert mine.statistics()["peers_tracked"] == 8
    mine.forget(names[-1])
    mine.forget(names[0])
    assert mine.statistics()["peers_tracked"] == 7


def test_one_slow_answer_is_filtered_out() -> None:
    """Ledlie et al., IV: the median of the last round trips to a peer stands for all."""
    mine = node()
    first, other = peers(2)
    theirs = dataclasses.replace(ORIGIN, components_us=(20_000,) + (0,) * 7, error_permille=100)
    for _ in range(60):
        mine.observe(first, theirs, 0.02)
        mine.observe(other, ORIGIN, 0.02)
    before = mine.position
    mine.observe(first, theirs, 3.0)
    assert math.dist(before.components_s, mine.position.components_s) < 0.001


def test_a_peer_that_comes_again_and_again_counts_once() -> None:
    mine = node()
    names = peers(10)
    truthful = dataclasses.replace(ORIGIN, components_us=(20_000,) + (0,) * 7, error_permille=100)
    for _ in range(40):
        for name in names:
            mine.observe(name, truthful, 0.02)
    before = mine.position
    lie = dataclasses.replace(ORIGIN, components_us=(0, 20_000) + (0,) * 6, error_permille=0)
    for _ in range(1000):
        mine.observe(names[0], lie, 0.2)
    assert math.dist(before.components_s, mine.position.components_s) < 0.002


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12), messages(Coordinate), st.floats(1e-9, 10.0)), max_size=60),
    st.integers(0, 100),
)
def test_whatever_comes_the_own_coordinate_can_be_told(
    observations: list[tuple[int, Coordinate, float]], seed: int
) -> None:
    """No NaN, no infinity, nothing out of bounds, no exception, and one step is never longer than allowed."""
    config = CoordinateConfig(dimension_count=2)
    mine = Coordinates(config, random.Random(seed))
    names = peers(13)
    for number, theirs, round_trip_s in observations:
        before = mine.position
        mine.observe(names[number], theirs, round_trip_s)
        after = mine.position
        numbers = (*after.components_s, after.height_s, after.adjustment_s, after.error)
        assert all(map(math.isfinite, numbers))
        assert 0 < after.error <= config.error_max
        assert after.height_s >= config.height_s_min
        moved_s = math.dist(before.components_s, after.components_s)
        assert moved_s <= config.step_s_max + 0.01 or mine.statistics()["resets"]
        assert node(dimension_count=2).observe(names[0], mine.own, 0.1), "others would not believe it"
        assert (distance_s(mine.own, theirs) is None) == (len(theirs.components_us) != 2)


@pytest.mark.parametrize(
    "change",
    [{"dimension_count": 9}, {"error_gain": 0.0}, {"radius_s_max": math.nan}, {"peer_count_max": 1}],
)
def test_settings_have_ranges(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        CoordinateConfig(**change)  # type: ignore[arg-type]
