"""What one core answers to one message."""

from __future__ import annotations

import dataclasses

from p2pinfer.effects import Effect, Misbehaved
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import (
    Joined,
    MemberDead,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUpdated,
    RoundTrip,
)
from p2pinfer.wire.messages.swim import (
    Accusation,
    Ack,
    Gossip,
    IndirectAck,
    Nack,
    Ping,
    PingRequest,
    StateReply,
    StateRequest,
)
from tests.swim.swarm import FAST, contact, endpoint, key, make_core, news, peer_id, record, sent, sign

NOTHING = Gossip()


def accusation(accuser: int, accused: int, incarnation: int = 1, *, dead: bool = False) -> Accusation:
    return sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=dead)
    )


def knowing(*others: int, now: float = 0.0, config: SwimConfig = FAST) -> SwimCore:
    core = make_core(0, now=now, config=config)
    core.receive(contact(1), Gossip(records=tuple(record(each) for each in others)), now)
    return core


def state_of(core: SwimCore, index: int) -> MemberState | None:
    states = {view.record.public_key: view.state for view in core.members()}
    return states.get(key(index))


def hear(core: SwimCore, *statements: Accusation, now: float = 1.0) -> list[object]:
    return news(core.receive(contact(1), Gossip(accusations=statements), now))


def test_a_record_of_a_stranger_is_a_new_member() -> None:
    core = make_core(0)
    first = record(1)
    assert news(core.receive(contact(1), Gossip(records=(first,)), 0.0)) == [MemberJoined(first)]
    assert core.receive(contact(1), Gossip(records=(first,)), 0.0) == []
    assert core.alive() == tuple(sorted((core.record, first), key=lambda each: each.owner))


def test_a_higher_incarnation_moves_a_member_at_once() -> None:
    core = knowing(1)
    moved = record(1, 2, endpoint=Endpoint("10.9.9.9", 1))
    assert news(core.receive(contact(1), Gossip(records=(moved,)), 0.0)) == [MemberUpdated(moved)]
    pings = sent(core.suspect(peer_id(1), 1.0), Ping)
    assert [to.endpoint for to, _ in pings] == [moved.endpoint]


def test_an_older_record_changes_nothing() -> None:
    core = make_core(0)
    core.receive(contact(1), Gossip(records=(record(1, 5),)), 0.0)
    assert core.receive(contact(1), Gossip(records=(record(1, 4),)), 0.0) == []
    assert core.statistics()["records_stale"] == 1


def test_a_last_word_is_told_from_death() -> None:
    core = knowing(1)
    assert news(core.receive(contact(2), Gossip(records=(record(1, 2, leaving=True),)), 0.0)) == [
        MemberLeft(peer_id(1))
    ]
    assert state_of(core, 1) is MemberState.LEFT
    assert news(core.receive(contact(2), Gossip(records=(record(1, 1),)), 0.0)) == []


def test_expired_and_future_records_are_refused() -> None:
    core = make_core(0, now=1000.0)
    stale = record(1, 1, expires_s=900.0)
    future = record(2, 2_000_000)
    assert core.receive(contact(1), Gossip(records=(stale, future)), 1000.0) == []
    counted = core.statistics()
    assert (counted["records_expired_refused"], counted["records_implausible"]) == (1, 1)


def test_a_ping_is_answered_with_its_sequence() -> None:
    core = knowing(1)
    assert [(to, ack.sequence) for to, ack in sent(core.receive(contact(1), _ping(7), 0.1), Ack)] == [
        (contact(1), 7)
    ]


def test_a_stranger_that_pings_is_asked_who_it_is_once_a_period() -> None:
    core = make_core(0)
    asked = [len(sent(core.receive(contact(5), _ping(each), 0.01), StateRequest)) for each in range(3)]
    assert asked == [1, 0, 0]


def test_an_accused_member_is_told_first_when_it_pings() -> None:
    # Lifeguard IV-C, the buddy system: who is suspected learns it with the next contact.
    core = knowing(1, 2, 3)
    word = accusation(2, 3)
    hear(core, word)
    for each in range(20):  # long after the queue is empty
        core.receive(contact(1), _ping(each), 1.0)
    [(_, ack)] = sent(core.receive(contact(3), _ping(99), 1.0), Ack)
    assert ack.gossip.accusations == (word,)


