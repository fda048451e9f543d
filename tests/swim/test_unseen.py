"""Words of deaths in incarnations of which no record was seen, alone and in a core."""

from __future__ import annotations

from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import MemberDead, MemberJoined, MemberUpdated
from p2pinfer.swim.unseen import UnseenDeaths
from p2pinfer.wire.messages.swim import Accusation, Ack, Gossip, Ping, StateReply
from tests.swim.swarm import contact, key, make_core, news, peer_id, record, sent, sign

NOW = 100.0


def word(accuser: int, accused: int, incarnation: int, *, dead: bool = True) -> Accusation:
    return sign(
        Accusation(public_key=key(accuser), accused=peer_id(accused), incarnation=incarnation, dead=dead)
    )


def test_the_highest_word_is_kept_until_a_record_overcomes_it() -> None:
    deaths = UnseenDeaths()
    assert deaths.note(word(1, 2, 10), NOW)
    assert not deaths.note(word(1, 2, 9), NOW)
    assert deaths.against(peer_id(2), 10) == word(1, 2, 10)
    assert deaths.against(peer_id(3), 1) is None
    assert deaths.against(peer_id(2), 11) is None
    assert len(deaths) == 0


def test_suspicions_and_words_ahead_of_the_clock_are_not_kept() -> None:
    deaths = UnseenDeaths()
    assert not deaths.note(word(1, 2, 10, dead=False), NOW)
    assert not deaths.note(word(1, 2, 100_001), NOW)


def test_words_are_bounded() -> None:
    deaths = UnseenDeaths()
    for index in range(1000):
        deaths.note(word(1, index, 5), NOW)
    assert len(deaths) == 256


def state_of(core: SwimCore, index: int) -> MemberState | None:
    states = {view.record.public_key: view.state for view in core.members()}
    return states.get(key(index))


def dead_at_one() -> SwimCore:
    """A core to which member 2 is dead in incarnation 1."""
    core = make_core(0, now=NOW)
    dead = word(1, 2, 1)
    core.receive(contact(1), StateReply(records=(record(1), record(2)), accusations=(dead,)), NOW)
    assert state_of(core, 2) is MemberState.DEAD
    return core


def test_unseen_dead_at_ten_then_alive_at_two_stays_dead() -> None:
    # al8n/memberlist PR 197: memberlist ignores the word, and the late record brings the dead back.
    core = dead_at_one()
    core.receive(contact(1), Gossip(accusations=(word(1, 2, 10),)), NOW)
    assert news(core.receive(contact(1), Gossip(records=(record(2, 2),)), NOW)) == []
    assert news(core.receive(contact(1), Gossip(records=(record(2, 10),)), NOW)) == []
    assert state_of(core, 2) is MemberState.DEAD
    back = record(2, 11)
    assert news(core.receive(contact(1), Gossip(records=(back,)), NOW)) == [MemberJoined(back)]


def test_so_does_who_was_never_met() -> None:
    core = make_core(0, now=NOW)
    core.receive(contact(1), Gossip(records=(record(1),)), NOW)
    core.receive(contact(1), Gossip(accusations=(word(1, 2, 10),)), NOW)
    assert news(core.receive(contact(1), Gossip(records=(record(2, 2),)), NOW)) == []
    assert state_of(core, 2) is None


def test_who_is_kept_out_by_a_lie_is_told_and_comes_in() -> None:
    core = make_core(0, now=NOW)
    liar, victim = make_core(1, now=NOW), make_core(2, now=NOW - 5)
    core.receive(contact(1), Gossip(records=(liar.record,)), NOW)
    lie = word(1, 2, int(NOW * 1000))
    core.receive(contact(1), Gossip(accusations=(lie,)), NOW)
    assert news(core.receive(contact(1), Gossip(records=(victim.record,)), NOW)) == []
    [(to, ping)] = [each for each in sent(core.tick(NOW + 0.3), Ping) if each[0] == contact(2)]
    assert lie in ping.gossip.accusations
    victim.receive(contact(0), Gossip(records=(core.record,)), NOW + 0.3)
    [(_, ack)] = sent(victim.receive(contact(0), ping, NOW + 0.3), Ack)
    assert MemberJoined(victim.record) in news(core.receive(to, ack, NOW + 0.3))
    assert victim.record.incarnation == lie.incarnation + 1


def test_a_word_about_the_living_changes_nothing() -> None:
    core = make_core(0, now=NOW)
    core.receive(contact(1), Gossip(records=(record(1), record(2))), NOW)
    assert news(core.receive(contact(1), Gossip(accusations=(word(1, 2, 10),)), NOW)) == []
    assert state_of(core, 2) is MemberState.ALIVE
    newer = record(2, 2)
    heard = news(core.receive(contact(1), Gossip(records=(newer,)), NOW))
    assert heard == [MemberUpdated(newer)]
    assert MemberDead(peer_id(2)) not in heard


def test_a_replayed_record_after_a_leave_is_refused() -> None:
    core = make_core(0, now=NOW)
    core.receive(contact(1), Gossip(records=(record(2, 5),)), NOW)
    core.receive(contact(1), Gossip(records=(record(2, 6, leaving=True),)), NOW)
    for incarnation in (5, 6):
        assert news(core.receive(contact(1), Gossip(records=(record(2, incarnation),)), NOW)) == []
    assert state_of(core, 2) is MemberState.LEFT
