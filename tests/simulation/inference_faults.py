"""What the simulations of inference have in common: faults at an exact message, and how a run must end."""

from __future__ import annotations

from collections.abc import Callable

from p2pinfer.errors import P2PInferError
from p2pinfer.ids import SessionId
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.news import GenerationFailed, Sampled
from p2pinfer.testing import Packet
from p2pinfer.testing.host import Host
from tests.inference.swarm import Swarm, unbroken

INFERENCE_TAGS = range(64, 80)
QUIET_S = 140.0
"""Longer than a hop keeps a session that nobody mentions."""

Strike = Callable[[Swarm, Host, Host], object]
"""A fault on the way from one host to the other."""


def crash_target(swarm: Swarm, source: Host, target: Host) -> None:
    (target if target is not swarm.me else source).crash()


def restart_target(swarm: Swarm, source: Host, target: Host) -> None:
    (target if target is not swarm.me else source).restart()


def break_stream(swarm: Swarm, source: Host, target: Host) -> None:
    assert target.contact.peer is not None
    swarm.world.network.streams.disconnect(source, target.contact.peer)


def pause_target(swarm: Swarm, source: Host, target: Host) -> None:
    host = target if target is not swarm.me else source
    host.pause()
    swarm.world.at(swarm.world.now + 3.0, host.resume)


def strike_at(swarm: Swarm, number: int, strike: Strike, *, after: float = 0.0) -> list[int]:
    """Let a fault happen at the moment when the numbered message of inference leaves; count them."""
    seen = [0]

    def watch(packet: Packet) -> None:
        if packet.message.TAG in INFERENCE_TAGS and packet.now >= after:
            if seen[0] == number:
                source, target = swarm.host(packet.source), swarm.host(packet.target)
                swarm.world.push(packet.now, strike, (swarm, source, target))
            seen[0] += 1

    swarm.world.network.add_rule(watch)
    return seen


def end_of(
    swarm: Swarm, session: SessionId, *, at: str = "me", within_s: float = 120.0
) -> P2PInferError | None:
    """Run to the end and return the error, if it was one; it must be named and come in time."""
    ended = swarm.world.run_until_true(lambda: swarm.ended(session, at), within_s)
    assert ended, f"the generation hangs: {swarm.host(at).core.statistics()}"
    failures = [
        item
        for item in swarm.host(at).delivered
        if isinstance(item, GenerationFailed) and item.session == session
    ]
    for failure in failures:
        assert isinstance(failure.error, P2PInferError)
        return failure.error
    return None


def check_tokens(
    swarm: Swarm, session: SessionId, error: P2PInferError | None, expected: list[int], at: str = "me"
) -> None:
    """All tokens, or after an error the first of them; each once, at its position, the last one final."""
    sampled = [i for i in swarm.host(at).delivered if isinstance(i, Sampled) and i.session == session]
    tokens = [item.token for item in sampled]
    assert tokens == (expected if error is None else expected[: len(tokens)])
    assert [item.position - sampled[0].position for item in sampled] == list(range(len(sampled)))
    assert [item.final for item in sampled if item.final] == ([True] if error is None else [])


def check_nothing_left(swarm: Swarm) -> None:
    """After the timeouts nobody who lives keeps anything of any session, and nothing is open long before."""
    swarm.world.network.heal()
    for host in swarm.world.hosts.values():
        host.resume()
    swarm.world.run_for(QUIET_S)
    for name, host in swarm.world.hosts.items():
        assert not host.up or host.core.statistics()["sessions"] == 0, name
    swarm.world.run_for(HopConfig().parked_timeout_s)
    for name, host in swarm.world.hosts.items():
        if host.up:
            figures = host.core.statistics()
            for what in ("sessions", "reserved_bytes", "waiting_steps", "generations"):
                assert figures[what] == 0, f"{name}: {figures}"
            assert not swarm.engines[name].caches if name in swarm.engines else True, name


def check_run(
    swarm: Swarm, session: SessionId, *, prompt: int = 10, answer: int = 30, within_s: float = 120.0
) -> P2PInferError | None:
    """Check the whole of one run."""
    error = end_of(swarm, session, within_s=within_s)
    check_tokens(swarm, session, error, unbroken(prompt, answer))
    check_nothing_left(swarm)
    return error