def test_being_accused_is_refuted_in_the_very_answer() -> None:
    core = make_core(0, now=10.0)
    core.receive(contact(1), Gossip(records=(record(1),)), 20.0)
    before = core.record
    ping = Ping(sequence=1, gossip=Gossip(accusations=(accusation(1, 0, before.incarnation),)))
    [(_, ack)] = sent(core.receive(contact(1), ping, 20.0), Ack)
    assert core.record.incarnation > before.incarnation
    assert core.record in ack.gossip.records


def test_an_accusation_of_another_incarnation_is_not_answered() -> None:
    core = knowing(1)
    mine = core.record
    for incarnation in (mine.incarnation + 1, mine.incarnation + 10**9):
        assert core.receive(contact(1), Gossip(accusations=(accusation(1, 0, incarnation),)), 9.0) == []
    assert core.record == mine


def test_refutations_cannot_be_driven_ahead_of_the_clock() -> None:
    core = make_core(0, now=0.0)
    core.receive(contact(1), Gossip(records=(record(1, 0),)), 0.0)
    now = 0.0
    for _ in range(2000):
        now += 0.0005
        lie = accusation(1, 0, core.record.incarnation)
        core.receive(contact(1), Gossip(accusations=(lie,)), now)
        core.tick(now)
    assert core.record.incarnation <= now * 1000 + 1


def test_accusations_of_other_incarnations_by_strangers_or_oneself_count_for_nothing() -> None:
    core = knowing(1, 2)
    assert hear(core, accusation(1, 2, 0), accusation(1, 2, 2), accusation(9, 2), accusation(1, 9)) == []
    assert state_of(core, 2) is MemberState.ALIVE
    effects = core.receive(contact(1), Gossip(accusations=(accusation(2, 2),)), 1.0)
    assert effects == [Misbehaved(peer_id(2), "accuses itself of being unreachable")]


def test_word_of_a_death_alone_only_suspects() -> None:
    core = knowing(1, 2, 3, 4)
    assert hear(core, accusation(1, 2, dead=True)) == [MemberSuspected(peer_id(2))]
    assert state_of(core, 2) is MemberState.SUSPECT


def test_a_suspicion_runs_out_and_confirmations_hasten_it() -> None:
    steady = dataclasses.replace(FAST, health_max=1)  # nobody answers: it would find itself slow and wait

    def seconds_to_death(accusers: int) -> float:
        core = knowing(1, 2, 3, 4, 5, config=steady)
        hear(core, *(accusation(each, 5) for each in range(1, accusers + 1)), now=0.0)
        for millis in range(0, 30_000, 100):
            heard = news(_run_to(core, millis / 1000))
            if MemberDead(peer_id(5)) in heard:
                return millis / 1000
        return 99.0

    # Its own failed probe is one confirmation more, so one accuser gives 24 - 20 * log 2 / log 3.
    assert [seconds_to_death(each) for each in (1, 3, 4)] == [11.4, 4.0, 4.0]
    assert 4.0 < seconds_to_death(2) < 11.4


def test_a_record_above_the_accused_incarnation_ends_suspicion_and_death() -> None:
    core = knowing(1, 2)
    hear(core, accusation(1, 2))
    back = record(2, 2)
    assert news(core.receive(contact(1), Gossip(records=(back,)), 1.0)) == [MemberUpdated(back)]
    hear(core, accusation(1, 2, 2))
    core.tick(1.1)
    assert MemberDead(peer_id(2)) in news(_run_to(core, 10.0))
    again = record(2, 3)
    assert news(core.receive(contact(1), Gossip(records=(again,)), 11.0)) == [MemberJoined(again)]


def test_a_helper_pings_the_endpoint_it_knows_and_reports() -> None:
    core = knowing(1, 2)
    request = PingRequest(sequence=55, target=peer_id(2))
    [(to, ping)] = sent(core.receive(contact(1), request, 0.0), Ping)
    assert to == contact(2)
    answer = core.receive(contact(2), Ack(sequence=ping.sequence, gossip=NOTHING), 0.1)
    assert sent(answer, IndirectAck) == [(contact(1), IndirectAck(sequence=55))]


def test_a_helper_says_so_when_the_target_is_silent_or_unknown() -> None:
    core = knowing(1, 2)
    core.receive(contact(1), PingRequest(sequence=55, target=peer_id(2)), 0.0)
    assert sent(core.tick(0.4), Nack) == [(contact(1), Nack(sequence=55))]
    unknown = core.receive(contact(1), PingRequest(sequence=56, target=peer_id(9)), 0.4)
    assert sent(unknown, Nack) == [(contact(1), Nack(sequence=56))]


