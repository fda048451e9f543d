"""What one peer's bulletin asks and answers, and what it survives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Effect
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import Contact
from p2pinfer.swim.bulletin import EVERYBODY
from p2pinfer.swim.dissemination import BROADCASTS_COUNT_MAX
from p2pinfer.swim.events import HELD_COUNT_MAX
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import QueryAcked, QueryAnswered, QueryAsked, QueryEnded, QueryId
from p2pinfer.swim.queries import ASKED_COUNT_MAX
from p2pinfer.swim.repair import LOG_COUNT_MAX
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import (
    Broadcast,
    BroadcastDigest,
    HeardUpTo,
    Query,
    QueryFilter,
    QueryReply,
    UserEvent,
)
from tests.swim.bulletins import NOW, Member, events_of
from tests.swim.swarm import FAST, contact, endpoint, key, news, peer_id, sent


def query_of(member: Member, **options: Any) -> Query:
    member.bulletin.ask("q", b"?", NOW, **options)
    (query,) = member.told()
    assert isinstance(query, Query)
    return query


# ---------------------------------------------------------------------- queries


def test_a_query_is_put_to_those_it_is_for_and_passed_on_by_all() -> None:
    one, two, three = Member(1, 2, 3), Member(2, 1, 3, name="p2"), Member(3, 1, 2, name="p3")
    query = query_of(one, to=QueryFilter(name_prefix="p2"))
    query_id = QueryId(peer_id(1), query.sequence)
    lasts_s = FAST.gossip_interval_s * 16
    assert two.hear(query) == [QueryAsked(query_id, "q", b"?", NOW + lasts_s)]
    assert three.bulletin.merge(query, NOW) == []
    assert two.told() == three.told() == [query]


def test_answers_are_told_as_they_come_until_all_have_answered() -> None:
    one, two, three = Member(1, 2, 3), Member(2, 1, 3), Member(3, 1, 2)
    query = query_of(one)
    query_id = QueryId(peer_id(1), query.sequence)
    heard: list[object] = []
    for index, member in ((2, two), (3, three)):
        member.hear(query)
        ((to, reply),) = sent(member.bulletin.answer(query_id, b"a%d" % index, NOW + 0.1), QueryReply)
        assert to == contact(1)
        assert member.bulletin.answer(query_id, b"again", NOW + 0.1) == []
        heard += news(one.bulletin.receive(contact(index), reply, NOW + 0.2))
    assert heard == [
        QueryAnswered(query_id, peer_id(2), b"a2"),
        QueryAnswered(query_id, peer_id(3), b"a3"),
        QueryEnded(query_id, ()),
    ]


def test_serf_default_query_timeout_is_sixteen_rounds_for_each_digit() -> None:
    for others, digits in ((8, 1), (9, 2), (98, 2)):
        one = Member(1, *range(2, 2 + others))
        _, effects = one.bulletin.ask("q", b"", NOW)
        assert effects == []
        ends_at = NOW + 0.2 * 16 * digits
        one.bulletin.tick(ends_at - 0.01)
        assert one.bulletin.statistics()["queries_open"] == 1
        (ended,) = news(one.bulletin.tick(ends_at))
        assert isinstance(ended, QueryEnded)
        assert len(ended.silent) == others


def test_acknowledgements_are_sent_where_they_are_wanted() -> None:
    one, two = Member(1, 2), Member(2, 1)
    query = query_of(one, wants_ack=True)
    ((to, ack),) = sent(two.bulletin.merge(query, NOW), QueryReply)
    assert to == contact(1)
    assert news(one.bulletin.receive(contact(2), ack, NOW)) == [
        QueryAcked(QueryId(peer_id(1), query.sequence), peer_id(2))
    ]


def test_no_acknowledgement_is_sent_where_none_is_wanted() -> None:
    one, two = Member(1, 2), Member(2, 1)
    assert sent(two.bulletin.merge(query_of(one), NOW), QueryReply) == []


def test_more_queries_than_may_be_open_are_refused() -> None:
    one, now = Member(1, 2), NOW
    for _ in range(ASKED_COUNT_MAX):
        one.bulletin.ask("q", b"", now, timeout_s=600.0)
        now += 0.2
    with pytest.raises(Overloaded, match="64 queries are open"):
        one.bulletin.ask("q", b"", now)


def test_an_answer_that_fits_no_datagram_is_refused_and_another_may_follow() -> None:
    one, two = Member(1, 2), Member(2, 1)
    query = query_of(one)
    two.hear(query)
    query_id = QueryId(peer_id(1), query.sequence)
    with pytest.raises(LocalProtocolError, match="an answer has at most 1024 bytes, not 1025"):
        two.bulletin.answer(query_id, bytes(1025), NOW)
    with pytest.raises(LocalProtocolError, match="does not fit a datagram: shorten it by"):
        two.bulletin.answer(query_id, bytes(1000), NOW)
    ((_, reply),) = sent(two.bulletin.answer(query_id, bytes(980), NOW), QueryReply)
    assert encoded_size(reply) <= FAST.datagram_body_bytes_max


def test_a_query_that_waited_too_long_for_the_one_before_is_not_put() -> None:
    one, two = Member(1, 2), Member(2, 1)
    first, _ = events_of(one, 2)
    query = query_of(one, timeout_s=1.0)
    two.hear(first, query)
    assert news(two.bulletin.tick(NOW + 1.6)) == []
    assert two.bulletin.statistics()["queries_over"] == 1


def test_a_query_that_comes_long_after_it_was_asked_is_not_put() -> None:
    one, two = Member(1, 2), Member(2, 1)
    query = query_of(one, timeout_s=1.0)
    assert two.hear(query, now=NOW + 1.1 + FAST.clock_skew_s_max) == []
    assert two.told() == [query], "others wait for its number"


def test_a_query_of_nobody_else_in_the_swarm_ends_at_once() -> None:
    alone = Member(1)
    query_id, effects = alone.bulletin.ask("q", b"", NOW)
    assert news(effects) == [QueryEnded(query_id, ())]
    assert alone.bulletin.statistics()["queries_open"] == 0


def test_an_answer_of_a_stranger_or_of_who_was_not_meant_is_ignored() -> None:
    one = Member(1, 2, 3)
    query = query_of(one, to=QueryFilter(peers=(peer_id(2),)))
    reply = QueryReply(sequence=query.sequence, payload=b"lie")
    for index in (3, 8):
        assert one.bulletin.receive(contact(index), reply, NOW) == []
    assert one.bulletin.receive(Contact(None, endpoint(2)), reply, NOW) == []
    assert one.bulletin.statistics()["answers_unasked"] == 1


def test_an_asker_that_died_meanwhile_gets_no_answer() -> None:
    one, two = Member(1, 2), Member(2, 1)
    query = query_of(one)
    two.hear(query)
    asker = two.members.table.get(peer_id(1))
    assert asker is not None
    two.members.table.set_state(peer_id(1), asker, MemberState.DEAD, NOW)
    assert two.bulletin.answer(QueryId(peer_id(1), query.sequence), b"", NOW) == []


# ---------------------------------------------------------------------- whatever comes

BROADCASTS = st.one_of(
    st.builds(
        UserEvent,
        public_key=st.integers(0, 12).map(key),
        sequence=st.integers(0, 60) | st.integers(0, (1 << 63) - 1),
        time_us=st.integers(int(900e6), int(1100e6)) | st.integers(0, (1 << 63) - 1),
        recent=st.integers(0, 63),
        kept=st.integers(0, 511),
        name=st.text("ab", max_size=3),
        payload=st.binary(max_size=9),
    ),
    st.builds(
        Query,
        public_key=st.integers(0, 12).map(key),
        sequence=st.integers(0, 60) | st.integers(0, (1 << 63) - 1),
        time_us=st.integers(int(900e6), int(1100e6)),
        recent=st.integers(0, 63),
        kept=st.integers(0, 511),
        name=st.text("ab", max_size=3),
        payload=st.binary(max_size=9),
        to=st.sampled_from([EVERYBODY, QueryFilter(name_prefix="p"), QueryFilter(peers=(peer_id(0),))]),
        lifetime_ms=st.integers(1, 600_000),
        wants_ack=st.booleans(),
    ),
)
REPLIES = st.builds(
    QueryReply, sequence=st.integers(999_990, 1_000_010), payload=st.binary(max_size=9), is_ack=st.booleans()
)
DIGESTS = st.builds(
    BroadcastDigest,
    heard=st.lists(
        st.builds(
            HeardUpTo, peer=st.integers(0, 12).map(peer_id), next=st.integers(0, 60) | st.just((1 << 63) - 1)
        ),
        max_size=4,
    ).map(tuple),
    window_ms=st.integers(0, 600_000),
    is_whole=st.booleans(),
    is_answer=st.booleans(),
)
INPUTS = st.lists(
    st.tuples(BROADCASTS | REPLIES | DIGESTS, st.integers(0, 12), st.floats(0, 2)), max_size=120
)


@given(INPUTS)
@settings(deadline=None, derandomize=True, max_examples=100, database=None)
def test_garbage_never_raises_grows_without_bound_or_leaves_a_deadline_in_the_past(
    inputs: list[tuple[Broadcast | QueryReply | BroadcastDigest, int, float]],
) -> None:
    me = Member(0, 1, 2, 3, 4, 5, 6)
    me.bulletin.ask("q", b"", NOW)
    now = NOW
    for message, sender, passed_s in inputs:
        now += passed_s
        effects: list[Effect]
        if isinstance(message, QueryReply | BroadcastDigest):
            effects = me.bulletin.receive(contact(sender), message, now)
        else:
            effects = me.bulletin.merge(message, now)
        effects += me.bulletin.tick(now)
        for asked in [each for each in news(effects) if isinstance(each, QueryAsked)]:
            me.bulletin.answer(asked.query, b"a", now)
        state = me.bulletin.statistics()
        assert state["broadcasts_held"] <= HELD_COUNT_MAX
        assert state["broadcasts_queued"] <= BROADCASTS_COUNT_MAX
        assert state["broadcast_senders"] <= 6
        assert state["questions_open"] == 0
        assert state["broadcasts_kept"] <= LOG_COUNT_MAX
        deadline = me.bulletin.deadline
        assert deadline is None or deadline > now
    assert me.bulletin.tick(now + 1000.0) is not None
    assert me.bulletin.deadline is None
