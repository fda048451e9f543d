"""When join targets are tried."""

from __future__ import annotations

import random

from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.joining import JoinTargets
from tests.swim.swarm import endpoint


def targets() -> JoinTargets:
    return JoinTargets(SwimConfig.lan(), random.Random(1))


def test_a_target_is_tried_at_once_and_then_with_doubling_waits_up_to_the_longest() -> None:
    join = targets()
    join.add(endpoint(1), 0.0)
    waits, now = [], 0.0
    for _ in range(9):
        assert join.take_due(now) == [endpoint(1)]
        assert join.take_due(now) == []
        due = join.deadline
        assert due is not None
        waits.append(due - now)
        now = due
    for wait, base in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert 0.75 * base <= wait <= 1.25 * base


def test_time_zero_is_a_time() -> None:
    join = targets()
    join.add(endpoint(1), 0.0)
    assert join.deadline == 0.0
    assert join.take_due(0.0) == [endpoint(1)]


def test_settled_targets_sleep_until_woken() -> None:
    join = targets()
    join.add(endpoint(1), 0.0)
    join.add(endpoint(2), 0.0)
    join.settle()
    assert join.deadline is None
    assert join.take_due(99.0) == []
    assert not join.on_failure(endpoint(1), 99.0), "a sleeping target's failure is no news"
    assert join.choose_sleeping({endpoint(1)}) == endpoint(2)
    assert join.choose_sleeping({endpoint(1), endpoint(2)}) is None
    join.wake_all(100.0)
    assert join.take_due(100.0) == [endpoint(1), endpoint(2)]
    assert join.choose_sleeping(set()) is None


def test_a_failure_is_told_for_targets_alone() -> None:
    join = targets()
    join.add(endpoint(1), 0.0)
    join.take_due(0.0)
    assert join.on_failure(endpoint(1), 0.5)
    assert not join.on_failure(endpoint(2), 0.5)
    due = join.deadline
    assert due is not None
    assert 1.25 <= due <= 1.75


def test_targets_are_bounded_and_sleeping_ones_make_room() -> None:
    join = targets()
    for index in range(100):
        join.add(endpoint(index), 0.0)
    assert len(join.take_due(0.0)) == 64
    join.settle()
    join.add(endpoint(200), 1.0)
    assert join.take_due(1.0) == [endpoint(200)]
