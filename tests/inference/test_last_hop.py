"""The last hop's memory of recent tokens, and the ring's end."""

from __future__ import annotations

from dataclasses import replace

from p2pinfer.effects import Compute
from p2pinfer.ids import Span
from p2pinfer.inference.hop_core import HopCore
from p2pinfer.wire.messages.inference import Token
from p2pinfer.work import EngineOutput
from tests.inference.test_hop_core import CHAIN, ENTRY, SESSION, A, B, C, hop, opened, place, step


def last_hop() -> HopCore:
    return opened(hop(C, Span(4, 6)), place(2))


def sampled(core: HopCore, number: int) -> tuple[int, ...]:
    """Give the last hop a step and return the recent tokens that its sampling is told."""
    (effect,) = core.receive(B, step(number, number + 1), 1.0)
    assert isinstance(effect, Compute)
    request = effect.batch[0].sample
    assert request is not None
    recent: tuple[int, ...] = request.recent
    return recent


def test_tokens_sampled_elsewhere_meanwhile_are_taken_from_the_entry_peer() -> None:
    core = last_hop()
    assert sampled(core, 0) == (5, 6)
    core.receive(ENTRY, place(2, epoch=1, sample_from=5, recent=(7, 8, 9)), 1.0)
    core.computed((EngineOutput(token=1),), 1.0)
    for number in (1, 2):
        core.receive(B, step(number, number + 1), 1.0)
        core.computed((EngineOutput(),), 1.0)
    assert sampled(core, 3) == (7, 8, 9)


def test_a_hop_that_is_ahead_of_its_entry_peer_knows_better() -> None:
    core = last_hop()
    for number, recent in enumerate([(5, 6), (5, 6, 1)]):
        assert sampled(core, number) == recent
        core.computed((EngineOutput(token=number + 1),), 1.0)
    core.receive(ENTRY, place(2, epoch=1, sample_from=3, recent=(5, 6, 1)), 1.0)
    assert sampled(core, 2) == (6, 1, 2)


def test_the_ring_ends_with_the_final_token() -> None:
    first = replace(place(0), chain=CHAIN)
    core = opened(hop(A, Span(0, 2)), first)
    final = Token(session=SESSION, step=0, position=2, token=99, final=True)
    assert core.receive(C, replace(final, step=-1, final=True), 1.0) == []
    assert core.statistics()["waiting_steps"] == 0
    assert core.receive(C, replace(final, step=-1, final=False), 1.0) != []
