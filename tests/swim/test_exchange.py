"""State exchanges: what travels is what the other lacks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Effect, Message, Misbehaved, Send
from p2pinfer.ids import Contact
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.exchange import bucket_count_for, bucket_of
from p2pinfer.swim.member import MemberState
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.swim import Accusation, Gossip, StateReply, StateRequest, StateRest
from tests.swim.swarm import FAST, contact, key, make_core, peer_id, record, sent, sign

NOW = 100.0
STATE_MESSAGES = (StateRequest, StateReply, StateRest)


def dead(accuser: int, accused: int, incarnation: int = 1) -> Accusation:
    return sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=True)
    )


def core_with(index: int, records: dict[int, int], deaths: dict[int, int] | None = None) -> SwimCore:
    """A core that knows members by index and incarnation, and some of them as dead."""
    core = make_core(index, now=NOW)
    deaths = deaths or {}
    reply = StateReply(
        records=tuple(record(each, incarnation) for each, incarnation in {**records, **deaths}.items()),
        accusations=tuple(dead(1, each, incarnation) for each, incarnation in deaths.items()),
    )
    core.receive(contact(1), reply, NOW)
    return core


def exchange(asking: SwimCore, asked: SwimCore) -> list[Message]:
    """Let one ask the other for its state, and return all that travelled."""
    cores = {contact(0): asking, contact(500): asked}
    first = asking._exchange.request(contact(500), NOW)
    waiting, travelled = [(contact(0), first)], list[Message]()
    while waiting:
        sender, send = waiting.pop(0)
        travelled.append(send.message)
        effects: list[Effect] = cores[send.to].receive(sender, send.message, NOW)
        waiting += [
            (send.to, each)
            for each in effects
            if isinstance(each, Send) and isinstance(each.message, STATE_MESSAGES)
        ]
    return travelled


def view(core: SwimCore) -> dict[bytes, tuple[int, MemberState]]:
    return {
        each.record.public_key: (each.record.incarnation, each.state)
        for each in core.members()
        if each.record.public_key not in (key(0), key(500))
    }


def sizes(travelled: list[Message]) -> list[int]:
    return [encoded_size(each) for each in travelled]


def test_a_joiner_is_given_everything_in_one_answer() -> None:
    asked = core_with(500, dict.fromkeys(range(1, 100), 1))
    joiner = make_core(0, now=NOW)
    request, reply = exchange(joiner, asked)
    assert isinstance(request, StateRequest)
    assert request.records == (joiner.record,)
    assert isinstance(reply, StateReply)
    assert view(joiner) == view(asked)


def test_peers_that_know_the_same_send_sums_alone() -> None:
    records = dict.fromkeys(range(1, 400), 1)
    asking, asked = core_with(0, records), core_with(500, records)
    asking.receive(contact(500), Gossip(records=(asked.record,)), NOW)
    asked.receive(contact(0), Gossip(records=(asking.record,)), NOW)
    travelled = exchange(asking, asked)
    assert [type(each) for each in travelled] == [StateRequest, StateReply]
    whole = 400 * encoded_size(record(1))
    assert sum(sizes(travelled)) < whole / 30


def test_of_a_thousand_members_a_few_differences_travel_with_their_neighbours() -> None:
    records = dict.fromkeys(range(1, 500), 1) | dict.fromkeys(range(501, 1000), 1)
    asking = core_with(0, {**records, 7: 2, 8: 3})
    asked = core_with(500, {**records, 9: 5})
    travelled = exchange(asking, asked)
    assert view(asking) == view(asked)
    assert view(asking)[key(8)] == (3, MemberState.ALIVE)
    assert view(asking)[key(9)] == (5, MemberState.ALIVE)
    sent_records = sum(len(each.records) for each in travelled if isinstance(each, StateReply | StateRest))
    assert sent_records < 60


def test_deaths_travel_too() -> None:
    records = dict.fromkeys(range(1, 40), 1)
    asking = core_with(0, {1: 1}, deaths={50: 1})
    asked = core_with(500, records)
    exchange(asking, asked)
    assert view(asked)[key(50)] == (1, MemberState.DEAD)


KNOWN = st.dictionaries(st.integers(1, 60), st.integers(1, 4), max_size=40)


@given(KNOWN, KNOWN, KNOWN, KNOWN)
@settings(deadline=None, derandomize=True, max_examples=80)
def test_whatever_two_peers_know_they_agree_on_records_after_an_exchange(
    ours: dict[int, int], theirs: dict[int, int], our_dead: dict[int, int], their_dead: dict[int, int]
) -> None:
    asking, asked = core_with(0, {1: 1, **ours}, our_dead), core_with(500, {1: 1, **theirs}, their_dead)
    exchange(asking, asked)
    agreed = {peer: incarnation for peer, (incarnation, _) in view(asking).items()}
    assert agreed == {peer: incarnation for peer, (incarnation, _) in view(asked).items()}


def test_a_number_of_buckets_that_is_no_power_of_two_is_misbehaviour() -> None:
    core = core_with(0, {1: 1})
    for sums in ((), (0, 0, 0)):
        effects = core.receive(contact(1), StateRequest(sums=sums), NOW)
        assert [type(each) for each in effects] == [Misbehaved]
    assert core.receive(Contact(None, contact(1).endpoint), StateRequest(sums=(0, 0, 0)), NOW) == []


def test_nonsense_in_a_reply_is_survived() -> None:
    core = core_with(0, {1: 1, 2: 1})
    odd = StateReply(records=(), bucket_count=3, wanted=(0, 1, 2))
    assert sent(core.receive(contact(1), odd, NOW), StateRest) == []
    beyond = StateReply(records=(), bucket_count=4, wanted=(4000,))
    assert sent(core.receive(contact(1), beyond, NOW), StateRest) == []


def test_there_are_about_four_members_to_a_bucket_and_every_member_has_one() -> None:
    assert [bucket_count_for(count) for count in (1, 4, 5, 8, 9, 1000, 10**6)] == [1, 1, 2, 2, 4, 256, 4096]
    for count in (1, 2, 64, 4096):
        assert {bucket_of(peer_id(index), count) for index in range(200)} <= set(range(count))
    assert FAST.sync_interval_s > 0
