"""Questions that wait for their answers: when they are due, and how long each repetition waits."""

import random

import pytest

from p2pinfer.dht.queries import Queries, Query, QueryKind
from p2pinfer.wire.messages.dht import DhtPing
from tests.dht.peers import contact


def query(number: int, timeout_s: float = 0.5) -> Query:
    return Query(number, QueryKind.CHECK, contact(number), DhtPing(number), 0.0, timeout_s)


def test_each_repetition_waits_twice_as_long_as_the_one_before() -> None:
    """RFC 6298, section 5.5."""
    queries, one = Queries(random.Random(1)), query(1)
    now = 0.0
    for attempt, wait_s in enumerate([0.5, 1.0, 2.0], start=1):
        one.attempts = attempt
        queries.open(one, now)
        assert queries.deadline == pytest.approx(now + wait_s)
        assert queries.due(now + 0.99 * wait_s) == []
        now += wait_s
        assert queries.due(now) == [one]
    assert queries.deadline is None


def test_a_closed_question_is_never_due_and_holds_nobody_up() -> None:
    queries, one, other = Queries(random.Random(1)), query(1), query(2, 0.8)
    queries.open(one, 0.0)
    queries.open(other, 0.0)
    assert [each.id for each in queries.to_peer(other.to.peer or b"")] == [2]
    queries.close(one)
    assert not queries.is_open(one)
    assert queries.deadline == pytest.approx(0.8)
    assert queries.due(1.0) == [other]
    assert len(queries) == 1
