"""The entry peer's core, input by input: whom it asks, whom it believes and whom it leaves."""

from __future__ import annotations

import random

import pytest

from p2pinfer.effects import Deliver, Effect, Send
from p2pinfer.errors import LocalProtocolError, NoChain, PromptTooLong, SessionLost
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.entry_core import EntryCore
from p2pinfer.inference.generation import Request
from p2pinfer.inference.news import GenerationFailed, PromptRead, Sampled, SessionOpened
from p2pinfer.inference.planner import Holder
from p2pinfer.wire.messages.inference import (
    POSITIONS_MAX,
    CloseSession,
    OpenSession,
    Prefilled,
    Resume,
    Sampling,
    SessionReady,
    Step,
    StepFailed,
    Token,
)

DIGEST = b"\x01" * 32


def contact(number: int) -> Contact:
    return Contact(PeerId(bytes([number]) * 32), Endpoint("10.0.0.1", 7000 + number))


ME, A, B, B2, B3, STRANGER = map(contact, range(6))


class Bench:
    """An entry peer with holders A and B, and B2, B3 in reserve."""

    def __init__(self, *holders: Contact, answer: int = 4) -> None:
        self.core = EntryCore(me=ME, config=EntryConfig(), rng=random.Random(1))
        spans = [(A, Span(0, 2)), *((b, Span(2, 4)) for b in holders or (B,))]
        ways_s = [0.001, 0.001, 0.003, 0.009]  # so far apart that the nearest is chosen
        near_first = [Holder(c, s, 0.001, 0, way_s) for (c, s), way_s in zip(spans, ways_s, strict=False)]
        self.core.set_holders({DIGEST: near_first})
        self.session, self.effects = self.core.open(request(answer=answer), 0.0)

    def ready(self, who: Contact, next_step: int = 0, epoch: int = 0, now: float = 0.1) -> list[Effect]:
        message = SessionReady(session=self.session, epoch=epoch, next_step=next_step)
        return self.core.receive(who, message, now)

    def failed(self, who: Contact, code: str, peer: Contact | None = None) -> list[Effect]:
        named = peer.peer if peer else None
        message = StepFailed(session=self.session, epoch=0, code=code, peer=named)
        return self.core.receive(who, message, 0.2)

    def go(self, *chain: Contact, epoch: int = 0) -> list[Effect]:
        return [effect for who in chain for effect in self.ready(who, 0, epoch)]


def request(prompt: int = 2, answer: int = 4) -> Request:
    sampling = Sampling(token_count_max=answer)
    return Request(digest=DIGEST, layer_count=4, prompt=(7,) * prompt, sampling=sampling)


def opened_at(effects: list[Effect]) -> list[Contact]:
    return [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, OpenSession)]


def test_nothing_flows_before_all_are_ready() -> None:
    bench = Bench()
    assert opened_at(bench.effects) == [A, B]
    assert bench.ready(A) == []
    step, news = bench.ready(B)
    assert step == Send(A, Step(session=bench.session, step=0, base=0, tokens=(7, 7)))
    assert isinstance(news, Deliver)
    assert isinstance(news.item, SessionOpened)


def test_the_word_of_an_old_epoch_does_not_count() -> None:
    bench = Bench()
    bench.go(A, B)
    bench.core.disconnected(B, 0.2)
    assert bench.ready(A, 1, epoch=1) == []
    assert bench.ready(B, 1, epoch=0) == []
    effects = bench.ready(B, 0, epoch=1)
    assert Send(A, Resume(session=bench.session, epoch=1, forward_from=0)) in effects


def test_a_step_that_no_session_has_is_a_lie() -> None:
    bench = Bench(B, B2)
    effects = bench.ready(B, 1)
    assert opened_at(effects) == [A, B2]
    assert Send(B, CloseSession(session=bench.session)) in effects


def test_who_complains_of_one_after_the_other_is_replaced_itself() -> None:
    bench = Bench(B, B2, B3)
    bench.go(A, B)
    assert opened_at(bench.failed(A, "unreachable", B)) == [A, B]
    bench.go(A, B, epoch=1)
    assert opened_at(bench.failed(A, "unreachable", B)) == [A, B2]
    bench.go(A, B2, epoch=2)
    assert opened_at(bench.failed(A, "unreachable", B2)) == [A, B2]
    bench.go(A, B2, epoch=3)
    assert bench.core._generations[bench.session].trouble.lost == [B.peer]
    bench.failed(A, "unreachable", B2)
    assert bench.core._generations[bench.session].trouble.lost == [B.peer, A.peer]


