"""With whom a query waits, whose answers count, and how many questions are kept."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.swim.news import QueryAcked, QueryAnswered, QueryEnded, QueryId
from p2pinfer.swim.queries import (
    ASKED_COUNT_MAX,
    OWED_COUNT_MAX,
    OWED_PER_ASKER_COUNT_MAX,
    AnswerBook,
    QueryBook,
)
from p2pinfer.wire.messages.events import QueryFilter, QueryReply
from tests.swim.swarm import holding, peer_id, record

ME = peer_id(0)
ONE, TWO, THREE = peer_id(1), peer_id(2), peer_id(3)
QUERY = QueryId(ME, 7)
ALL = QueryFilter()
steady = settings(deadline=None, derandomize=True, max_examples=80, database=None)


def asked(*awaited: int, ends_at: float = 10.0) -> QueryBook:
    book = QueryBook(1.0)
    book.open(QUERY, ALL, [peer_id(each) for each in awaited], 0.0, ends_at)
    return book


def reply(payload: bytes = b"a", *, sequence: int = 7, is_ack: bool = False) -> QueryReply:
    return QueryReply(sequence=sequence, payload=payload, is_ack=is_ack)


# ---------------------------------------------------------------------- filters


def test_a_filter_holds_where_all_that_it_says_holds() -> None:
    mine = record(1, name="gpu-3", holding=holding())
    assert ALL.matches(ONE, mine)
    assert QueryFilter(peers=(TWO, ONE)).matches(ONE, mine)
    assert not QueryFilter(peers=(TWO,)).matches(ONE, mine)
    assert QueryFilter(name_prefix="gpu").matches(ONE, mine)
    assert not QueryFilter(name_prefix="cpu").matches(ONE, mine)
    assert QueryFilter(model="smollm2:135m").matches(ONE, mine)
    assert not QueryFilter(model="smollm2").matches(ONE, mine)
    assert not QueryFilter(model="smollm2:135m").matches(ONE, record(1))
    assert not QueryFilter(peers=(ONE,), name_prefix="cpu").matches(ONE, mine)


# ---------------------------------------------------------------------- asking


def test_a_query_ends_when_all_that_were_asked_have_answered() -> None:
    book = asked(1, 2)
    assert book.hear(ONE, reply(b"x"), is_meant=True) == [QueryAnswered(QUERY, ONE, b"x")]
    assert book.hear(TWO, reply(b"y"), is_meant=True) == [
        QueryAnswered(QUERY, TWO, b"y"),
        QueryEnded(QUERY, ()),
    ]
    assert len(book) == 0
    assert book.deadline == math.inf


def test_a_query_ends_at_its_deadline_and_names_who_stayed_silent() -> None:
    book = asked(3, 1, 2, ends_at=0.9)
    book.hear(ONE, reply(), is_meant=True)
    assert book.deadline == 0.9
    assert book.expire(0.89, lambda peer: True) == []
    assert book.expire(0.9, lambda peer: True) == [QueryEnded(QUERY, tuple(sorted((TWO, THREE))))]
    assert book.hear(TWO, reply(), is_meant=True) == []
    assert book.counters["answers_late"] == 1


def test_the_first_answer_of_a_peer_counts() -> None:
    book = asked(1, 2)
    book.hear(ONE, reply(b"x"), is_meant=True)
    assert book.hear(ONE, reply(b"z"), is_meant=True) == []
    assert book.counters["answers_repeated"] == 1


def test_an_answer_of_a_peer_that_was_not_asked_is_ignored() -> None:
    book = asked(1)
    assert book.hear(TWO, reply(), is_meant=False) == []
    assert book.counters["answers_unasked"] == 1
    assert book.hear(TWO, reply(b"late joiner"), is_meant=True) == [
        QueryAnswered(QUERY, TWO, b"late joiner")
    ], "it joined since, and the filter holds for it"


def test_an_answer_to_no_open_query_is_ignored() -> None:
    assert asked(1).hear(ONE, reply(sequence=8), is_meant=True) == []


def test_who_dies_meanwhile_is_not_waited_for() -> None:
    book = asked(1, 2)
    book.hear(ONE, reply(), is_meant=True)
    assert book.deadline == 1.0
    assert book.expire(1.0, lambda peer: peer != TWO) == [QueryEnded(QUERY, ())]


def test_a_query_to_nobody_known_stays_open_for_those_that_turn_up() -> None:
    book = asked(ends_at=3.0)
    assert book.hear(ONE, reply(), is_meant=True) == [QueryAnswered(QUERY, ONE, b"a")]
    assert book.expire(1.0, lambda peer: True) == []
    assert book.hear(TWO, reply(), is_meant=True) == [QueryAnswered(QUERY, TWO, b"a")]
    assert book.expire(3.0, lambda peer: True) == [QueryEnded(QUERY, ())]


def test_an_acknowledgement_is_told_once_and_is_no_answer() -> None:
    book = asked(1)
    assert book.hear(ONE, reply(b"", is_ack=True), is_meant=True) == [QueryAcked(QUERY, ONE)]
    assert book.hear(ONE, reply(b"", is_ack=True), is_meant=True) == []
    assert book.hear(ONE, reply(b"x"), is_meant=True)[0] == QueryAnswered(QUERY, ONE, b"x")


def test_open_queries_are_counted() -> None:
    book = QueryBook(1.0)
    for sequence in range(ASKED_COUNT_MAX):
        assert not book.is_full
        book.open(QueryId(ME, sequence), ALL, [ONE], 0.0, 5.0)
    assert book.is_full
    assert len(book.expire(5.0, lambda peer: True)) == ASKED_COUNT_MAX
    assert not book.is_full


REPLIES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(6, 8), st.booleans(), st.booleans(), st.floats(0, 0.5)),
    max_size=60,
)


@given(st.sets(st.integers(0, 9)), REPLIES)
@steady
def test_whatever_comes_each_peer_answers_once_and_a_query_ends_once(
    awaited: set[int], replies: list[tuple[int, int, bool, bool, float]]
) -> None:
    book = asked(*awaited, ends_at=4.0)
    now = 0.0
    told: list[object] = []
    for peer, sequence, is_meant, is_ack, passed_s in replies:
        now += passed_s
        told += book.expire(now, lambda each: True)
        told += book.hear(peer_id(peer), reply(sequence=sequence, is_ack=is_ack), is_meant=is_meant)
    told += book.expire(9.0, lambda each: True)
    answers = [each.peer for each in told if isinstance(each, QueryAnswered)]
    assert len(answers) == len(set(answers))
    assert [type(each) for each in told].count(QueryEnded) == 1
    assert isinstance(told[-1], QueryEnded)
    assert len(book) == 0


# ---------------------------------------------------------------------- being asked


def test_a_question_is_answered_once_and_in_time() -> None:
    book = AnswerBook()
    assert book.open(QueryId(ONE, 1), 0.0, 5.0)
    assert not book.open(QueryId(ONE, 1), 0.0, 5.0)
    assert book.close(QueryId(ONE, 1), 4.9)
    assert not book.close(QueryId(ONE, 1), 4.9)
    assert book.open(QueryId(ONE, 2), 0.0, 5.0)
    assert not book.close(QueryId(ONE, 2), 5.0)
    assert not book.close(QueryId(TWO, 2), 0.0)
    assert len(book) == 0


def test_an_askers_newest_questions_are_kept() -> None:
    book = AnswerBook()
    for sequence in range(OWED_PER_ASKER_COUNT_MAX + 1):
        assert book.open(QueryId(ONE, sequence), 0.0, 5.0)
    assert len(book) == OWED_PER_ASKER_COUNT_MAX
    assert not book.close(QueryId(ONE, 0), 1.0)
    assert book.close(QueryId(ONE, OWED_PER_ASKER_COUNT_MAX), 1.0)


def test_many_askers_are_bounded_together_and_what_is_over_makes_room() -> None:
    book = AnswerBook()
    for asker in range(OWED_COUNT_MAX):
        assert book.open(QueryId(peer_id(asker), 1), 0.0, 5.0)
    assert not book.open(QueryId(peer_id(9999), 1), 4.0, 9.0)
    assert book.counters["questions_refused"] == 1
    assert book.open(QueryId(peer_id(9999), 1), 5.0, 9.0)
    assert len(book) == 1
