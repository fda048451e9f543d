"""How an entry peer spreads its sessions, and whom it stops asking: the router with real cores around it."""

from __future__ import annotations

from collections import Counter

from p2pinfer.errors import Overloaded
from p2pinfer.ids import SessionId
from tests.inference.swarm import Swarm, unbroken


def run_all(swarm: Swarm, sessions: list[SessionId]) -> None:
    for number, session in enumerate(sessions):
        assert swarm.run(session) == unbroken(answer=10, seed=number)


def test_sessions_opened_at_once_are_spread_over_equal_holders() -> None:
    swarm = Swarm(1, copies=4)
    sessions = [swarm.ask(answer=10, seed=n) for n in range(16)]
    names = Counter(name for session in sessions for name in swarm.chain_names(session))
    assert len(names) == 12
    assert 3 <= min(names.values()) <= max(names.values()) <= 5
    run_all(swarm, sessions)


def test_a_second_holder_is_asked_where_the_first_is_slow_to_open() -> None:
    swarm = Swarm(2, copies=2)
    for _ in range(10):
        run_all(swarm, [swarm.ask(answer=10, seed=0)])
    stalled = swarm.host("b0")
    stalled.pause()
    started = swarm.world.now
    for _ in range(4):  # one of them at least is sent to the stalled one first
        session = swarm.ask(answer=10, seed=0)
        assert swarm.run(session) == unbroken(answer=10, seed=0)
    assert swarm.world.now - started < 4 * 0.9, "an opening waited for its timeout"
    assert swarm.me.core.statistics()["hedges_won"] >= 1
    stalled.resume()
    swarm.world.run_for(20.0)
    assert stalled.core.statistics()["sessions"] == 0


def test_who_fails_again_and_again_is_not_asked_any_more() -> None:
    swarm = Swarm(3, copies=2)
    swarm.engines["b0"].fails = True
    tried = 0
    for _ in range(12):
        session = swarm.ask(answer=10, seed=0)
        tried += "b0" in swarm.chain_names(session)
        assert swarm.run(session) == unbroken(answer=10, seed=0)
    assert 1 <= tried <= 4
    before = tried
    swarm.engines["b0"].fails = False
    swarm.world.run_for(60.0)
    for _ in range(8):
        session = swarm.ask(answer=10, seed=0)
        tried += "b0" in swarm.chain_names(session)
        assert swarm.run(session) == unbroken(answer=10, seed=0)
    assert tried > before, "it is asked again when what went wrong is forgiven"


def test_an_overload_is_not_multiplied_by_asking_everybody() -> None:
    swarm = Swarm(4, copies=6, memory=1)
    sessions = [swarm.ask(answer=10, seed=n) for n in range(40)]
    assert swarm.world.run_until_true(lambda: all(map(swarm.ended, sessions)), 60.0)
    for session in sessions:
        failure = swarm.failure(session)
        assert failure is not None
        assert isinstance(failure.error, Overloaded)
    refused = sum(host.core.statistics().get("refused_overloaded", 0) for host in swarm.world.hosts.values())
    assert 40 <= refused <= 40 * 3 * 1.3
