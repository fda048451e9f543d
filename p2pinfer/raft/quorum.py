"""Majorities, of one set of voters and of the two halves of a joint configuration.

Rules:

1. A majority of n is n // 2 + 1 (extended paper 5.1), and of none everybody: an empty half decides nothing.
2. A joint configuration decides what both halves decide (extended paper, section 6).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping

from p2pinfer.raft.types import Configuration, NodeId

__all__ = ["Verdict", "agreed_value", "has_quorum", "majority", "tally"]


class Verdict(enum.Enum):
    """Where an election stands."""

    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(count: int) -> int:
    """Return how many of `count` voters are a majority."""
    return count // 2 + 1


def has_quorum(configuration: Configuration, nodes: Collection[NodeId]) -> bool:
    """Whether these nodes may decide; of a configuration without voters nobody may."""
    if not configuration.voters:
        return False
    halves = (configuration.voters, configuration.outgoing)
    return all(sum(node in nodes for node in half) >= majority(len(half)) for half in halves if half)


def tally(configuration: Configuration, votes: Mapping[NodeId, bool]) -> Verdict:
    """Return what these votes mean. Votes of others than voters count for nothing."""
    if has_quorum(configuration, {node for node, granted in votes.items() if granted}):
        return Verdict.WON
    refused = {node for node, granted in votes.items() if not granted}
    possible = {node for half in (configuration.voters, configuration.outgoing) for node in half} - refused
    return Verdict.PENDING if has_quorum(configuration, possible) else Verdict.LOST


def agreed_value(configuration: Configuration, value_of: Callable[[NodeId], float]) -> float:
    """Return the highest value that a quorum has reached: a commit index, a round, a time.

    Nothing (-1) without voters.
    """
    agreed = _agreed(configuration.voters, value_of) if configuration.voters else -1
    if configuration.outgoing:
        agreed = min(agreed, _agreed(configuration.outgoing, value_of))
    return agreed


def _agreed(voters: tuple[NodeId, ...], value_of: Callable[[NodeId], float]) -> float:
    values = sorted(map(value_of, voters))
    return values[len(values) - majority(len(values))]
