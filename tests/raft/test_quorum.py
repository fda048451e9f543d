"""Majorities against the dumbest way to count them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.raft.quorum import Verdict, agreed_value, has_quorum, majority, tally
from p2pinfer.raft.types import Configuration

halves = st.sets(st.integers(1, 7), max_size=5).map(lambda drawn: tuple(sorted(drawn)))
configurations = st.builds(
    lambda new, old: Configuration(voters=new, outgoing=old if new else ()), halves, halves
)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(count: int, needed: int) -> None:
    assert majority(count) == needed


@given(configurations, st.sets(st.integers(1, 7)))
def test_a_quorum_is_more_than_half_of_each_half(configuration: Configuration, nodes: set[int]) -> None:
    sides = [side for side in (configuration.voters, configuration.outgoing) if side]
    expected = bool(configuration.voters) and all(2 * len(nodes & set(side)) > len(side) for side in sides)
    assert has_quorum(configuration, nodes) == expected


@given(configurations)
def test_two_quorums_share_a_node(configuration: Configuration) -> None:
    everybody = sorted({*configuration.voters, *configuration.outgoing})
    groups = [set(group) for size in range(len(everybody) + 1) for group in combinations(everybody, size)]
    quorums = [group for group in groups if has_quorum(configuration, group)]
    assert all(one & other for one in quorums for other in quorums)


@given(configurations, st.dictionaries(st.integers(1, 7), st.integers(0, 9)))
def test_the_agreed_value_is_the_highest_that_a_quorum_reached(
    configuration: Configuration, values: dict[int, int]
) -> None:
    reached = [
        value
        for value in range(10)
        if has_quorum(configuration, {node for node in range(1, 8) if values.get(node, 0) >= value})
    ]
    assert agreed_value(configuration, lambda node: values.get(node, 0)) == max(reached, default=-1)


@given(configurations, st.dictionaries(st.integers(1, 7), st.booleans()))
def test_an_election_is_lost_when_all_other_votes_would_not_win_it(
    configuration: Configuration, votes: dict[int, bool]
) -> None:
    granted = {node for node, vote in votes.items() if vote}
    hopeful = granted | (set(range(1, 8)) - votes.keys())
    if has_quorum(configuration, granted):
        expected = Verdict.WON
    else:
        expected = Verdict.PENDING if has_quorum(configuration, hopeful) else Verdict.LOST
    assert tally(configuration, votes) is expected
