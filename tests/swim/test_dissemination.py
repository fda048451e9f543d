"""What is told first, how often, and that it always fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.ids import Endpoint
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.dissemination import Dissemination, retransmit_limit
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.records import Holding
from p2pinfer.wire.messages.swim import Accusation, Ping
from tests.swim.swarm import holding, key, peer_id, record, sign


def accusation(accuser: int, accused: int, incarnation: int = 1, *, dead: bool = False) -> Accusation:
    return sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=dead)
    )


@pytest.mark.parametrize(("member_count", "expected"), [(1, 4), (2, 4), (9, 4), (10, 8), (99, 8), (100, 12)])
def test_the_retransmit_limit_is_logarithmic(member_count: int, expected: int) -> None:
    assert retransmit_limit(4, member_count) == expected


def test_a_statement_is_sent_as_often_as_the_limit_says() -> None:
    queue = Dissemination()
    queue.add_record(peer_id(1), record(1))
    sent = [len(queue.pack(1000, 3, None, first=()).records) for _ in range(5)]
    assert sent == [1, 1, 1, 0, 0]
    assert not queue


def test_the_least_sent_goes_first_and_then_the_newest() -> None:
    queue = Dissemination()
    for index in range(4):
        queue.add_record(peer_id(index), record(index, holding=holding()))
    order = [each.public_key for _ in range(2) for each in queue.pack(500, 2, None, first=()).records]
    assert order == [key(3), key(2), key(1), key(0)]
    queue.add_record(peer_id(9), record(9, holding=holding()))
    assert queue.pack(500, 2, None, first=()).records[0].public_key == key(9)


def test_a_newer_record_takes_the_place_of_all_that_was_said_of_its_owner() -> None:
    queue = Dissemination()
    queue.add_record(peer_id(1), record(1))
    queue.add_accusation(peer_id(2), accusation(2, 1))
    queue.add_accusation(peer_id(3), accusation(3, 1))
    assert len(queue) == 3
    queue.add_record(peer_id(1), record(1, 2))
    told = queue.pack(1000, 1, None, first=())
    assert [each.incarnation for each in told.records] == [2]
    assert told.accusations == ()


def test_word_of_a_death_replaces_suspicions_but_keeps_the_record_it_speaks_of() -> None:
    queue = Dissemination()
    queue.add_record(peer_id(1), record(1))
    queue.add_accusation(peer_id(2), accusation(2, 1))
    queue.add_accusation(peer_id(3), accusation(3, 1))
    queue.add_accusation(peer_id(4), accusation(4, 1, dead=True))
    told = queue.pack(1000, 1, None, first=())
    assert len(told.records) == 1
    assert [each.dead for each in told.accusations] == [True]


def test_an_accuser_is_queued_once_for_each_accused() -> None:
    queue = Dissemination()
    for incarnation in (1, 2, 3):
        queue.add_accusation(peer_id(2), accusation(2, 1, incarnation))
    assert len(queue) == 1


def test_nobody_is_told_its_own_record_and_what_comes_first_is_not_repeated() -> None:
    queue = Dissemination()
    mine, word = record(1), accusation(2, 1)
    queue.add_record(peer_id(1), mine)
    queue.add_accusation(peer_id(2), word)
    told = queue.pack(1000, 4, peer_id(1), first=(word,))
    assert told.records == ()
    assert told.accusations == (word,)
    assert queue.pack(1000, 4, peer_id(3), first=()).records == (mine,)


def test_clearing_forgets_everything() -> None:
    queue = Dissemination()
    queue.add_record(peer_id(1), record(1))
    queue.clear()
    assert not queue
    assert queue.pack(1000, 4, None, first=()).records == ()


def test_the_largest_record_fits_the_smallest_datagram_beside_an_accusation() -> None:
    largest = record(
        1,
        (1 << 63) - 1,
        expires_s=9e15,
        endpoint=Endpoint("h" * 256, 65535),
        holding=Holding(
            model="m" * 128,
            digest=b"d" * 32,
            layer_count=1024,
            start=1022,
            end=1024,
            step_us=1 << 40,
            queue=1 << 20,
        ),
    )
    smallest = 800
    SwimConfig(datagram_body_bytes_max=smallest)
    queue = Dissemination()
    queue.add_record(peer_id(1), largest)
    told = queue.pack(smallest, 4, peer_id(2), first=())
    assert told.records == (largest,)


STATEMENTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 200), st.booleans(), st.booleans()), min_size=1, max_size=40
)


@given(STATEMENTS, st.integers(800, 1300))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_ping_never_exceeds_its_budget_and_every_statement_gets_out(
    statements: list[tuple[int, int, bool, bool]], size_bytes_max: int
) -> None:
    queue = Dissemination()
    for index, host_size, is_record, held in statements:
        if is_record:
            host = Endpoint("h" * (host_size + 1), 7946)
            queue.add_record(
                peer_id(index), record(index, endpoint=host, holding=holding() if held else None)
            )
        else:
            queue.add_accusation(peer_id(30), accusation(30, index))
    for _ in range(len(statements)):
        gossip = queue.pack(size_bytes_max, 1, peer_id(40), first=())
        ping = Ping(sequence=(1 << 63) - 1, gossip=gossip)
        assert encoded_size(ping) <= size_bytes_max
    assert not queue
