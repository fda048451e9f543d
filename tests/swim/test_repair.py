"""What members that compare their broadcasts send each other, and how little that is."""

from __future__ import annotations

import itertools

from p2pinfer.effects import Message
from p2pinfer.ids import PeerId
from p2pinfer.swim.dissemination import room_bytes
from p2pinfer.swim.events import LIFETIME_S
from p2pinfer.swim.repair import LOG_COUNT_MAX, Repair
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import DIGEST_COUNT_MAX, BroadcastDigest, HeardUpTo, UserEvent
from p2pinfer.wire.messages.swim import Gossip
from tests.swim.bulletins import NOW, Member, events_of, names
from tests.swim.swarm import FAST, contact, key, peer_id, sent, sign

SETTLED_S = 3 * FAST.gossip_interval_s


def event(sender: int, number: int, size_bytes: int = 0) -> UserEvent:
    return sign(
        UserEvent(
            public_key=key(sender),
            sequence=number,
            time_us=int(NOW * 1e6),
            recent=0,
            kept=0,
            name="e",
            payload=bytes(size_bytes),
        )
    )


def keeping(*events: UserEvent, up_to: dict[int, int] | None = None, since: float = 0.0) -> Repair:
    """What a peer keeps that heard these events at once, and of each sender all below a number."""
    known = {peer_id(sender): number for sender, number in (up_to or {}).items()}
    repair = Repair(FAST, lambda owner: known.get(owner, 0), since)
    for each in events:
        repair.keep(each.owner, each, NOW, waits_for=None)
    return repair


def digest(
    *heard: tuple[int, int], window_s: float = 60.0, is_whole: bool = True, is_answer: bool = False
) -> BroadcastDigest:
    listed = tuple(HeardUpTo(peer=peer_id(sender), next=number) for sender, number in heard)
    return BroadcastDigest(
        heard=listed, window_ms=int(window_s * 1000), is_whole=is_whole, is_answer=is_answer
    )


def given(answer: list[Message] | None) -> list[tuple[bytes, int]]:
    gossip = [each for each in answer or [] if isinstance(each, Gossip)]
    return [(each.public_key, each.sequence) for each in itertools.chain(*(one.broadcasts for one in gossip))]


def test_the_other_is_sent_what_it_lacks_and_nothing_else() -> None:
    repair = keeping(event(1, 7), event(1, 8), event(2, 3), up_to={1: 9, 2: 4})
    later = NOW + SETTLED_S
    assert given(repair.answer(digest((1, 8), (2, 4)), later)) == [(key(1), 8)]
    assert given(repair.answer(digest((1, 9)), later)) == [(key(2), 3)], "of an unlisted sender it heard none"
    assert given(repair.answer(digest((1, 9), is_whole=False), later)) == [], "or there was no room to say so"
    assert repair.answer(digest((1, 9), (2, 4)), later) == []


def test_what_may_still_be_on_its_way_is_not_sent() -> None:
    repair = keeping(event(1, 7))
    assert given(repair.answer(digest(), NOW + SETTLED_S - 0.01)) == []
    assert given(repair.answer(digest(), NOW + SETTLED_S)) == [(key(1), 7)]


def test_who_is_new_is_sent_nothing_from_before_it_came() -> None:
    repair = keeping(event(1, 7))
    assert given(repair.answer(digest(window_s=4.0), NOW + 5.0)) == []
    asked = keeping(event(2, 1), since=NOW - 4.0).tick(NOW + 1.0, waits_for=None, draw=lambda: peer_id(3))
    assert asked is not None
    assert asked[1].window_ms == 5000


def test_who_has_what_is_lacking_here_is_asked_for_it_once() -> None:
    repair = keeping(event(1, 7), up_to={1: 8})
    assert repair.answer(digest((1, 8)), NOW + 1.0) == []
    answer = repair.answer(digest((1, 9)), NOW + 1.0)
    assert answer == [
        BroadcastDigest(
            heard=(HeardUpTo(peer=peer_id(1), next=8),), window_ms=60_000, is_whole=True, is_answer=True
        )
    ]
    assert repair.answer(digest((1, 9), is_answer=True), NOW + 1.0) == []


