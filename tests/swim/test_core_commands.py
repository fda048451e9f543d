"""What one core does when it is told to, and when time passes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Effect, Message
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import DatagramsLost, IdentityConflict, JoinFailed, MemberJoined, MemberSuspected
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import (
    Accusation,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    StateReply,
    StateRequest,
    StateRest,
    StreamAck,
    StreamPing,
)
from tests.swim.swarm import (
    FAST,
    contact,
    endpoint,
    holding,
    key,
    make_core,
    news,
    peer_id,
    record,
    sent,
    sign,
)

NOTHING = Gossip()


def run_to(core: SwimCore, now: float) -> list[Effect]:
    effects: list[Effect] = []
    while (deadline := core.deadline) is not None and deadline <= now:
        effects += core.tick(deadline)
    return effects


def test_a_core_is_a_member_from_the_start() -> None:
    core = make_core(0, now=1234.5)
    assert core.alive() == (core.record,)
    assert core.record.incarnation == 1_234_500
    assert core.record.signature


def test_join_asks_each_endpoint_but_its_own() -> None:
    core = make_core(0)
    asked = sent(core.join([endpoint(1), endpoint(0), endpoint(2)], 0.0), StateRequest)
    assert [to for to, _ in asked] == [Contact(None, endpoint(1)), Contact(None, endpoint(2))]
    assert all(request.records == (core.record,) for _, request in asked)


def test_an_unreachable_endpoint_is_told_and_tried_again() -> None:
    core = make_core(0)
    core.join([endpoint(1)], 0.0)
    assert news(core.disconnected(Contact(None, endpoint(1)), 0.1)) == [
        JoinFailed(endpoint(1), "nobody answers there")
    ]
    assert sent(run_to(core, 5.0), StateRequest)


def test_bootstrap_addresses_are_asked_again_when_everybody_is_gone() -> None:
    core = make_core(0)
    core.join([endpoint(1)], 0.0)
    core.receive(contact(1), StateReply(records=(record(1),)), 0.1)
    assert core.deadline is not None
    effects = run_to(core, 60.0)
    late = [to for to, _ in sent(effects, StateRequest) if to.peer is None]
    assert late, "the lost swarm is looked for where it was found"


def test_a_holding_is_told_and_a_burst_of_changes_is_gathered() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    run_to(core, 2.0)
    first = core.record.incarnation
    told: list[Effect] = []
    for queue in range(50):
        told += core.set_holding(holding(queue=queue), 2.0 + queue / 100)
    told += run_to(core, 4.0)
    incarnations = {
        each.incarnation for _, gossip in sent(told, Gossip) for each in gossip.records if each.holding
    }
    assert core.record.holding == holding(queue=49)
    assert len(incarnations) == 2
    assert core.record.incarnation > first


def test_another_endpoint_is_told_with_the_next_incarnation_and_the_same_one_is_no_news() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    run_to(core, 2.0)
    before = core.record
    told = core.set_endpoint(endpoint(9), 2.0) + run_to(core, 3.0)
    records = [
        each for _, gossip in sent(told, Gossip) for each in gossip.records if each.owner == peer_id(0)
    ]
    assert records
    assert all(each.endpoint == endpoint(9) for each in records)
    assert core.record.incarnation == before.incarnation + 1
    told_again = core.record
    core.set_endpoint(endpoint(9), 3.0)
    run_to(core, 4.0)
    assert core.record == told_again


def test_the_same_holding_again_is_no_news() -> None:
    core = make_core(0)
    core.set_holding(holding(), 1.0)
    told = core.record
    core.set_holding(holding(), 9.0)
    assert core.record == told


def test_the_record_is_renewed_well_before_it_expires() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    now = 0.0
    while now < 300.0:
        deadline = core.deadline
        assert deadline is not None
        now = max(now, deadline)
        core.tick(now)
        assert core.record.expires_ms / 1000 > now + 25
    assert core.statistics()["incarnation"] >= 10


def test_a_member_that_does_not_renew_is_suspected() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1, expires_s=10.0),)), 0.0)
    suspected_at = None
    now = 0.0
    while suspected_at is None and now < 60:
        deadline = core.deadline
        assert deadline is not None
        now = max(now, deadline)
        effects = core.tick(now)
        if MemberSuspected(peer_id(1)) in news(effects):
            suspected_at = now
        for to, ping in sent(effects, Ping):  # it answers every probe, and yet:
            core.receive(to, Ack(sequence=ping.sequence, gossip=NOTHING), now)
    assert suspected_at is not None
    assert 15.0 <= suspected_at <= 19.0


def test_leaving_is_told_and_then_there_is_nothing_more_to_do() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1), record(2))), 0.0)
    run_to(core, 3.0)
    told = core.leave(3.0) + run_to(core, 9.0)
    assert core.has_left
    assert core.deadline is None
    words = [each for _, gossip in sent(told, Gossip) for each in gossip.records]
    assert {(each.public_key, each.leaving) for each in words} == {(key(0), True)}
    assert [view.state for view in core.members() if view.record == core.record] == [MemberState.LEFT]
    ping = Ping(sequence=4, gossip=NOTHING)
    assert [ack.sequence for _, ack in sent(core.receive(contact(1), ping, 9.0), Ack)] == [4]
    assert core.receive(contact(1), Gossip(records=(record(5),)), 9.0) == []


def test_who_left_can_join_again() -> None:
    core = make_core(0)
    core.leave(1.0)
    left = core.record
    core.join([endpoint(1)], 2.0)
    assert not core.record.leaving
    assert core.record.incarnation > left.incarnation
    assert core.deadline is not None


def test_an_exchange_that_taught_members_is_repeated_soon_and_then_no_more() -> None:
    core = make_core(0, config=SwimConfig.lan())
    core.receive(contact(1), StateReply(records=(record(1), record(2))), 0.1)
    assert len(sent(run_to(core, 2.1), StateRequest)) == 1
    core.receive(contact(1), StateReply(records=(record(1), record(2))), 2.2)
    assert sent(run_to(core, 4.3), StateRequest) == []


def test_hints_are_pinged_and_an_answer_begins_an_exchange() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    hints = [contact(index) for index in (0, 1, 2, 3, 4)]
    pings = sent(core.merge_hint(hints, 0.0), Ping)
    assert len(pings) == 2
    assert {to for to, _ in pings} <= {contact(2), contact(3), contact(4)}
    to, ping = pings[0]
    answered = core.receive(to, Ack(sequence=ping.sequence, gossip=NOTHING), 0.1)
    assert [asked for asked, _ in sent(answered, StateRequest)] == [to]


def test_the_dead_are_pinged_from_time_to_time_with_the_word_of_their_death() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1, 7),)), 0.0)
    run_to(core, 10.0)
    pings = [ping for to, ping in sent(run_to(core, 25.0), Ping) if to == contact(1)]
    assert pings
    assert all([each.dead for each in ping.gossip.accusations] == [True] for ping in pings)
    back = record(1, 8)
    ack = Ack(sequence=pings[-1].sequence, gossip=Gossip(records=(back,)))
    effects = core.receive(contact(1), ack, 25.0)
    assert MemberJoined(back) in news(effects)


def test_a_peer_that_was_stopped_blames_nobody() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1), record(2), record(3))), 0.0)
    core.suspect(peer_id(1), 0.0)
    assert MemberSuspected(peer_id(1)) not in news(core.tick(500.0))
    assert core.statistics()["lags"] == 1


def test_an_earlier_self_with_a_higher_incarnation_is_outbid() -> None:
    core = make_core(0, now=100.0)
    earlier = record(0, 103_000)
    core.receive(contact(1), StateReply(records=(earlier, record(1))), 101.0)
    run_to(core, 101.5)
    assert core.record.incarnation > earlier.incarnation
    assert core.statistics()["own_record_conflicts"] == 1


def test_what_is_past_and_expired_binds_nobody() -> None:
    core = make_core(0, now=100.0)
    core.receive(contact(1), Gossip(records=(record(1, 100_000, expires_s=160.0), record(2))), 100.0)
    now = 100.0
    while now < 200.0:
        deadline = core.deadline
        assert deadline is not None
        now = max(now, deadline)
        core.tick(now)
    states = {view.record.public_key: view.state for view in core.members()}
    assert states[key(1)] is MemberState.DEAD
    reborn = record(1, 50_000)  # its clock went back and its disk is gone
    assert news(core.receive(contact(1), Gossip(records=(reborn,)), 200.0)) == [MemberJoined(reborn)]


def test_an_early_tick_does_nothing() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1),)), 0.0)
    run_to(core, 2.0)
    deadline = core.deadline
    assert deadline is not None
    before = core.statistics()
    assert core.tick(deadline - 0.0001) == []
    assert core.statistics() == before
    assert core.deadline == deadline


@pytest.mark.parametrize("count_max", [5])
def test_the_table_is_bounded(count_max: int) -> None:
    core = make_core(0, config=dataclasses.replace(FAST, member_count_max=count_max))
    core.receive(contact(1), StateReply(records=tuple(record(index) for index in range(1, 50))), 0.0)
    assert len(core.members()) == count_max + 1
    assert core.statistics()["members_refused"] == 49 - count_max


INDEX = st.integers(0, 5)
NUMBER = st.integers(0, 5)
RECORDS = st.builds(
    lambda index, incarnation, leaving: record(index, incarnation, leaving=leaving),
    INDEX,
    NUMBER,
    st.booleans(),
)
ACCUSATIONS = st.builds(
    lambda accuser, accused, incarnation, dead: sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=dead)
    ),
    INDEX,
    INDEX,
    NUMBER,
    st.booleans(),
)
RECORD_LISTS = st.lists(RECORDS, max_size=4).map(tuple)
ACCUSATION_LISTS = st.lists(ACCUSATIONS, max_size=4).map(tuple)
GOSSIP = st.builds(lambda r, a: Gossip(records=r, accusations=a), RECORD_LISTS, ACCUSATION_LISTS)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    GOSSIP,
    st.builds(lambda s, g: Ping(sequence=s, gossip=g), NUMBER, GOSSIP),
    st.builds(lambda s, g: Ack(sequence=s, gossip=g), NUMBER, GOSSIP),
    st.builds(lambda s: Nack(sequence=s), NUMBER),
    st.builds(lambda s, i: PingRequest(sequence=s, target=peer_id(i)), NUMBER, INDEX),
    st.builds(
        lambda r, sums: StateRequest(records=r[:1], sums=sums),
        RECORD_LISTS,
        st.lists(st.integers(0, 2), max_size=5).map(tuple),
    ),
    st.builds(lambda r, a: StateRest(records=r, accusations=a), RECORD_LISTS, ACCUSATION_LISTS),
    st.builds(lambda s: StreamPing(sequence=s), NUMBER),
    st.builds(lambda s: StreamAck(sequence=s), NUMBER),
    st.builds(lambda r, a: StateReply(records=r, accusations=a), RECORD_LISTS, ACCUSATION_LISTS),
)


@given(st.lists(st.tuples(INDEX, MESSAGES, st.floats(0, 3)), max_size=25))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_whatever_is_heard_is_survived_and_incarnations_never_fall(
    heard: list[tuple[int, Message, float]],
) -> None:
    core = make_core(0)
    now = 0.0
    known: dict[PeerId, int] = {}
    for index, message, wait_s in heard:
        now += wait_s
        core.receive(contact(index), message, now)
        core.tick(now)
        assert core.deadline is not None
        for view in core.members():
            owner = view.record.owner
            assert view.record.incarnation >= known.get(owner, 0)
            known[owner] = view.record.incarnation
        assert len(core.members()) <= 6
    assert core.record.owner == peer_id(0)


def test_an_application_may_veto_who_joins() -> None:
    core = make_core(0)
    asked: list[bytes] = []

    def admit(newcomer: PeerRecord) -> bool:
        asked.append(newcomer.public_key)
        return newcomer.public_key != key(2)

    core.screen(admit)
    core.receive(contact(1), Gossip(records=(record(1), record(2))), 0.0)
    core.receive(contact(1), Gossip(records=(record(1, 2), record(2, 2))), 0.0)
    assert {each.public_key for each in core.alive()} == {key(0), key(1)}
    assert asked == [key(1), key(2), key(2)], "who is a member is not asked about again"
    assert core.statistics()["members_vetoed"] == 2


def test_a_second_process_with_this_key_is_told() -> None:
    core = make_core(0, now=100.0)
    other = record(0, 100_500, endpoint=endpoint(7))
    assert IdentityConflict(endpoint(7)) in news(core.receive(contact(1), Gossip(records=(other,)), 101.0))
    same_place = record(0, 100_900)
    assert news(core.receive(contact(1), Gossip(records=(same_place,)), 101.0)) == []


def test_a_silent_target_is_asked_over_a_stream_in_the_last_resort() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=tuple(record(each) for each in range(1, 6))), 0.0)
    [(_, ping)] = sent(core.suspect(peer_id(5), 0.0), Ping)
    early = run_to(core, 0.7)
    assert not [to for to, _ in sent(early, StreamPing)]
    asked = [(to, each.sequence) for to, each in sent(run_to(core, 0.76), StreamPing)]
    assert (contact(5), ping.sequence) in asked
    heard = news(core.receive(contact(5), StreamAck(sequence=ping.sequence), 0.9))
    assert heard == [DatagramsLost(peer_id(5))]
    assert MemberSuspected(peer_id(5)) not in news(run_to(core, 1.0))


def test_a_question_over_a_stream_is_answered_and_counts_from_the_target_alone() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=tuple(record(each) for each in range(1, 6))), 0.0)
    assert sent(core.receive(contact(1), StreamPing(sequence=9), 0.0), StreamAck) == [
        (contact(1), StreamAck(sequence=9))
    ]
    [(_, ping)] = sent(core.suspect(peer_id(5), 0.0), Ping)
    run_to(core, 0.76)
    assert core.receive(contact(4), StreamAck(sequence=ping.sequence), 0.9) == []
    assert MemberSuspected(peer_id(5)) in news(run_to(core, 1.0))
