"""The hop's core, input by input: what it admits, keeps, repeats and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pinfer.effects import Compute, DropCache, Effect, OpenCache, Send
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.hop_core import HopCore, ServedSpan
from p2pinfer.wire.messages.inference import (
    ChainHop,
    CloseSession,
    OpenSession,
    Prefilled,
    Resume,
    Sampling,
    SessionReady,
    SessionRefused,
    Step,
    StepFailed,
    Tensor,
    Token,
)
from p2pinfer.work import EngineInput, EngineOutput, SampleRequest

DIGEST = b"\x01" * 32
SESSION = SessionId(b"s" * 16)


def contact(number: int) -> Contact:
    return Contact(PeerId(bytes([number]) * 32), Endpoint("10.0.0.1", 7000 + number))


ENTRY, A, B, C, STRANGER = map(contact, range(5))
CHAIN = (ChainHop(A, 0, 2), ChainHop(B, 2, 4), ChainHop(C, 4, 6))
SERVED = ServedSpan(digest=DIGEST, span=Span(2, 4), layer_count=6, position_size_bytes=10, positions_max=1000)
HIDDEN = Tensor("f4", (1, 1), b"abcd")
OUT = Tensor("f4", (1, 1), b"wxyz")


def place(index: int = 1, **changes: object) -> OpenSession:
    standard = OpenSession(
        session=SESSION,
        epoch=0,
        digest=DIGEST,
        chain=CHAIN,
        index=index,
        entry=ENTRY,
        positions_max=20,
        sampling=Sampling(token_count_max=4, stop_tokens=(99,), repeat_last_n=3),
        prompt_count=2,
        sample_from=2,
        recent=(5, 6) if index == 2 else (),
    )
    return replace(standard, **changes)  # type: ignore[arg-type]


def hop(me: Contact = B, span: Span = SERVED.span, **settings: int) -> HopCore:
    return HopCore(me=me, config=HopConfig(**settings), served=replace(SERVED, span=span))


def step(number: int, base: int | None = None, **changes: object) -> Step:
    standard = Step(session=SESSION, step=number, base=number if base is None else base, hidden=HIDDEN)
    return replace(standard, **changes)  # type: ignore[arg-type]


def work(base: int) -> EngineInput:
    return EngineInput(session=SESSION, base=base, hidden=HIDDEN)


def opened(core: HopCore | None = None, message: OpenSession | None = None) -> HopCore:
    core = core or hop()
    core.receive(ENTRY, message or place(), 0.0)
    return core


def test_opening_reserves_and_says_ready() -> None:
    effects = hop().receive(ENTRY, place(), 0.0)
    assert effects == [
        OpenCache(SESSION, 20),
        Send(ENTRY, SessionReady(session=SESSION, epoch=0, next_step=0)),
    ]


def test_a_step_is_computed_and_sent_on() -> None:
    core = opened()
    assert core.receive(A, step(0), 1.0) == [Compute((work(0),))]
    assert core.computed((EngineOutput(hidden=OUT),), 1.1) == [
        Send(C, Step(session=SESSION, step=0, base=0, hidden=OUT))
    ]


def test_steps_that_come_early_wait_and_repeated_ones_are_dropped() -> None:
    core = opened()
    assert core.receive(A, step(1), 1.0) == []
    assert core.receive(A, step(3), 1.0) == []
    assert core.receive(A, step(0), 1.0) == [Compute((work(0), work(1)))]
    assert core.receive(A, step(0), 1.0) == []
    assert core.receive(A, step(1), 1.0) == []
    assert core.receive(A, step(2), 1.0) == []
    *sent, computing = core.computed((EngineOutput(hidden=OUT),) * 2, 1.1)
    assert computing == Compute((work(2), work(3)))
    assert sent == [Send(C, Step(session=SESSION, step=n, base=n, hidden=OUT)) for n in (0, 1)]
    assert core.receive(A, step(0), 1.2) == []
    assert core.statistics()["repeated"] == 3


def test_a_session_that_is_parked_computes_nothing_more_and_keeps_no_steps() -> None:
    core = opened()
    other = SessionId(b"t" * 16)
    core.receive(ENTRY, place(session=other), 0.0)
    assert core.receive(A, step(0), 1.0) == [Compute((work(0),))]
    assert core.receive(A, replace(step(0), session=other), 1.0) == [], "the engine is busy"
    assert core.receive(ENTRY, CloseSession(session=other, keep=True), 1.1) == []
    parked = core._sessions.parked(other, ENTRY.peer)
    assert parked is not None
    assert not parked.waiting, "hidden states of megabytes that nobody will ask for"
    effects = core.computed((EngineOutput(hidden=OUT),), 1.2)
    assert not [effect for effect in effects if isinstance(effect, Compute)]


def test_a_run_ends_before_a_longer_step_a_gap_or_its_bound() -> None:
    core = opened(hop(run_count_max=2))
    for late in (step(4), step(3), step(2), step(1)):
        core.receive(A, late, 1.0)
    assert core.receive(A, step(0), 1.0) == [Compute((work(0), work(1)))]
    assert core.computed((EngineOutput(hidden=OUT),) * 2, 1.0)[-1] == Compute((work(2), work(3)))
    core = opened()
    two = Tensor("f4", (2, 1), b"abcdefgh")
    core.receive(A, step(1, base=1, hidden=two), 1.0)
    assert core.receive(A, step(0), 1.0) == [Compute((work(0),))]
    core = opened()
    core.receive(A, step(1, base=0), 1.0)
    assert core.receive(A, step(0), 1.0) == [Compute((work(0),))]


def test_a_run_that_fails_in_its_middle_is_told_once_and_keeps_what_is_sound() -> None:
    core = opened()
    core.receive(A, step(2), 1.0)
    core.receive(A, step(1), 1.0)
    core.receive(A, step(0), 1.0)
    failed = StepFailed(session=SESSION, epoch=0, code="engine", detail="no")
    first = Step(session=SESSION, step=0, base=0, hidden=OUT)
    outputs = (EngineOutput(hidden=OUT), EngineOutput(error="no"), EngineOutput(error="gap"))
    assert core.computed(outputs, 1.0) == [Send(C, first), Send(ENTRY, failed)]
    assert core.receive(A, step(1), 1.0) == [Compute((work(1), work(2)))]


@pytest.mark.parametrize("sender", [ENTRY, C, B, STRANGER])
def test_only_the_hop_before_gives_steps(sender: Contact) -> None:
    core = opened()
    assert core.receive(sender, step(0), 1.0) == []
    assert core.statistics()["ignored"] == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        step(0, hidden=None),
        step(0, hidden=None, tokens=(1,)),
        step(0, base=20),
        step(20),
        step(0, hidden=Tensor("f4", (), b"")),
    ],
)
def test_steps_beyond_what_was_agreed_are_dropped(nonsense: Step) -> None:
    core = opened()
    assert core.receive(A, nonsense, 1.0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        place(digest=b"\x02" * 32),
        place(index=0),
        place(index=200),
        place(chain=(ChainHop(A, 0, 2), ChainHop(B, 1, 4), ChainHop(C, 4, 6))),
        place(chain=(ChainHop(A, 0, 2), ChainHop(B, 2, 5), ChainHop(C, 5, 6))),
        place(chain=(ChainHop(A, 0, 2), ChainHop(B, 2, 4))),
        place(chain=CHAIN[1:], index=0),
        place(positions_max=1001),
        place(entry=STRANGER),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(wrong: OpenSession) -> None:
    core = hop()
    refusal = SessionRefused(session=SESSION, epoch=0, code="span")
    assert core.receive(ENTRY, wrong, 0.0) == [Send(ENTRY, refusal)]
    assert core.statistics()["sessions"] == 0


def test_what_does_not_fit_is_refused_with_the_time_to_come_back() -> None:
    core = opened(hop(memory_size_bytes_max=399))
    other = replace(place(), session=SessionId(b"t" * 16))
    (refused,) = core.receive(ENTRY, other, 0.0)
    assert refused == Send(
        ENTRY,
        SessionRefused(session=other.session, epoch=0, code="overloaded", retry_after_ms=2000),
    )
    assert core.receive(ENTRY, CloseSession(session=SESSION), 1.0) == [DropCache(SESSION)]
    assert OpenCache(other.session, 20) in core.receive(ENTRY, other, 2.0)


def test_another_peer_can_neither_take_nor_close_the_session() -> None:
    core = opened()
    assert core.receive(STRANGER, CloseSession(session=SESSION), 1.0) == []
    assert core.receive(STRANGER, place(epoch=1, entry=STRANGER), 1.0) == []
    assert core.receive(STRANGER, Resume(session=SESSION, epoch=0, forward_from=0), 1.0) == []
    assert core.knows(SESSION)


def _computed(core: HopCore, count: int) -> None:
    for number in range(count):
        core.receive(A, step(number), 1.0)
        core.computed((EngineOutput(hidden=OUT),), 1.0)


def test_after_a_change_of_the_chain_outputs_are_held_until_resume_and_then_sent_again() -> None:
    core = opened()
    _computed(core, 3)
    chain = (CHAIN[0], CHAIN[1], ChainHop(STRANGER, 4, 6))
    assert core.receive(ENTRY, place(epoch=1, chain=chain), 2.0) == [
        Send(ENTRY, SessionReady(session=SESSION, epoch=1, next_step=3))
    ]
    core.receive(A, step(3), 2.0)
    assert core.computed((EngineOutput(hidden=OUT),), 2.0) == []
    assert core.receive(ENTRY, Resume(session=SESSION, epoch=0, forward_from=0), 2.0) == []
    sent = core.receive(ENTRY, Resume(session=SESSION, epoch=1, forward_from=2), 2.0)
    assert sent == [Send(STRANGER, Step(session=SESSION, step=n, base=n, hidden=OUT)) for n in (2, 3)]


def test_an_older_epoch_changes_nothing_and_the_same_one_asks_for_a_sign_of_life() -> None:
    core = opened(message=place(epoch=2))
    assert core.receive(ENTRY, place(epoch=1), 1.0) == []
    assert core.receive(ENTRY, place(epoch=2), 1.0) == [
        Send(ENTRY, SessionReady(session=SESSION, epoch=2, next_step=0))
    ]


def test_a_changed_part_starts_with_an_empty_cache() -> None:
    core = opened()
    _computed(core, 2)
    chain = (ChainHop(A, 0, 3), ChainHop(B, 3, 4), ChainHop(C, 4, 6))
    assert core.receive(ENTRY, place(epoch=1, chain=chain), 2.0) == [
        DropCache(SESSION),
        OpenCache(SESSION, 20),
        Send(ENTRY, SessionReady(session=SESSION, epoch=1, next_step=0)),
    ]
    (computing,) = core.receive(A, step(0), 2.0)
    assert computing == Compute((replace(work(0), layers=Span(3, 4)),))


def test_the_last_hop_samples_and_closes_the_ring() -> None:
    core = opened(hop(C, Span(4, 6)), place(2))
    (early,) = core.receive(B, step(0, sample=False), 1.0)
    assert early == Compute((work(0),))
    assert core.computed((EngineOutput(),), 1.0) == [Send(ENTRY, Prefilled(session=SESSION, position=1))]
    (computing,) = core.receive(B, step(1), 1.0)
    request = SampleRequest(place().sampling, 2, (5, 6))
    assert computing == Compute((replace(work(1), sample=request),))
    token = Token(session=SESSION, step=1, position=2, token=42)
    assert core.computed((EngineOutput(token=42),), 1.0) == [Send(A, token), Send(ENTRY, token)]
    (computing,) = core.receive(B, step(2), 1.0)
    assert computing == Compute((replace(work(2), sample=SampleRequest(place().sampling, 3, (5, 6, 42))),))
    final = Token(session=SESSION, step=2, position=3, token=99, final=True)
    assert core.computed((EngineOutput(token=99),), 1.0) == [Send(ENTRY, final)]


def test_the_answer_ends_at_its_token_limit() -> None:
    core = opened(hop(C, Span(4, 6)), place(2, sample_from=5))
    core.receive(B, step(0, base=4), 1.0)
    (sent,) = core.computed((EngineOutput(token=1),), 1.0)
    assert isinstance(sent, Send)
    assert sent.message == Token(session=SESSION, step=0, position=5, token=1, final=True)


def test_a_replaying_last_hop_does_not_sample_what_is_known() -> None:
    core = opened(hop(C, Span(4, 6)), place(2, sample_from=4))
    for number in (1, 2, 3, 4):
        core.receive(B, step(number, base=number), 1.0)
    (computing,) = core.receive(B, step(0), 1.0)
    # The run ends with the first step that is sampled: the token after it may depend on this one.
    sampled = replace(work(3), sample=SampleRequest(place().sampling, 4, (5, 6)))
    assert computing == Compute((work(0), work(1), work(2), sampled))


def test_the_first_hop_goes_on_with_the_token_it_is_given() -> None:
    core = opened(hop(A, Span(0, 2)), place(0))
    core.receive(ENTRY, step(0, hidden=None, tokens=(5, 6)), 1.0)
    core.computed((EngineOutput(hidden=OUT),), 1.0)
    token = Token(session=SESSION, step=0, position=2, token=7)
    for liar in (B, ENTRY, STRANGER):
        assert core.receive(liar, token, 1.0) == []
    assert core.receive(C, token, 1.0) == [Compute((EngineInput(session=SESSION, base=2, tokens=(7,)),))]
    assert core.receive(C, replace(token, step=1, final=True), 1.0) == []


def test_an_engine_error_is_told_to_the_entry_peer() -> None:
    core = opened()
    core.receive(A, step(0), 1.0)
    failed = StepFailed(session=SESSION, epoch=0, code="engine", detail="NaN in the hidden state")
    assert core.computed((EngineOutput(error="NaN in the hidden state"),), 1.0) == [Send(ENTRY, failed)]


def test_a_session_closed_while_it_is_in_the_engine_leaves_no_trace() -> None:
    core = opened()
    core.receive(A, step(0), 1.0)
    core.receive(ENTRY, CloseSession(session=SESSION), 1.0)
    assert core.computed((EngineOutput(hidden=OUT),), 1.0) == []
    assert core.statistics()["reserved_bytes"] == 0


def test_steps_of_an_unknown_session_are_answered() -> None:
    unknown = StepFailed(session=SESSION, epoch=0, code="unknown")
    assert hop().receive(A, step(0), 1.0) == [Send(A, unknown)]


def test_a_neighbour_that_lost_the_session_is_reported() -> None:
    core = opened()
    unknown = StepFailed(session=SESSION, epoch=0, code="unknown")
    assert core.receive(C, unknown, 1.0) == [Send(ENTRY, replace(unknown, peer=C.peer))]
    assert core.receive(STRANGER, unknown, 1.0) == []


def test_a_broken_stream_down_the_chain_is_reported() -> None:
    core = opened()
    failed = StepFailed(session=SESSION, epoch=0, code="unreachable", peer=C.peer)
    assert core.disconnected(C, 1.0) == [Send(ENTRY, failed)]
    assert core.disconnected(A, 1.0) == []


def test_sessions_end_when_their_entry_peer_is_gone_or_silent() -> None:
    core = opened()
    assert core.deadline == 120.0
    assert core.tick(119.0) == []
    core.disconnected(ENTRY, 10.0)
    assert core.deadline == 25.0
    assert core.tick(24.0) == []
    assert core.tick(25.0) == [DropCache(SESSION)]
    assert core.deadline is None


def test_an_entry_peer_that_comes_back_in_time_keeps_its_session() -> None:
    core = opened()
    core.disconnected(ENTRY, 10.0)
    core.receive(ENTRY, place(epoch=1), 12.0)
    assert core.tick(25.0) == []
    assert core.deadline == 132.0
    assert core.tick(132.0) == [DropCache(SESSION)]


def test_closing_tells_every_entry_peer_and_refuses_newcomers() -> None:
    core = opened()
    assert core.close(1.0) == [
        Send(ENTRY, StepFailed(session=SESSION, epoch=0, code="closing")),
        DropCache(SESSION),
    ]
    refusal = SessionRefused(session=SESSION, epoch=0, code="closing")
    assert core.receive(ENTRY, place(), 2.0) == [Send(ENTRY, refusal)]


def test_one_batch_at_a_time_takes_all_that_gathered() -> None:
    core = opened()
    others = [SessionId(bytes([n]) * 16) for n in range(3)]
    for name in others:
        core.receive(ENTRY, replace(place(), session=name), 0.0)
    assert core.receive(A, step(0), 1.0) == [Compute((work(0),))]
    for name in others:
        assert core.receive(A, replace(step(0), session=name), 1.0) == []
    effects: list[Effect] = core.computed((EngineOutput(hidden=OUT),), 1.0)
    assert effects[-1] == Compute(tuple(replace(work(0), session=name) for name in others))


def test_ten_thousand_abandoned_sessions_leave_nothing() -> None:
    core = hop(memory_size_bytes_max=1 << 40, session_count_max=10_000)
    for number in range(10_000):
        core.receive(ENTRY, replace(place(), session=SessionId(number.to_bytes(16, "big"))), 0.0)
    assert core.statistics()["sessions"] == 10_000
    assert len(core.tick(120.0)) == 10_000
    assert core.statistics()["sessions"] == core.statistics()["reserved_bytes"] == 0


def test_the_decode_steps_of_an_iteration_do_not_wait_for_its_prompts() -> None:
    core = opened()
    busy, prompt, decode = (SessionId(letter * 16) for letter in (b"b", b"p", b"d"))
    for name in (busy, prompt, decode):
        core.receive(ENTRY, replace(place(), session=name), 0.0)
    assert len(core.receive(A, replace(step(0), session=busy), 1.0)) == 1
    core.receive(A, replace(step(0, hidden=Tensor("f4", (3, 1), b"x" * 12)), session=prompt), 1.0)
    core.receive(A, replace(step(0), session=decode), 1.0)
    *_, first, second = core.computed((EngineOutput(hidden=OUT),), 2.0)
    assert isinstance(first, Compute)
    assert isinstance(second, Compute)
    assert [work.session for work in first.batch] == [decode]
    assert [work.session for work in second.batch] == [prompt]
    (sent,) = core.computed((EngineOutput(hidden=OUT),), 3.0)
    assert isinstance(sent, Send)
    assert core.statistics()["waiting_steps"] == 1


def test_replays_of_several_sessions_take_no_more_of_an_iteration_than_prompts_may() -> None:
    core = hop(run_count_max=4, prefill_positions_max=6)
    names = [SessionId(letter * 16) for letter in (b"a", b"b", b"c")]
    core.hold()
    for name in names:
        core.receive(ENTRY, replace(place(), session=name), 0.0)
        for number in range(5):
            core.receive(A, replace(step(number), session=name), 1.0)
    batches = [effect.batch for effect in core.release(1.0) if isinstance(effect, Compute)]
    assert sorted(len(batch) for batch in batches) == [1, 2, 4]


def test_ten_thousand_abandoned_sessions_leave_nothing_behind() -> None:
    core = hop(memory_size_bytes_max=50 * 200, session_count_max=100)
    caches: set[SessionId] = set()
    now = 0.0
    opened_count = refused_count = 0
    for number in range(10_000):
        name = SessionId(number.to_bytes(16, "big"))
        effects = core.receive(ENTRY, replace(place(), session=name), now)
        answer = effects[-1]
        assert isinstance(answer, Send)
        opened_count += isinstance(answer.message, SessionReady)
        refused_count += isinstance(answer.message, SessionRefused)
        if number % 3 == 0:
            effects += core.receive(A, replace(step(0), session=name), now)
        if number % 5 == 0:
            effects += core.receive(ENTRY, CloseSession(session=name, keep=number % 2 == 0), now)
        if any(isinstance(effect, Compute) for effect in effects):
            effects += core.computed((EngineOutput(hidden=OUT),), now)
        now += 1.0
        effects += core.tick(now)
        for effect in effects:
            if isinstance(effect, OpenCache):
                caches.add(effect.session)
            elif isinstance(effect, DropCache):
                caches.remove(effect.session)
        assert core.statistics()["reserved_bytes"] <= 50 * 200
        assert len(caches) <= 50
    assert opened_count > 3_000
    assert refused_count > 3_000
    for effect in core.tick(now + 1e4):
        assert isinstance(effect, DropCache)
        caches.remove(effect.session)
    assert not caches
    assert core.statistics()["reserved_bytes"] == core.statistics()["parked"] == 0
    assert core.deadline is None


def test_the_wait_of_a_refused_peer_follows_from_the_pace_of_those_inside() -> None:
    core = opened(hop(memory_size_bytes_max=399))
    core.receive(A, step(0, hidden=Tensor("f4", (2, 1), b"x" * 8)), 1.0)
    core.computed((EngineOutput(hidden=OUT),), 1.0)
    other = replace(place(), session=SessionId(b"t" * 16))
    (refused,) = core.receive(ENTRY, other, 1.0)
    assert isinstance(refused, Send)
    assert isinstance(refused.message, SessionRefused)
    assert refused.message.retry_after_ms == 9000  # 18 of 20 positions at two a second


def test_what_every_session_costs_besides_its_positions_counts_in_admission() -> None:
    served = replace(SERVED, session_size_bytes=100)
    core = opened(HopCore(me=B, config=HopConfig(memory_size_bytes_max=599), served=served))
    assert core.statistics()["reserved_bytes"] == 300
    assert core.statistics()["used_bytes"] == 0
    core.receive(A, step(0), 1.0)
    assert core.statistics()["used_bytes"] == 110
    (refused,) = core.receive(ENTRY, place(session=SessionId(b"t" * 16)), 1.0)
    assert isinstance(refused, Send)
    assert isinstance(refused.message, SessionRefused)
    assert refused.message.code == "overloaded"