@pytest.mark.parametrize(("code", "peer"), [("unreachable", STRANGER), ("what?", B), ("unknown", STRANGER)])
def test_a_complaint_of_nobody_in_the_chain_changes_nothing(code: str, peer: Contact) -> None:
    bench = Bench()
    bench.go(A, B)
    assert bench.failed(A, code, peer) == []


def test_the_only_holder_gets_a_second_chance_and_no_third() -> None:
    bench = Bench()
    bench.go(A, B)
    assert opened_at(bench.core.disconnected(B, 0.2)) == [A, B]
    assert opened_at(bench.core.disconnected(B, 0.3)) == [A, B]
    *closing, failed = bench.core.disconnected(B, 0.4)
    assert closing == [Send(who, CloseSession(session=bench.session)) for who in (A, B)]
    assert isinstance(failed, Deliver)
    assert isinstance(failed.item, GenerationFailed)
    assert isinstance(failed.item.error, NoChain)


def test_recoveries_without_a_token_come_to_an_end() -> None:
    bench = Bench()
    for epoch in range(9):
        bench.go(A, B, epoch=epoch)
        effects = bench.core.disconnected(B, 0.2)
    assert isinstance(effects[-1], Deliver)
    assert isinstance(effects[-1].item, GenerationFailed)
    assert isinstance(effects[-1].item.error, SessionLost)


def test_the_answer_ends_where_the_request_says_whatever_the_hop_does() -> None:
    bench = Bench(answer=2)
    bench.go(A, B)
    told: list[Effect] = []
    for position in (2, 3, 4):
        token = Token(session=bench.session, step=position - 2, position=position, token=1)
        told += bench.core.receive(B, token, 0.5)
    items = [e.item for e in told if isinstance(e, Deliver) and isinstance(e.item, Sampled)]
    assert [(item.position, item.final) for item in items] == [(2, False), (3, True)]


def test_each_chunk_of_the_prompt_is_told_once_until_the_first_token() -> None:
    bench = Bench()
    bench.go(A, B)

    def told(who: Contact, position: int) -> list[Effect]:
        return bench.core.receive(who, Prefilled(session=bench.session, position=position), 0.2)

    assert told(A, 1) == []  # only the last hop has it all
    assert told(B, 2) == []  # beyond the prompt's chunks: a token says that
    assert told(B, 1) == [Deliver(PromptRead(bench.session, 1, 2))]
    assert told(B, 1) == []


def test_nobody_waits_for_the_prompt_after_the_first_token() -> None:
    bench = Bench()
    bench.go(A, B)
    bench.core.receive(B, Token(session=bench.session, step=0, position=2, token=5), 0.2)
    assert bench.core.receive(B, Prefilled(session=bench.session, position=1), 0.3) == []


def test_a_hop_that_works_for_nobody_is_told_to_stop() -> None:
    token = Token(session=SessionId(b"?" * 16), step=0, position=2, token=1)
    effects = Bench().core.receive(B, token, 0.5)
    assert effects == [Send(B, CloseSession(session=token.session))]


def test_what_cannot_be_asked_is_refused_by_name() -> None:
    core = Bench().core
    with pytest.raises(LocalProtocolError, match="at least one token"):
        core.open(request(prompt=0), 0.0)
    with pytest.raises(PromptTooLong, match="shorten either"):
        core.open(request(answer=POSITIONS_MAX), 0.0)


def test_a_long_pause_between_tokens_does_not_make_patience_endless() -> None:
    bench = Bench()
    bench.go(A, B)
    for position, now in ((2, 1.0), (3, 500.0)):
        token = Token(session=bench.session, step=position - 2, position=position, token=1)
        bench.core.receive(B, token, now)
    assert bench.core.deadline == 500.0 + EntryConfig().prefill_timeout_s


def test_the_last_hop_is_told_to_send_the_tokens_again_that_never_arrived() -> None:
    bench = Bench(answer=9)
    bench.go(A, B)
    token = Token(session=bench.session, step=0, position=2, token=5)
    bench.core.receive(B, token, 0.2)
    bench.core.disconnected(B, 0.3)
    # Meanwhile the ring went on: three steps are computed at either hop, and two tokens were lost on the way.
    bench.ready(A, 3, epoch=1)
    effects = bench.ready(B, 3, epoch=1)
    resumes = {e.to: e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Resume)}
    assert resumes[A] == Resume(session=bench.session, epoch=1, forward_from=3)
    assert resumes[B] == Resume(session=bench.session, epoch=1, forward_from=1)
