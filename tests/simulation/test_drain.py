"""Draining and moving: sessions leave a peer by somebody's wish, and spans move to where they lack."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pinfer.errors import LocalProtocolError, NoChain
from p2pinfer.ids import Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.news import GenerationFailed
from p2pinfer.testing.host import Host
from tests.inference.swarm import TimedHashEngine, unbroken
from tests.simulation.peer_swarm import PeerSwarm

EXPECTED = unbroken()


def swarm_of(seed: int, *, copies: int = 2) -> PeerSwarm:
    swarm = PeerSwarm(seed, copies=copies)
    assert swarm.settle()
    return swarm


def run_to_token(swarm: PeerSwarm, session: object, count: int) -> None:
    assert swarm.world.run_until_true(lambda: len(swarm.tokens(session)) >= count, 60.0)  # type: ignore[arg-type]


def drain(swarm: PeerSwarm, name: str) -> None:
    swarm.world.hosts[name].call(lambda core, now: (None, core.drain(now)))


def serve(host: Host, served: ServedSpan, *, movable: bool) -> None:
    host.call(lambda core, now: (None, core.serve(served, "hash:12", now, movable=movable)))


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_drained_peer_hands_its_sessions_over_and_is_done(hop: int) -> None:
    swarm = swarm_of(hop)
    session = swarm.ask()
    run_to_token(swarm, session, 9)
    leaving = swarm.chain(session)[hop]
    leaving.call(lambda core, now: (None, core.drain(now)))
    assert swarm.world.run_until_true(lambda: leaving.core.is_drained, 2.0)
    assert leaving not in swarm.chain(session)
    assert swarm.run(session) == EXPECTED
    assert len(swarm.recoveries(session)) == 1


def test_new_sessions_avoid_a_peer_that_drains() -> None:
    swarm = swarm_of(4)
    drain(swarm, "a0")
    swarm.world.run_for(2.0)
    session = swarm.ask()
    assert swarm.world.hosts["a0"] not in swarm.chain(session)
    assert swarm.run(session) == EXPECTED


def test_the_only_holder_serves_on_until_another_has_come() -> None:
    swarm = swarm_of(5, copies=1)
    session = swarm.ask()
    run_to_token(swarm, session, 3)
    b0 = swarm.world.hosts["b0"]
    drain(swarm, "b0")
    assert swarm.run(session) == EXPECTED
    assert not b0.core.is_drained
    assert b0.core.lacking() == (Span(4, 8),)
    second = swarm.ask(seed=2)
    run_to_token(swarm, second, 3)
    swarm.add("late", Span(3, 9))
    assert swarm.world.run_until_true(lambda: b0.core.is_drained, 10.0)
    assert swarm.run(second) == unbroken(seed=2)
    assert not swarm.of(second, GenerationFailed)


def test_two_that_drain_do_not_wait_for_each_other_with_their_sessions() -> None:
    swarm = swarm_of(6)
    drain(swarm, "b0")
    swarm.world.run_for(1.0)
    drain(swarm, "b1")
    swarm.world.run_for(1.0)
    assert swarm.world.hosts["b0"].core.is_drained
    assert not swarm.world.hosts["b1"].core.is_drained
    assert swarm.run(swarm.ask()) == EXPECTED


def test_draining_is_taken_back() -> None:
    swarm = swarm_of(7, copies=1)
    drain(swarm, "c0")
    swarm.world.run_for(1.0)
    swarm.world.hosts["c0"].call(lambda core, now: (None, core.resume(now)))
    swarm.world.run_for(1.0)
    assert swarm.run(swarm.ask()) == EXPECTED


def test_a_session_moves_to_the_peer_that_is_named() -> None:
    swarm = swarm_of(8, copies=3)
    session = swarm.ask()
    run_to_token(swarm, session, 9)
    away = swarm.chain(session)[1]
    to = next(swarm.world.hosts[n] for n in ("b2", "b1", "b0") if swarm.world.hosts[n] is not away)
    swarm.world.hosts["me"].call(
        lambda core, now: (None, core.move(session, away.contact.peer, to.contact.peer, now))
    )
    swarm.world.run_for(0.2)
    assert swarm.chain(session)[1] is to
    assert swarm.run(session) == EXPECTED


def test_a_move_that_nobody_can_take_changes_nothing() -> None:
    swarm = swarm_of(9, copies=1)
    session = swarm.ask()
    run_to_token(swarm, session, 3)
    me, b0 = swarm.world.hosts["me"].core, swarm.world.hosts["b0"].contact.peer
    with pytest.raises(NoChain):
        me.move(session, b0, None, swarm.world.now)
    with pytest.raises(LocalProtocolError, match="does not run through"):
        me.move(session, me.contact.peer, None, swarm.world.now)
    assert swarm.run(session) == EXPECTED


def test_one_of_those_that_may_move_is_told_to_fill_a_gap() -> None:
    swarm = swarm_of(10)
    served = {name: host.core.hop._served for name, host in swarm.world.hosts.items() if name != "me"}
    for name, host in swarm.world.hosts.items():
        if name != "me":
            serve(host, served[name], movable=True)
    swarm.world.run_for(5.0)

    def advised() -> dict[str, Span]:
        hosts = {name: host for name, host in swarm.world.hosts.items() if host.up and name != "me"}
        return {name: span for name, host in hosts.items() if (span := host.core.advised_span())}

    assert advised() == {}
    for name in ("c0", "c1"):
        swarm.world.hosts[name].crash()
    assert swarm.world.run_until_true(lambda: len(advised()) == 1, 30.0)
    swarm.world.run_for(5.0)
    ((name, span),) = advised().items()
    assert span == Span(8, 12)
    mover = swarm.world.hosts[name]
    mover.call(lambda core, now: (None, core.prepare(span, now)))
    swarm.world.run_for(2.0)
    assert advised() == {}  # who loads counts as if it held
    with pytest.raises(NoChain):
        swarm.ask()
    assert mover.worker is not None
    mover.worker.engine = TimedHashEngine(span, 12)
    serve(mover, replace(served[name], span=span), movable=True)
    swarm.world.run_for(2.0)
    assert swarm.run(swarm.ask()) == EXPECTED


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_drain_that_is_asked_for_during_a_move_outlasts_it(is_loaded: bool) -> None:
    swarm = swarm_of(11)
    mover = swarm.world.hosts["b1"]
    served = mover.core.hop._served
    mover.call(lambda core, now: (None, core.prepare(Span(0, 4), now)))
    swarm.world.run_for(1.0)
    drain(swarm, "b1")
    if is_loaded:
        assert mover.worker is not None
        mover.worker.engine = TimedHashEngine(Span(0, 4), 12)
        serve(mover, replace(served, span=Span(0, 4)), movable=True)
    else:
        mover.call(lambda core, now: (None, core.stay(now)))
    swarm.world.run_for(2.0)
    assert mover.core.is_draining
    assert mover.core.is_drained
    session = swarm.ask()
    assert mover not in swarm.chain(session)
    assert swarm.run(session) == EXPECTED
    mover.call(lambda core, now: (None, core.resume(now)))
    assert not mover.core.is_draining


def test_a_drain_during_a_move_waits_for_others_with_the_layers_that_are_served_still() -> None:
    swarm = swarm_of(12, copies=1)
    session = swarm.ask()
    run_to_token(swarm, session, 3)
    mover = swarm.world.hosts["b0"]
    mover.call(lambda core, now: (None, core.prepare(Span(0, 4), now)))
    drain(swarm, "b0")
    assert mover.core.lacking() == (Span(4, 8),)
    assert swarm.run(session) == EXPECTED
    assert not mover.core.is_drained
