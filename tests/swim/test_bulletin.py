"""What one peer's bulletin tells, takes in and hands to its application."""

from __future__ import annotations

import pytest

from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.dissemination import BROADCASTS_COUNT_MAX, room_bytes
from p2pinfer.swim.events import BURST_COUNT, LIFETIME_S
from p2pinfer.swim.news import EventHeard, QueryAsked
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import QueryFilter, UserEvent
from tests.swim.bulletins import NOW, Member, events_of, names
from tests.swim.swarm import FAST, key, news, peer_id, sign

# ---------------------------------------------------------------------- events


def test_an_event_is_heard_here_at_once_and_told() -> None:
    one, two = Member(1, 2), Member(2, 1)
    effects = one.bulletin.broadcast("deploy", b"v2", NOW)
    assert news(effects) == [EventHeard(peer_id(1), "deploy", b"v2", int(NOW * 1e6))]
    (event,) = one.told()
    assert two.hear(event) == news(effects)
    assert two.told() == [event], "passed on once"
    assert two.hear(event) == []
    assert two.told() == []


def test_events_of_one_sender_are_heard_in_its_order_whatever_the_way() -> None:
    one, two = Member(1, 2), Member(2, 1)
    first, second, third = events_of(one, 3)
    assert names(two.hear(third, second)) == []
    assert two.bulletin.statistics()["broadcasts_held"] == 2
    assert len(two.told()) == 2, "what is held is passed on all the same"
    assert names(two.hear(first)) == ["e0", "e1", "e2"]


def test_a_lost_event_is_waited_for_half_a_querys_time_and_skipped() -> None:
    one, two = Member(1, 2), Member(2, 1)
    first, _, third = events_of(one, 3)
    two.hear(first, third)
    wait_s = FAST.gossip_interval_s * 8
    assert news(two.bulletin.tick(NOW + wait_s - 0.01)) == []
    assert names(news(two.bulletin.tick(NOW + wait_s))) == ["e2"]
    assert two.bulletin.statistics()["broadcast_gaps"] == 1


def test_an_event_long_after_a_lost_one_is_heard_at_once() -> None:
    one, two = Member(1, 2), Member(2, 1)
    first, _ = events_of(one, 2)
    later_s = NOW + LIFETIME_S
    (later,) = events_of(one, 1, now=later_s)
    assert (later.recent, later.kept) == (0, 0), "nobody has it any more"
    two.hear(first)
    assert names(two.hear(later, now=later_s)) == ["e0"]


def test_an_effect_has_a_later_lamport_time_than_its_cause() -> None:
    one, two = Member(1, 2), Member(2, 1, now=NOW - 4.0)
    (cause,) = events_of(one, 1)
    two.hear(cause, now=NOW - 4.0)  # its clock is behind
    (effect,) = events_of(two, 1, now=NOW - 3.9)
    assert effect.time_us > cause.time_us


def test_a_newcomer_hears_what_is_on_its_way_and_no_history() -> None:
    one = Member(1, 2)
    old = events_of(one, 3, now=NOW)
    fresh = events_of(one, 2, now=NOW + 10.0)
    newcomer = Member(2, 1, now=NOW + 10.0)
    assert names(newcomer.hear(fresh[1], now=NOW + 10.1)) == []
    assert names(newcomer.hear(*old, now=NOW + 10.1)) == []
    assert names(newcomer.hear(fresh[0], now=NOW + 10.1)) == ["e0", "e1"]
    (mine,) = events_of(newcomer, 1, now=NOW + 10.1)
    assert mine.time_us > fresh[1].time_us, "it knows the time from its clock and from them"


def test_a_replayed_event_is_refused_by_all_newcomers_included() -> None:
    one = Member(1, 2)
    (event,) = events_of(one, 1)
    later = NOW + LIFETIME_S + FAST.clock_skew_s_max + 0.1
    newcomer = Member(2, 1, now=later)
    assert newcomer.hear(event, now=later) == []
    assert newcomer.bulletin.statistics()["broadcasts_untimely"] == 1


def test_an_event_from_the_future_is_refused_or_one_liar_would_set_every_clock() -> None:
    two = Member(2, 1)
    future = sign(
        UserEvent(public_key=key(1), sequence=1, time_us=1 << 60, recent=0, kept=0, name="e", payload=b"")
    )
    assert two.hear(future) == []
    (mine,) = events_of(two, 1)
    assert mine.time_us == int(NOW * 1e6)


def test_events_of_strangers_are_not_heard_nor_passed_on() -> None:
    stranger, two = Member(7), Member(2, 1)
    (event,) = events_of(stranger, 1)
    assert two.hear(event) == []
    assert not two.members.queue
    assert two.bulletin.statistics()["broadcasts_of_strangers"] == 1


def test_a_restarted_sender_goes_on_above_its_earlier_self() -> None:
    two = Member(2, 1)
    before = events_of(Member(1, 2, now=NOW), 3)
    after = events_of(Member(1, 2, now=NOW + 5.0), 2, now=NOW + 5.0)
    assert names(two.hear(*before)) == ["e0", "e1", "e2"]
    assert names(two.hear(*after, now=NOW + 5.0)) == ["e0", "e1"]


