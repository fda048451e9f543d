"""A hop that is the whole chain: tokens come back to it while it takes a batch's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pinfer.effects import Compute, Effect
from p2pinfer.ids import SessionId, Span
from p2pinfer.inference.hop_core import HopCore
from p2pinfer.wire.messages.inference import ChainHop, Step
from p2pinfer.work import EngineOutput
from tests.inference.test_hop_core import ENTRY, A, hop, place

SESSIONS = [SessionId(bytes([number]) * 16) for number in range(3)]


def open_all() -> HopCore:
    core = hop(A, Span(0, 6))
    for session in SESSIONS:
        whole = replace(place(0), session=session, chain=(ChainHop(A, 0, 6),))
        core.receive(ENTRY, whole, 0.0)
    return core


def asked(effects: Sequence[Effect]) -> list[list[tuple[SessionId, int]]]:
    """For each batch that is asked for: which session's steps, from which base."""
    batches = [effect for effect in effects if isinstance(effect, Compute)]
    return [[(work.session, work.base) for work in batch.batch] for batch in batches]


def test_every_step_of_several_sessions_is_computed_once() -> None:
    core = open_all()
    effects: list[Effect] = []
    for session in SESSIONS:
        effects += core.receive(ENTRY, Step(session=session, step=0, base=0, tokens=(1, 2)), 1.0)
    queue = asked(effects)
    done: list[tuple[SessionId, int]] = []
    while queue:
        batch = queue.pop(0)
        done += batch
        queue += asked(core.computed(tuple(EngineOutput(token=7) for _ in batch), 1.0))
    assert len(done) == len(set(done)), "a step was computed twice"
    assert set(done) == {(session, base) for session in SESSIONS for base in (0, 2, 3, 4)}