def test_a_probe_goes_through_helpers_before_it_blames() -> None:
    core = knowing(1, 2, 3, 4, 5)
    [(_, ping)] = sent(core.suspect(peer_id(5), 0.0), Ping)
    asked = sent(_run_to(core, 0.5), PingRequest)
    assert len({to for to, _ in asked} - {contact(5)}) == 3
    assert {request.target for _, request in asked} == {peer_id(5)}
    assert MemberSuspected(peer_id(5)) in news(_run_to(core, 1.0))
    assert core.receive(contact(5), Ack(sequence=ping.sequence, gossip=NOTHING), 1.1) == []


def test_one_indirect_ack_is_enough() -> None:
    core = knowing(1, 2, 3, 4, 5)
    [(_, ping)] = sent(core.suspect(peer_id(5), 0.0), Ping)
    helper = sent(_run_to(core, 0.5), PingRequest)[0][0]
    core.receive(helper, IndirectAck(sequence=ping.sequence), 0.9)
    assert MemberSuspected(peer_id(5)) not in news(_run_to(core, 1.0))


def test_a_direct_answer_is_a_round_trip() -> None:
    core = knowing(1)
    [(_, ping)] = sent(core.suspect(peer_id(1), 5.0), Ping)
    heard = news(core.receive(contact(1), Ack(sequence=ping.sequence, gossip=NOTHING), 5.25))
    assert heard == [RoundTrip(peer_id(1), 0.25)]


def test_a_state_request_is_merged_before_it_is_answered() -> None:
    core = knowing(1)
    theirs = record(2)
    [(to, reply)] = sent(core.receive(contact(2), StateRequest(records=(theirs,)), 0.0), StateReply)
    assert to == contact(2)
    assert theirs in reply.records
    assert core.record in reply.records


def test_answers_to_state_requests_are_rationed() -> None:
    core = knowing(1)
    request = StateRequest(sums=(0,))
    answers = sum(len(sent(core.receive(contact(1), request, 0.0), StateReply)) for _ in range(500))
    assert answers == 64
    assert core.statistics()["sync_refused"] == 436


def test_the_first_reply_is_the_join() -> None:
    core = make_core(0)
    reply = StateReply(records=(record(1), record(2)))
    assert Joined(3) in news(core.receive(contact(1), reply, 0.0))
    assert Joined(3) not in news(core.receive(contact(1), reply, 0.0))


def test_who_is_dead_elsewhere_and_unknown_here_is_no_news() -> None:
    core = make_core(0)
    reply = StateReply(records=(record(1), record(2)), accusations=(accusation(1, 2, dead=True),))
    assert news(core.receive(contact(1), reply, 0.0)) == [MemberJoined(record(1)), Joined(2)]
    assert state_of(core, 2) is MemberState.DEAD
    assert news(core.receive(contact(1), Gossip(records=(record(2),)), 0.0)) == []


def test_a_death_told_in_a_state_exchange_is_put_to_the_accused_directly() -> None:
    core = knowing(1, 2)
    core.tick(0.0)
    word = accusation(1, 2, dead=True)
    core.receive(contact(1), StateReply(records=(record(1),), accusations=(word,)), 1.0)
    pings = [(to, ping) for to, ping in sent(core.tick(1.3), Ping) if to == contact(2)]
    assert [word in ping.gossip.accusations for _, ping in pings] == [True]


def test_nonsense_is_ignored() -> None:
    core = knowing(1)
    assert core.receive(Contact(None, endpoint(1)), _ping(1), 0.0) == []
    assert core.receive(contact(0), _ping(1), 0.0) == []
    assert core.receive(contact(1), record(1), 0.0) == []
    assert core.receive(contact(1), Ack(sequence=123456, gossip=NOTHING), 0.0) == []
    assert core.statistics()["messages_ignored"] == 3


def _ping(sequence: int) -> Ping:
    return Ping(sequence=sequence, gossip=NOTHING)


def _run_to(core: SwimCore, now: float) -> list[Effect]:
    """Tick, a little at a time, up to `now`, so that no lag is seen; the news and sends of all of it."""
    effects: list[Effect] = []
    while (deadline := core.deadline) is not None and deadline <= now:
        effects += core.tick(max(deadline, 0.0))
    return [*effects, *core.tick(now)]
