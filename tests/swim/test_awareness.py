"""Lifeguard IV-A: how a peer that finds itself slow probes more slowly."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.effects import Effect
from p2pinfer.swim.awareness import Awareness
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.news import MemberSuspected
from p2pinfer.wire.messages.swim import Accusation, Ack, Gossip, Nack, Ping, PingRequest
from tests.swim.swarm import FAST, contact, key, make_core, news, peer_id, record, sent, sign

LAN = SwimConfig.lan()


def test_missed_nacks_count_and_an_answer_takes_one_back() -> None:
    awareness = Awareness(LAN)
    awareness.unanswered(3, 1)
    assert awareness.score == 2
    awareness.unanswered(3, 3)  # all helpers were heard: the fault is the target's
    assert awareness.score == 2
    awareness.answered()
    assert (awareness.score, awareness.stretch) == (1, 2)


def test_without_helpers_a_failed_probe_counts_once() -> None:
    awareness = Awareness(LAN)
    awareness.unanswered(0, 0)
    assert awareness.score == 1


@given(st.lists(st.sampled_from(["answered", "unanswered", "accused", "stopped"]), max_size=40))
def test_the_score_stays_within_its_bounds(what: list[str]) -> None:
    awareness = Awareness(LAN)
    for each in what:
        if each == "unanswered":
            awareness.unanswered(3, 0)
        else:
            getattr(awareness, each)()
        assert 0 <= awareness.score <= 7


def test_a_multiplier_of_one_never_stretches() -> None:
    awareness = Awareness(dataclasses.replace(LAN, health_max=1))
    awareness.stopped()
    assert awareness.stretch == 1


def knowing(*others: int, config: SwimConfig = FAST) -> SwimCore:
    core = make_core(0, config=config)
    core.receive(contact(1), Gossip(records=tuple(record(each) for each in others)), 0.0)
    return core


def run_to(core: SwimCore, now: float) -> list[Effect]:
    effects: list[Effect] = []
    while (deadline := core.deadline) is not None and deadline <= now:
        effects += core.tick(deadline)
    return effects


def score(core: SwimCore) -> object:
    return core.statistics()["health_score"]


def test_helpers_that_say_nothing_lengthen_interval_and_timeout() -> None:
    # Lifeguard IV-A: both, where memberlist lengthens the interval alone.
    core = knowing(1, 2, 3, 4, 5)
    core.suspect(peer_id(5), 0.0)
    assert MemberSuspected(peer_id(5)) in news(run_to(core, 1.0))
    stretch = 1 + int(str(score(core)))
    assert stretch >= 4  # three helpers missed, and whatever the regular probe missed
    begun = [at for at in _probes_begun(core, 30.0) if at > 2.0]
    assert begun[1] - begun[0] >= stretch * FAST.probe_interval_s
    first = begun[0]
    core = knowing(1, 2, 3, 4, 5)
    for _ in range(3):
        core.receive(contact(1), Gossip(accusations=(_accusing(core),)), core.record.incarnation / 1000 + 1)
    assert first > 0


def _accusing(core: SwimCore) -> Accusation:
    return sign(Accusation(public_key=key(1), accused=peer_id(0), incarnation=core.record.incarnation))


def _probes_begun(core: SwimCore, until: float) -> list[float]:
    begun: list[float] = []
    while (deadline := core.deadline) is not None and deadline <= until:
        effects = core.tick(deadline)
        if sent(effects, Ping):
            begun.append(deadline)
    return begun


def test_helpers_that_are_heard_prove_this_peer_well() -> None:
    core = knowing(1, 2, 3, 4, 5)
    [(_, ping)] = sent(core.suspect(peer_id(5), 0.0), Ping)
    effects = run_to(core, 0.55)
    asked = [to for to, request in sent(effects, PingRequest) if request.sequence == ping.sequence]
    for helper in asked:
        core.receive(helper, Nack(sequence=ping.sequence), 0.9)
    answered = {each.sequence: to for to, each in sent(effects, Ping) if each.sequence != ping.sequence}
    for sequence, to in answered.items():
        core.receive(to, Ack(sequence=sequence, gossip=Gossip()), 0.95)
    assert MemberSuspected(peer_id(5)) in news(run_to(core, 1.0))
    assert score(core) == 0


def test_refuting_and_standing_still_tell_a_peer_that_it_is_slow() -> None:
    core = make_core(0, now=10.0)
    core.receive(contact(1), Gossip(records=(record(1),)), 10.0)
    core.receive(contact(1), Gossip(accusations=(_accusing(core),)), 10.1)
    assert score(core) == 1
    core.tick(60.0)
    assert core.statistics()["lags"] == 1
    assert score(core) == 2


def test_switched_off_nothing_of_it_happens() -> None:
    core = knowing(1, 2, 3, 4, 5, config=dataclasses.replace(FAST, lifeguard=False))
    core.suspect(peer_id(5), 0.0)
    run_to(core, 1.0)
    begun = [at for at in _probes_begun(core, 9.0) if at > 2.0]
    assert begun[1] - begun[0] <= FAST.probe_interval_s + 1e-9
    core.tick(500.0)
    assert "lags" not in core.statistics()
