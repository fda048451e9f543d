"""How long a suspect has."""

from __future__ import annotations

import pytest

from p2pinfer.swim.config import SwimConfig, stretch
from p2pinfer.swim.suspicion import (
    Suspicion,
    confirmations_wanted,
    suspicion_s_min,
    suspicion_timeout_s,
)
from tests.swim.swarm import peer_id

LAN = SwimConfig.lan()


@pytest.mark.parametrize(
    ("confirmations", "wanted", "expected_s"),
    # Lifeguard IV-B with min 2 and max 30: the table of memberlist's own test has these values too.
    [(0, 3, 30.0), (1, 3, 16.0), (2, 3, 7.810), (3, 3, 2.0), (4, 3, 2.0), (0, 0, 2.0), (7, 0, 2.0)],
)
def test_the_timeout_falls_logarithmically(confirmations: int, wanted: int, expected_s: float) -> None:
    assert suspicion_timeout_s(confirmations, wanted, 2.0, 30.0) == pytest.approx(expected_s, abs=1e-3)


@pytest.mark.parametrize(
    ("member_count", "expected_s"), [(1, 4.0), (10, 4.0), (100, 8.0), (1000, 12.0), (5000, 14.796)]
)
def test_the_minimum_grows_with_the_swarm(member_count: int, expected_s: float) -> None:
    assert suspicion_s_min(LAN, member_count) == pytest.approx(expected_s, abs=1e-3)


@pytest.mark.parametrize(("member_count", "expected"), [(1, 0), (2, 0), (3, 0), (4, 2), (1000, 2)])
def test_confirmations_are_wanted_only_where_enough_can_give_them(member_count: int, expected: int) -> None:
    assert confirmations_wanted(LAN, member_count) == expected


@pytest.mark.parametrize(
    ("member_count", "expected"), [(0, 1), (1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (5000, 9)]
)
def test_slow_work_stretches_with_each_doubling(member_count: int, expected: int) -> None:
    assert stretch(member_count) == expected


def test_each_accuser_counts_once_and_no_more_are_kept_than_wanted() -> None:
    suspicion = Suspicion(LAN, 10, peer_id(1), 100.0)
    assert suspicion.deadline == pytest.approx(100 + 24)
    assert not suspicion.confirm(peer_id(1)), "the first accuser is no confirmation"
    assert suspicion.confirm(peer_id(2))
    assert not suspicion.confirm(peer_id(2))
    assert 104 < suspicion.deadline < 124
    assert suspicion.confirm(peer_id(3))
    assert suspicion.deadline == pytest.approx(104)
    assert not any(suspicion.confirm(peer_id(index)) for index in range(4, 200))


def test_time_in_which_we_were_stopped_is_given_back() -> None:
    suspicion = Suspicion(LAN, 3, peer_id(1), 100.0)
    suspicion.postpone(60.0)
    assert suspicion.deadline == pytest.approx(164)
