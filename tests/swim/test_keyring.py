"""One peer's keyring core: what it takes, what it refuses, whom it tells and whom it asks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import hypothesis
import pytest
from hypothesis import strategies

from p2pinfer.effects import Effect, Message, Misbehaved, Notify, Persist, Plane, Send
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.keyring import (
    KEYRING_KEY,
    PAUSE_S_MAX,
    PEERS_COUNT_MAX,
    SOURCES_COUNT_MAX,
    SURVEYED_COUNT,
    KeyringChanged,
    KeyringCore,
)
from p2pinfer.swim.rotation import first_keyring, install_key, remove_key, use_key
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.keyring import (
    Keyring,
    KeyringCommand,
    KeyringNews,
    KeyringReply,
    KeyringRequest,
    key_id,
)
from p2pinfer.wire.messages.swim import Ping
from p2pinfer.wire.schema import message_types
from tests.swim.swarm import contact, key, peer_id, sent, sign

OWNER = key(99)
OLD, NEW = b"o" * 32, b"n" * 32
V1 = first_keyring(OWNER, OLD, sign)
V2 = install_key(V1, NEW, sign)
V3 = use_key(V2, key_id(NEW), sign)
V4 = remove_key(V3, key_id(OLD), sign)
CONFIG = SwimConfig()
FETCH_S = 2 * CONFIG.probe_interval_s
A, B, C = contact(1), contact(2), contact(3)


def core(keyring: Keyring | None = V1, *members: Contact, owner: bytes = OWNER) -> KeyringCore:
    made = KeyringCore(owner=owner, config=CONFIG, rng=random.Random(1))
    if keyring is not None:
        made.restore(keyring)
    for member in members:
        made.member_came(member)
    return made


def news(keyring: Keyring | None, *, asks: bool = False) -> KeyringNews:
    return KeyringNews(notice=None if keyring is None else keyring.notice, asks=asks)


def request(keyring: Keyring | None) -> KeyringRequest:
    return KeyringRequest(notice=None if keyring is None else keyring.notice)


def reply(keyring: Keyring) -> KeyringReply:
    return KeyringReply(notice=keyring.notice, keyring=keyring)


def notice_only(keyring: Keyring) -> KeyringReply:
    return KeyringReply(notice=keyring.notice)


# --- versions -----------------------------------------------------------------------------------


def test_a_newer_keyring_is_on_disk_before_it_is_used() -> None:
    peer = core(V1)
    effects = peer.receive(A, reply(V3), 1.0)
    assert effects == [Persist(KEYRING_KEY, encode(V3)), Notify(KeyringChanged(V3))]
    assert (peer.version, peer.keyring) == (3, V3)


def test_a_rollback_is_refused() -> None:
    peer = core(V4)
    for older in (V1, V2, V3):
        assert peer.receive(A, reply(older), 1.0) == []
        with pytest.raises(LocalProtocolError, match="already"):
            peer.publish(older, 1.0)
    assert peer.keyring == V4
    assert peer.statistics()["rollbacks_refused"] == 3


def test_two_keyrings_of_one_version_are_reported_once_and_the_first_is_kept() -> None:
    other = use_key(V2, key_id(NEW), sign)
    assert other.notice.content == V3.notice.content
    fork = remove_key(install_key(V1, b"f" * 32, sign), key_id(b"f" * 32), sign)
    peer = core(V3, A)
    assert fork.version == 3
    assert peer.receive(A, news(other), 1.0) == []
    owner = PeerId.from_public_key(OWNER)
    (found,) = [each for each in peer.receive(A, reply(fork), 1.0) if isinstance(each, Misbehaved)]
    assert found.peer == owner
    assert "two keyrings of version 3" in found.reason
    assert peer.receive(B, reply(fork), 2.0) == []
    assert peer.keyring == V3
    assert peer.behind() == (A.peer,), "who has the fork does not have this version"
    assert peer.receive(A, reply(V4), 3.0) != []
    assert peer.version == 4


@pytest.mark.parametrize("keyring", [V4, V1])
def test_another_owners_keyring_is_misbehaviour(keyring: Keyring) -> None:
    peer = core(V1, owner=key(98))
    for message in (news(keyring), request(keyring), reply(keyring)):
        (found,) = peer.receive(A, message, 1.0)
        assert isinstance(found, Misbehaved)
        assert found.peer == A.peer
    assert peer.keyring is None
    with pytest.raises(LocalProtocolError, match="only its owner"):
        peer.publish(V4, 1.0)


def test_keys_that_do_not_belong_to_their_notice_are_misbehaviour() -> None:
    peer = core(V1)
    forged = Keyring(notice=V4.notice, keys=(OLD,))
    (found,) = peer.receive(A, reply(forged), 1.0)
    assert found == Misbehaved(peer_id(1), "a keyring whose keys and notice do not belong together")
    assert peer.version == 1


def test_a_damaged_keyring_is_not_restored() -> None:
    assert core(Keyring(notice=V4.notice, keys=(OLD,))).keyring is None


def test_without_an_owner_nothing_happens() -> None:
    peer = core(None, owner=b"")
    for message in (news(V4), request(V4), reply(V4)):
        assert peer.receive(A, message, 1.0) == []
    assert peer.exchange(A) == peer.unopened(A, 1.0) == peer.tick(9.0) == []
    assert peer.deadline is None


def test_it_goes_on_without_its_disk() -> None:
    peer = core(V1)
    peer.receive(A, reply(V2), 1.0)
    assert peer.disk_failed(KEYRING_KEY, 1.1) == [Notify(KeyringChanged(V2))]
    assert peer.disk_failed("another", 1.1) == []


# --- who asks whom ------------------------------------------------------------------------------


def test_keys_never_travel_in_a_datagram() -> None:
    """By the schema: no datagram has a field, however deep, that can hold a keyring."""
    holding = {kind for kind in message_types().values() if _holds_keys(kind)}
    assert {kind.__name__ for kind in holding} == {"Keyring", "KeyringReply"}
    assert all(kind.PLANE is not Plane.DATAGRAM for kind in holding)
    assert Keyring.PLANE is Plane.EITHER, "a part, which is never sent alone"


def _holds_keys(kind: type[Message]) -> bool:
    if kind is Keyring:
        return True
    parts = {part for hint in get_type_hints(kind).values() for part in _parts(hint)}
    return any(isinstance(each, type) and issubclass(each, Message) and _holds_keys(each) for each in parts)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in get_args(hint):
        yield from _parts(inner)


def test_who_hears_of_a_newer_version_fetches_it_over_a_stream() -> None:
    peer = core(V1)
    (asked,) = sent(peer.receive(A, news(V2), 1.0), KeyringRequest)
    assert asked == (A, request(V1))
    assert asked[1].PLANE is Plane.STREAM


def test_a_request_is_answered_with_the_keys_only_where_they_are_newer() -> None:
    peer = core(V2)
    assert peer.receive(A, request(V1), 1.0) == [Send(A, reply(V2))]
    assert peer.receive(A, request(None), 1.0) == [Send(A, reply(V2))]
    assert peer.receive(A, request(V2), 1.0) == [Send(A, notice_only(V2))]
    answer, back = peer.receive(A, request(V3), 1.0)
    assert answer == Send(A, notice_only(V2))
    assert back == Send(A, request(V2)), "the asker has the newer one"
    assert core(None).receive(A, request(None), 1.0) == [Send(A, KeyringReply(notice=None))]


def test_who_is_behind_is_told_so_at_the_pace_of_gossip() -> None:
    peer = core(V3, A)
    assert peer.receive(A, news(V1), 1.0) == [Send(A, news(V3))]
    assert peer.receive(A, news(None), 1.1) == []
    assert peer.receive(A, news(V1), 1.0 + CONFIG.gossip_interval_s) == [Send(A, news(V3))]
    assert peer.receive(B, news(V3), 1.0) == []
    assert peer.receive(B, news(V3, asks=True), 1.0) == [Send(B, news(V3))]


def test_one_fetch_at_a_time_and_the_next_peer_where_one_does_not_deliver() -> None:
    peer = core(V1)
    assert len(sent(peer.receive(A, news(V2), 1.0), KeyringRequest)) == 1
    assert sent(peer.receive(B, news(V2), 1.1), KeyringRequest) == []
    assert peer.deadline == 1.0 + FETCH_S
    assert peer.tick(1.0 + FETCH_S - 0.01) == []
    assert sent(peer.tick(1.0 + FETCH_S), KeyringRequest) == [(B, request(V1))]
    assert peer.deadline is None


def test_a_stream_that_breaks_makes_the_next_one_be_asked_at_once() -> None:
    peer = core(V1)
    peer.receive(A, news(V2), 1.0)
    peer.receive(B, news(V2), 1.1)
    assert sent(peer.disconnected(A, 1.2), KeyringRequest) == [(B, request(V1))]
    assert peer.disconnected(B, 1.3) == []


def test_a_liar_that_never_delivers_is_asked_ever_more_rarely() -> None:
    peer, asked_at = core(V1), []
    for tenth in range(6000):
        now = tenth / 10
        effects = peer.receive(A, news(V2), now) + peer.tick(now)
        asked_at += [now] * len(sent(effects, KeyringRequest))
    waits = [round(later - earlier, 1) for earlier, later in pairwise(asked_at)]
    assert waits[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert set(waits[5:]) == {PAUSE_S_MAX}
    honest = sent(peer.receive(B, news(V2), 601.0), KeyringRequest)
    assert honest == [(B, request(V1))]


def test_a_datagram_that_does_not_open_makes_both_compare() -> None:
    peer = core(V1, A)
    from_elsewhere = Contact(A.peer, Endpoint("10.9.9.9", 1))
    assert peer.unopened(from_elsewhere, 1.0) == [Send(A, request(V1))], "where the member listens"
    assert peer.unopened(from_elsewhere, 1.1) == []
    assert peer.receive(A, notice_only(V1), 1.2) == [], "it is no newer there"
    assert peer.unopened(A, 1.3) == []
    assert peer.tick(1.2 + FETCH_S) == []
    assert peer.unopened(A, 1.2 + FETCH_S) == [Send(A, request(V1))]


def test_who_showed_a_newer_version_is_asked_before_who_may_have_one() -> None:
    peer = core(V1)
    peer.unopened(A, 1.0)
    for number in range(10, 10 + 2 * SOURCES_COUNT_MAX):
        peer.unopened(contact(number), 1.1)
    peer.receive(C, news(V2), 1.2)
    assert len(peer._sources) <= SOURCES_COUNT_MAX
    assert sent(peer.tick(1.0 + FETCH_S), KeyringRequest) == [(C, request(V1))]


def test_a_state_exchange_takes_the_keyring_along() -> None:
    joiner = core(None)
    bootstrap = Contact(None, Endpoint("10.0.0.1", 7946))
    assert joiner.exchange(bootstrap) == [Send(bootstrap, request(None))]
    assert core(V2).exchange(A) == [Send(A, request(V2))]


# --- telling all --------------------------------------------------------------------------------


def test_a_new_version_is_gossiped_to_those_who_are_behind_and_then_it_is_quiet() -> None:
    members = [contact(number) for number in range(1, 31)]
    peer = core(V1, *members)
    peer.publish(V2, 1.0)
    told: list[PeerId | None] = []
    while peer.deadline is not None:
        told += [to.peer for to, _ in sent(peer.tick(peer.deadline), KeyringNews)]
    assert len(told) == CONFIG.gossip_count * CONFIG.retransmit_factor * 2  # log10 of 31, rounded up
    assert len(set(told)) > 10


def test_gossip_ends_early_where_all_have_the_version() -> None:
    peer = core(V1, A, B)
    peer.publish(V2, 1.0)
    assert {to for to, _ in sent(peer.tick(1.0), KeyringNews)} == {A, B}
    for member in (A, B):
        peer.receive(member, news(V2), 1.1)
    assert peer.behind() == ()
    assert peer.tick(1.0 + CONFIG.gossip_interval_s) == []
    assert peer.deadline is None


def test_a_survey_asks_in_portions_those_who_did_not_say() -> None:
    members = [contact(number) for number in range(1, 101)]
    peer = core(V1, *members)
    peer.receive(members[0], news(V1), 0.5)
    first = sent(peer.survey(1.0), KeyringNews)
    assert len(first) == SURVEYED_COUNT
    assert all(message.asks for _, message in first)
    assert [peer.deadline] == [1.0 + CONFIG.gossip_interval_s]
    rest = sent(peer.tick(1.0 + CONFIG.gossip_interval_s), KeyringNews)
    assert {to for to, _ in first + rest} == set(members[1:])
    assert peer.deadline is None
    for member in members[1:]:
        peer.receive(member, news(V1), 2.0)
    assert peer.behind() == ()
    assert peer.survey(3.0) == []


def test_the_dead_are_not_waited_for() -> None:
    peer = core(V2, A, B)
    peer.receive(A, news(V2), 1.0)
    assert peer.behind() == (B.peer,)
    assert B.peer is not None
    peer.member_gone(B.peer)
    assert peer.behind() == ()
    peer.member_came(B)
    assert peer.behind() == (B.peer,), "it may have come back with less"
    assert peer.version_of(B.peer) is None


def test_only_members_versions_are_remembered() -> None:
    peer = core(V1, A)
    for number in range(2, 3 * PEERS_COUNT_MAX):
        peer.receive(contact(number), news(None), float(number))
    assert len(peer._versions) == 0
    assert len(peer._told) <= PEERS_COUNT_MAX


# --- whatever comes -----------------------------------------------------------------------------

MESSAGES: list[Message] = [
    *(kind(each) for kind in (news, request) for each in (None, V1, V2, V3, V4)),
    *(reply(each) for each in (V1, V2, V3, V4)),
    news(V2, asks=True),
    KeyringReply(notice=None),
    KeyringReply(notice=V4.notice, keyring=V1),
    KeyringReply(notice=None, keyring=Keyring(notice=V4.notice, keys=())),
    KeyringCommand(action="rotate"),
    news(first_keyring(key(98), OLD, sign)),
    V4.notice,
]


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from(["message", "unopened", "tick", "lost", "came", "gone", "survey"]),
            strategies.sampled_from(range(len(MESSAGES))),
            strategies.integers(1, 5),
            strategies.floats(0.0, 3.0),
        ),
        max_size=60,
    )
)
@hypothesis.settings(max_examples=150, derandomize=True, deadline=None)
def test_the_version_never_falls_and_nothing_raises(steps: list[tuple[str, int, int, float]]) -> None:
    peer, now, on_disk = core(None), 0.0, 0
    for what, index, number, after_s in steps:
        now += after_s
        before = peer.version
        who = contact(number)
        effects: list[Effect] = []
        match what:
            case "message":
                effects = peer.receive(who, MESSAGES[index], now)
            case "unopened":
                effects = peer.unopened(who, now)
            case "tick":
                effects = peer.tick(now)
                assert peer.tick(now) == [], "a second tick does nothing"
                assert peer.deadline is None or peer.deadline > now
            case "lost":
                effects = peer.disconnected(who, now)
            case "came":
                peer.member_came(who)
            case "gone":
                peer.member_gone(peer_id(number))
            case "survey":
                effects = peer.survey(now)
        assert peer.version >= before
        changed = [each.news for each in effects if isinstance(each, Notify)]
        assert len(changed) == (peer.version > before)
        kinds = [type(each) for each in effects]
        if changed:
            assert kinds.index(Persist) < kinds.index(Notify)
            on_disk = peer.version
        assert peer.version == on_disk
        assert len(effects) < 80


def test_other_messages_are_counted_and_ignored() -> None:
    peer = core(V1)
    nonsense: list[Message] = [KeyringCommand(action="rotate"), V4.notice]
    for message in nonsense:
        assert peer.receive(A, message, 1.0) == []
    assert peer.statistics()["messages_ignored"] == 2
    assert peer.receive(Contact(None, A.endpoint), news(V2), 1.0) == []
    assert Ping.PLANE is Plane.DATAGRAM