def test_a_sender_restarted_with_a_clock_behind_learns_its_number_from_its_own_echo() -> None:
    two = Member(2, 1)
    (before,) = events_of(Member(1, 2, now=NOW), 1)
    two.hear(before)
    again = Member(1, 2, now=NOW - 4.0)
    assert again.hear(before, now=NOW - 4.0) == []
    (after,) = events_of(again, 1, now=NOW - 4.0)
    assert names(two.hear(after)) == ["e0"]


def test_nothing_is_told_of_what_a_peer_of_another_setting_says_too_large() -> None:
    small = Member(2, 1, config=SwimConfig(datagram_body_bytes_max=850, clock_skew_s_max=5.0))
    large = Member(1, 2, config=SwimConfig(datagram_body_bytes_max=1300, clock_skew_s_max=5.0))
    peers = tuple(peer_id(each) for each in range(2, 18))
    large.bulletin.ask("q", b"x" * 400, NOW, to=QueryFilter(peers=peers))
    (query,) = large.told()
    assert [type(each) for each in small.hear(query)] == [QueryAsked], "heard, but not to be passed on"
    assert not small.members.queue
    assert small.bulletin.statistics()["broadcasts_too_large"] == 1


# ---------------------------------------------------------------------- what is refused


def test_alertmanager_1412_what_is_too_large_is_refused_where_it_is_said() -> None:
    one = Member(1, 2)
    with pytest.raises(LocalProtocolError, match="a payload has at most 512 bytes, not 513"):
        one.bulletin.broadcast("e", bytes(513), NOW)
    with pytest.raises(LocalProtocolError, match="a name has 1 to 64 bytes, not 65"):
        one.bulletin.broadcast("e" * 65, b"", NOW)
    with pytest.raises(LocalProtocolError, match="1 to 64 bytes, not 0"):
        one.bulletin.broadcast("", b"", NOW)
    with pytest.raises(LocalProtocolError, match="a name is text"):
        one.bulletin.broadcast("\ud800", b"", NOW)
    peers = tuple(peer_id(each) for each in range(16))
    with pytest.raises(LocalProtocolError, match="does not fit a datagram: shorten its payload by"):
        one.bulletin.ask("q", bytes(512), NOW, to=QueryFilter(peers=peers))
    with pytest.raises(LocalProtocolError, match=r"QueryFilter\.peers has at most 16 items"):
        one.bulletin.ask("q", b"", NOW, to=QueryFilter(peers=(*peers, peer_id(99))))
    for timeout_s in (0.0, 601.0, float("nan"), -1.0):
        with pytest.raises(LocalProtocolError, match=r"a query lasts 0\.001 to 600 seconds"):
            one.bulletin.ask("q", b"", NOW, timeout_s=timeout_s)
    assert not one.members.queue, "and nothing of it waits for ever"
    assert one.bulletin.statistics()["queries_open"] == 0
    (event,) = events_of(one, 1)
    assert event.sequence == int(NOW * 1000), "no number was used up"


def test_the_largest_event_and_query_fit_the_smallest_datagram() -> None:
    one = Member(1, 2, config=SwimConfig(datagram_body_bytes_max=850), now=1e10)
    (event,) = events_of(one, 1, payload=bytes(512), now=1e10)
    assert encoded_size(event) < room_bytes(850)
    one.bulletin.ask("q" * 64, bytes(512), 1e10, timeout_s=600.0, wants_ack=True)
    (query,) = one.told()
    assert encoded_size(query) < room_bytes(850)


def test_who_says_too_much_is_told_when_to_come_back() -> None:
    one = Member(1, 2)
    events_of(one, BURST_COUNT)
    with pytest.raises(Overloaded) as caught:
        one.bulletin.broadcast("e", b"", NOW)
    assert caught.value.retry_after_s == pytest.approx(0.2)
    with pytest.raises(Overloaded):
        one.bulletin.ask("q", b"", NOW)
    assert one.bulletin.statistics()["queries_open"] == 0
    one.bulletin.broadcast("e", b"", NOW + 0.2)


def test_the_queue_is_bounded_and_a_flood_costs_the_flooder() -> None:
    two = Member(2, 1, 3, 4, 5, 6, 7, 8, 9)
    for sender in range(3, 10):
        two.hear(*events_of(Member(sender, 2), BURST_COUNT))
    two.hear(*events_of(Member(1, 2), 2))
    for wave in range(1, 9):
        now = NOW + 10.0 * wave
        two.hear(*events_of(Member(3, 2, now=now), BURST_COUNT, now=now), now=now)
    assert two.bulletin.statistics()["broadcasts_queued"] == BROADCASTS_COUNT_MAX
    assert two.bulletin.statistics()["broadcasts_dropped"] > 0
    owners = [each.owner for each in two.told()]
    assert owners.count(peer_id(1)) == 2
    assert all(owners.count(peer_id(sender)) == BURST_COUNT for sender in range(4, 10))