def test_a_digest_is_sent_each_period_for_a_minute_after_the_last_broadcast() -> None:
    repair = keeping(event(1, 7))
    sent_at = []
    for tick in range(1000):
        now = NOW + tick / 10
        if repair.tick(now, waits_for=None, draw=lambda: peer_id(2)) is not None:
            sent_at.append(now)
    assert len(sent_at) == LIFETIME_S / FAST.probe_interval_s - 1
    assert len(repair) == 0
    assert repair.deadline == float("inf")


def test_whoever_said_what_is_waited_for_is_asked_soon_and_every_second_time() -> None:
    repair = keeping()
    repair.keep(peer_id(1), event(1, 7), NOW, waits_for=peer_id(1))
    assert repair.deadline == NOW + SETTLED_S
    asked: list[PeerId] = []
    for _ in range(4):
        due = repair.tick(repair.deadline, waits_for=peer_id(1), draw=lambda: peer_id(2))
        assert due is not None
        asked.append(due[0])
    assert asked == [peer_id(1), peer_id(2), peer_id(1), peer_id(2)]
    assert repair.tick(repair.deadline, waits_for=None, draw=lambda: None) is None, "nobody else is there"


def test_what_is_kept_and_what_is_sent_is_bounded() -> None:
    repair = keeping(*(event(number % 40, number, 400) for number in range(LOG_COUNT_MAX + 50)))
    assert len(repair) == LOG_COUNT_MAX
    answer = repair.answer(digest(), NOW + 1.0)
    assert answer is not None
    assert len(answer) == 4
    room = room_bytes(FAST.datagram_body_bytes_max)
    assert all(encoded_size(each) <= FAST.datagram_body_bytes_max for each in answer)
    assert all(sum(map(encoded_size, each.broadcasts)) <= room for each in answer if isinstance(each, Gossip))
    due = repair.tick(NOW + 1.0, waits_for=None, draw=lambda: peer_id(2))
    assert due is not None
    assert len(due[1].heard) == DIGEST_COUNT_MAX
    assert not due[1].is_whole
    assert encoded_size(due[1]) <= 850


def test_a_flood_of_digests_is_answered_a_few_times() -> None:
    repair = keeping(event(1, 7))
    answers = [repair.answer(digest(), NOW + 1.0) for _ in range(100)]
    assert sum(each is not None for each in answers) == 32


def test_two_bulletins_make_good_for_each_other_what_gossip_lost() -> None:
    one, two = Member(1, 2, 3), Member(2, 1, 3)
    lost_one, lost_two = events_of(Member(3, 1, 2), 2)
    one.hear(lost_one)
    two.hear(lost_one, lost_two)
    now = NOW
    asked: list[BroadcastDigest] = []
    for _ in range(32):  # until the one drawn is the other
        now += FAST.probe_interval_s
        asked += [each for to, each in sent(one.bulletin.tick(now), BroadcastDigest) if to == contact(2)]
        if asked:
            break
    heard: list[object] = []
    for to, gossip in sent(two.bulletin.receive(contact(1), asked[0], now), Gossip):
        assert to == contact(1)
        heard += one.hear(*gossip.broadcasts, now=now)
    assert names(heard) == ["e1"]
    assert two.bulletin.receive(contact(9), asked[0], now) == [], "strangers are told nothing"


def test_a_peer_gives_its_own_broadcasts_as_well() -> None:
    one = Member(1, 2)
    (mine,) = events_of(one, 1)
    effects = one.bulletin.receive(contact(2), digest(), NOW + 1.0)
    assert [gossip.broadcasts for _, gossip in sent(effects, Gossip)] == [(mine,)]
    assert one.bulletin.receive(contact(2), digest((1, mine.sequence + 1)), NOW + 1.0) == []
