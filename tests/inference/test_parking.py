"""Which of the remembered sessions a new prompt goes on from."""

from __future__ import annotations

import hashlib

import pytest

from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Request
from p2pinfer.inference.parking import Parked, ParkingLot
from p2pinfer.wire.messages.inference import ChainHop, Sampling

DIGEST = b"d" * 32
PROMPT = tuple(range(40))
A, B = (PeerId(hashlib.sha256(name).digest()) for name in (b"a", b"b"))
HELD = {A: Span(0, 6), B: Span(6, 12)}


def hop(peer: PeerId, start: int, end: int) -> ChainHop:
    return ChainHop(contact=Contact(peer, Endpoint("10.0.0.1", 7000)), start=start, end=end)


def lot_with(tokens: tuple[int, ...] = PROMPT) -> ParkingLot:
    """A lot in which one session is parked, computed in one step along A and B."""
    lot = ParkingLot(EntryConfig())
    session = SessionId(bytes(16))
    chain = (hop(A, 0, 6), hop(B, 6, 12))
    lot._parked[session] = Parked(session, DIGEST, chain, tokens, ((0, 30),), until=600.0)
    return lot


def request(prompt: tuple[int, ...] = PROMPT, digest: bytes = DIGEST) -> Request:
    return Request(digest=digest, layer_count=12, prompt=prompt, sampling=Sampling())


def test_a_prompt_that_repeats_a_conversation_goes_on_from_it_once() -> None:
    lot = lot_with()
    taken = lot.take(request(), HELD, 0.0)
    assert taken is not None
    assert taken.position_count == 30
    assert lot.take(request(), HELD, 0.0) is None


@pytest.mark.parametrize(
    "holders",
    [{A: Span(0, 6)}, {B: Span(6, 12)}, {}, {A: Span(0, 6), B: Span(7, 12)}, {A: Span(0, 12), B: Span(0, 6)}],
)
def test_a_chain_of_which_a_hop_is_gone_or_holds_other_layers_is_of_no_use(
    holders: dict[PeerId, Span],
) -> None:
    assert lot_with().take(request(), holders, 0.0) is None


def test_another_model_another_text_and_a_time_long_past_share_nothing() -> None:
    assert lot_with().take(request(digest=b"e" * 32), HELD, 0.0) is None
    assert lot_with().take(request(prompt=tuple(range(100, 140))), HELD, 0.0) is None
    assert lot_with().take(request(), HELD, 600.0) is None
    assert lot_with().take(request(prompt=PROMPT[:29]), HELD, 0.0) is None, "the step is taken whole"
