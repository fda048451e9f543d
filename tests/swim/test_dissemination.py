"""What is told first, how often, and that it always fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.ids import Endpoint
from p2pinfer.swim.config import SwimConfig, retransmit_limit
from p2pinfer.swim.dissemination import (
    BROADCASTS_COUNT_MAX,
    GOSSIP_ROOM_BYTES,
    Dissemination,
    room_bytes,
)
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import UserEvent
from p2pinfer.wire.messages.records import Holding
from p2pinfer.wire.messages.swim import Accusation, Gossip, Ping
from tests.swim.swarm import holding, key, peer_id, record, sign


def accusation(accuser: int, accused: int, incarnation: int = 1, *, dead: bool = False) -> Accusation:
    return sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=dead)
    )


def event(sender: int, number: int, size_bytes: int = 0) -> UserEvent:
    return sign(
        UserEvent(
            public_key=key(sender),
            sequence=number,
            time_us=1 << 50,
            recent=0,
            kept=0,
            name="e",
            payload=bytes(size_bytes),
        )
    )


def told(gossip: Gossip) -> list[tuple[bytes, int]]:
    return [(each.public_key, each.sequence) for each in gossip.broadcasts]


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
    smallest = 850
    SwimConfig(datagram_body_bytes_max=smallest)
    queue = Dissemination()
    queue.add_record(peer_id(1), largest)
    told = queue.pack(smallest, 4, peer_id(2), first=())
    assert told.records == (largest,)


# ---------------------------------------------------------------------- broadcasts


def unquiet(member_count: int = 1000) -> Dissemination:
    """A queue after as many members joined at once."""
    queue = Dissemination()
    for index in range(member_count):
        queue.add_record(peer_id(index), record(index, holding=holding()))
    return queue


def test_memberlist_299_a_thousand_nodes_news_leave_room_for_the_users_event() -> None:
    for size_bytes in (0, 100, 512):
        queue = unquiet()
        queue.add_broadcast(peer_id(0), event(0, 1, size_bytes))
        packed = [queue.pack(1000, 12, None, first=()) for _ in range(24)]
        sent_count = sum(len(each.broadcasts) for each in packed)
        assert [len(each.broadcasts) for each in packed[:2]].count(1) >= 1, "in the first datagrams"
        assert sent_count == 12, "and as often as everything else, in the first rounds of gossip"
        assert all(each.records for each in packed[1::2]), "while news of members goes on"


def test_a_flood_of_events_leaves_room_for_news_of_members() -> None:
    queue = Dissemination()
    for number in range(BROADCASTS_COUNT_MAX):
        queue.add_broadcast(peer_id(number % 8), event(number % 8, number, 512))
    queue.add_accusation(peer_id(2), accusation(2, 1))
    packed = [queue.pack(1000, 12, None, first=()) for _ in range(24)]
    assert sum(len(each.accusations) for each in packed) == 12
    assert len(packed[0].accusations) + len(packed[1].accusations) >= 1


def test_a_flood_of_large_events_leaves_room_for_the_largest_record() -> None:
    queue = Dissemination()
    for number in range(100):
        queue.add_broadcast(peer_id(1), event(1, number, 512))
    queue.add_record(peer_id(2), record(2, endpoint=Endpoint("h" * 256, 1), holding=holding()))
    packed = [queue.pack(1000, 12, None, first=()) for _ in range(2)]
    assert [len(each.records) for each in packed] == [0, 1]
    assert len(packed[0].broadcasts) == 1


def test_each_kind_has_its_share_of_every_datagram() -> None:
    queue = unquiet(40)
    for number in range(40):
        queue.add_broadcast(peer_id(50), event(50, number, 30))
    room = room_bytes(1000)
    for _ in range(10):
        packed = queue.pack(1000, 100, None, first=())
        records = sum(encoded_size(each) for each in packed.records)
        broadcasts = sum(encoded_size(each) for each in packed.broadcasts)
        largest = max(encoded_size(each) for each in (*packed.records, *packed.broadcasts))
        assert min(records, broadcasts) > room / 3 - largest
        assert records + broadcasts > room - largest


def test_one_kind_alone_has_all_the_room() -> None:
    queue = Dissemination()
    for number in range(10):
        queue.add_broadcast(peer_id(1), event(1, number, 150))
    assert len(queue.pack(1000, 4, None, first=()).broadcasts) == 3
    assert len(unquiet(10).pack(1000, 4, None, first=()).records) >= 4


def test_a_senders_events_leave_in_their_order_and_senders_take_turns() -> None:
    queue = Dissemination()
    for number in range(-9, 20):
        queue.add_broadcast(peer_id(1), event(1, number + 100, 400))
    for number in range(-9, 1):
        assert told(queue.pack(1000, 4, None, first=())) == [(key(1), number + 100)]
    queue.add_broadcast(peer_id(2), event(2, 70, 400))
    queue.add_broadcast(peer_id(2), event(2, 71, 400))
    order = [told(queue.pack(1000, 4, None, first=()))[0] for _ in range(5)]
    assert order == [(key(2), 70), (key(1), 101), (key(2), 71), (key(1), 102), (key(1), 103)]


def test_the_queue_of_broadcasts_is_bounded_at_the_cost_of_who_has_most() -> None:
    queue = Dissemination()
    queue.add_broadcast(peer_id(2), event(2, 7))
    for number in range(BROADCASTS_COUNT_MAX + 9):
        queue.add_broadcast(peer_id(1), event(1, number))
    assert queue.broadcast_count == len(queue) == BROADCASTS_COUNT_MAX
    assert queue.counters == {"broadcasts_dropped": 10}
    left = []
    while queue:
        left += told(queue.pack(1000, 1, None, first=()))
    assert left == [(key(2), 7), *((key(1), number) for number in range(10, BROADCASTS_COUNT_MAX + 9))]


def test_nobody_is_told_its_own_broadcast_and_none_is_queued_twice() -> None:
    queue = Dissemination()
    queue.add_broadcast(peer_id(1), event(1, 1))
    queue.add_broadcast(peer_id(1), event(1, 1))
    assert len(queue) == 1
    assert queue.pack(1000, 4, peer_id(1), first=()) == Gossip()
    assert told(queue.pack(1000, 4, peer_id(2), first=())) == [(key(1), 1)]


def test_what_is_larger_than_any_datagram_is_dropped_and_blocks_nobody() -> None:
    queue = Dissemination()
    for number in (1, 2, 3):
        queue.add_broadcast(peer_id(1), event(1, number, 0 if number == 2 else 512))
    queue.add_record(peer_id(4), record(4, endpoint=Endpoint("h" * 256, 1), holding=holding()))
    queue.add_record(peer_id(5), record(5))
    packed = [queue.pack(GOSSIP_ROOM_BYTES + 300, 1, None, first=()) for _ in range(3)]
    assert [told(each) for each in packed if each.broadcasts] == [[(key(1), 2)]]
    assert [each.records for each in packed if each.records] == [(record(5),)]
    assert queue.counters == {"statements_too_large": 3}
    assert not queue


def test_clearing_forgets_broadcasts_as_well() -> None:
    queue = Dissemination()
    queue.add_broadcast(peer_id(1), event(1, 1))
    queue.clear()
    assert not queue
    assert len(queue) == 0


STATEMENTS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 200),
        st.sampled_from(["record", "accusation", "event"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@given(STATEMENTS, st.integers(850, 1300))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_ping_never_exceeds_its_budget_and_every_statement_gets_out(
    statements: list[tuple[int, int, str, bool]], size_bytes_max: int
) -> None:
    queue = Dissemination()
    for number, (index, size, kind, held) in enumerate(statements):
        if kind == "record":
            host = Endpoint("h" * (size + 1), 7946)
            queue.add_record(
                peer_id(index), record(index, endpoint=host, holding=holding() if held else None)
            )
        elif kind == "event":
            queue.add_broadcast(peer_id(index), event(index, number, size * 2 if held else size))
        else:
            queue.add_accusation(peer_id(30), accusation(30, index))
    for _ in range(len(statements)):
        gossip = queue.pack(size_bytes_max, 1, peer_id(40), first=())
        ping = Ping(sequence=(1 << 63) - 1, gossip=gossip)
        assert encoded_size(ping) <= size_bytes_max
    assert not queue
