"""The arithmetic: distances, pushes, and that messages and positions say the same."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.swim.vivaldi import Position, distance_s
from p2pinfer.wire.codec import decode, encode, encoded_size
from p2pinfer.wire.messages.coordinates import Coordinate
from tests.wire.strategies import messages

HEIGHT_S_MIN = 10e-6


def at(*components_s: float, height_s: float = HEIGHT_S_MIN, adjustment_s: float = 0.0) -> Position:
    return Position(components_s, height_s, adjustment_s, 1.0)


def test_a_distance_counts_heights_and_adjustments() -> None:
    """Dabek et al., 5.4; Lee et al., V."""
    a = at(0.0, 0.0, height_s=0.010, adjustment_s=0.002)
    b = at(0.003, 0.004, height_s=0.020, adjustment_s=-0.001)
    assert a.raw_distance_s(b) == pytest.approx(0.035)
    assert a.distance_s(b) == b.distance_s(a) == pytest.approx(0.036)
    assert distance_s(a.coordinate(), b.coordinate()) == pytest.approx(0.036)


def test_adjustments_never_make_a_round_trip_negative() -> None:
    a = at(0.0, adjustment_s=-1.0)
    assert a.distance_s(a) == a.raw_distance_s(a) > 0
    assert distance_s(a.coordinate(), a.coordinate()) == pytest.approx(2e-5)


def test_other_dimensions_have_no_distance() -> None:
    assert distance_s(at(0.0).coordinate(), at(0.0, 0.0).coordinate()) is None


def test_a_push_moves_by_its_force_along_the_line() -> None:
    """Dabek et al., 3.2 (Hooke's law) and 5.4 (the height moves along)."""
    own, other = at(0.0, 0.03, height_s=0.001), at(0.0, 0.0, height_s=0.002)
    away = own.pushed(0.01, other, HEIGHT_S_MIN, random.Random(1))
    assert away.components_s == pytest.approx((0.0, 0.04))
    assert away.height_s == pytest.approx(0.002)
    nearer = own.pushed(-0.01, other, HEIGHT_S_MIN, random.Random(1))
    assert nearer.components_s == pytest.approx((0.0, 0.02))
    assert nearer.height_s == HEIGHT_S_MIN


def test_from_the_same_place_a_push_goes_in_a_random_direction() -> None:
    """Dabek et al., 3.2: two peers that start at one point must be able to part."""
    own = at(0.01, 0.01)
    moved = {own.pushed(0.005, own, HEIGHT_S_MIN, random.Random(seed)).components_s for seed in range(20)}
    assert len(moved) == 20
    assert all(math.dist(each, own.components_s) == pytest.approx(0.005) for each in moved)


@settings(deadline=None, derandomize=True)
@given(messages(Coordinate), messages(Coordinate), st.floats(-0.1, 0.1), st.integers(0, 3))
def test_no_push_moves_farther_than_its_force(
    a: Coordinate, b: Coordinate, force_s: float, seed: int
) -> None:
    if len(a.components_us) != len(b.components_us) or not a.components_us:
        return
    before = Position.of(a)
    after = before.pushed(force_s, Position.of(b), HEIGHT_S_MIN, random.Random(seed))
    slack_s = 1e-9
    assert math.dist(before.components_s, after.components_s) <= abs(force_s) + slack_s
    assert abs(after.height_s - before.height_s) <= max(abs(force_s), HEIGHT_S_MIN) + slack_s


@settings(deadline=None, derandomize=True)
@given(messages(Coordinate))
def test_a_message_and_its_position_are_the_same(coordinate: Coordinate) -> None:
    assert Position.of(coordinate).coordinate() == coordinate
    assert decode(encode(coordinate)) == coordinate


def test_a_typical_coordinate_is_small() -> None:
    """It rides on every Ack: peers on three continents, with access links of a few ms."""
    rng = random.Random(1)
    sizes = [
        encoded_size(
            Coordinate(
                components_us=tuple(round(rng.gauss(0, 25_000)) for _ in range(8)),
                height_us=rng.randint(100, 20_000),
                adjustment_us=rng.randint(-3000, 3000),
                error_permille=rng.randint(20, 400),
            )
        )
        for _ in range(200)
    ]
    assert sum(sizes) / len(sizes) < 42
    largest = Coordinate(
        components_us=(-10_000_000,) * 8, height_us=10_000_000, adjustment_us=-1, error_permille=10_000
    )
    assert encoded_size(largest) <= 56
