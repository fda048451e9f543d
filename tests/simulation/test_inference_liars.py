"""Hops that lie: whatever they say, the generation ends in bounded time, by name, and leaves nothing behind.

Nobody can tell a wrong number from a right one without computing it again, so a liar who computes is not
found out; one who breaks the rules is worked around, and where he says wrong things only about the run, the
tokens are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import UnionType
from typing import Any

import pytest

from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, PeerId, SessionId
from p2pinfer.wire.messages.inference import (
    POSITIONS_MAX,
    SessionReady,
    SessionRefused,
    Step,
    StepFailed,
    Tensor,
    Token,
)
from tests.inference.hash_engine import VOCABULARY_SIZE
from tests.inference.swarm import Swarm, unbroken
from tests.simulation.inference_faults import check_nothing_left, check_tokens, end_of

Lie = Callable[[Contact, Message], Iterable[tuple[Contact, Message]]]
"""What a liar sends in place of a message."""


class Liar:
    """A core whose messages pass through a lie."""

    def __init__(self, honest: Any, lie: Lie) -> None:
        self._honest = honest
        self._lie = lie

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    @property
    def deadline(self) -> float | None:
        deadline: float | None = self._honest.deadline
        return deadline

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        return self._twisted(self._honest.receive(sender, message, now))

    def computed(self, results: tuple[Any, ...], now: float) -> list[Effect]:
        return self._twisted(self._honest.computed(results, now))

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        return self._twisted(self._honest.disconnected(contact, now))

    def tick(self, now: float) -> list[Effect]:
        return self._twisted(self._honest.tick(now))

    def _twisted(self, effects: list[Effect]) -> list[Effect]:
        twisted: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                twisted += [Send(to, message) for to, message in self._lie(effect.to, effect.message)]
            else:
                twisted.append(effect)
        return twisted


def changes(kind: type[Message], **fields: Any) -> Lie:
    """Give fields of a kind of message other values; a function is called with the true one."""

    def lie(to: Contact, message: Any) -> Iterable[tuple[Contact, Message]]:
        if not isinstance(message, kind):
            return [(to, message)]
        true: Any = message
        new = {k: v(getattr(true, k)) if callable(v) else v for k, v in fields.items()}
        return [(to, replace(true, **new))]

    return lie


def adds(kind: type[Message] | UnionType, *more: Callable[[Any], Message]) -> Lie:
    """Send more messages before and after each of a kind."""

    def lie(to: Contact, message: Any) -> Iterable[tuple[Contact, Message]]:
        if not isinstance(message, kind):
            return [(to, message)]
        extra = [(to, make(message)) for make in more]
        return [*extra, (to, message), *extra]

    return lie


def failed(code: str, peer: PeerId | None = None) -> Callable[[Any], Message]:
    return lambda m: StepFailed(session=m.session, epoch=0, code=code, peer=peer)


OTHER = SessionId(b"o" * 16)
SPAM = Step | Token | SessionReady
ABOUT_THE_RUN: dict[str, Lie] = {
    "ready far too high": changes(SessionReady, next_step=POSITIONS_MAX),
    "ready too high": changes(SessionReady, next_step=lambda n: n + 7),
    "ready at the end": changes(SessionReady, next_step=30),
    "ready too low": changes(SessionReady, next_step=lambda n: max(0, n - 7)),
    "ready at nothing": changes(SessionReady, next_step=0),
    "always at work": changes(SessionReady, working=True),
    "ready of other epochs": changes(SessionReady, epoch=lambda e: e + 1),
    "never ready": lambda to, m: [] if isinstance(m, SessionReady) else [(to, m)],
    "ready again and again": adds(SPAM, lambda m: SessionReady(session=m.session, epoch=0, next_step=3)),
    "refused at every step": adds(
        SPAM,
        lambda m: SessionRefused(session=m.session, epoch=0, code="overloaded", retry_after_ms=1 << 31),
    ),
    "unknown": adds(SPAM, failed("unknown")),
    "engine": adds(SPAM, failed("engine")),
    "closing": adds(SPAM, failed("closing")),
    "unreachable a": adds(SPAM, failed("unreachable", PeerId(b"\x02" * 32))),
    "unreachable b": adds(SPAM, failed("unreachable", PeerId(b"\x03" * 32))),
    "unreachable c": adds(SPAM, failed("unreachable", PeerId(b"\x04" * 32))),
    "unreachable entry": adds(SPAM, failed("unreachable", PeerId(b"\x01" * 32))),
    "unknown b": adds(SPAM, failed("unknown", PeerId(b"\x03" * 32))),
    "no such code": adds(SPAM, failed("\x00")),
    "steps of another session": changes(Step, session=OTHER),
    "tokens of another session": changes(Token, session=OTHER),
    "steps never": lambda to, m: [] if isinstance(m, Step) else [(to, m)],
    "tokens never": lambda to, m: [] if isinstance(m, Token) else [(to, m)],
    "steps far ahead": changes(Step, step=lambda n: n + 5),
    "final at once": changes(Token, final=True),
    "never final": changes(Token, final=False),
    "tokens outside the vocabulary": changes(Token, token=VOCABULARY_SIZE),
    "all thrice": adds(SPAM, lambda m: m),
}
ABOUT_THE_NUMBERS: dict[str, Lie] = {
    "tokens of later positions": changes(Token, position=lambda p: p + 1),
    "tokens of earlier positions": changes(Token, position=lambda p: max(0, p - 1)),
    "tokens of huge positions": changes(Token, position=POSITIONS_MAX),
    "tokens of other steps": changes(Token, step=lambda n: n + 3),
    "huge tokens early": adds(
        Token, *(lambda m, i=i: replace(m, position=m.position + i, token=(1 << 31) - 1) for i in range(1, 9))
    ),
    "steps of other numbers, too": adds(Step, lambda m: replace(m, step=m.step + 9)),
    "steps without numbers": changes(Step, hidden=None),
    "steps with tokens": changes(Step, hidden=None, tokens=(1, 2, 3)),
    "steps with both": changes(Step, tokens=(1,)),
    "steps of no shape": changes(Step, hidden=Tensor("f4", (), b"")),
    "steps of huge shape": changes(Step, hidden=Tensor("f4", (1 << 24, 1 << 24), b"")),
    "steps of many numbers": changes(Step, hidden=Tensor("f4", (1, 2), b"x" * 100_000)),
    "steps at another base": changes(Step, base=lambda b: b + 1),
    "steps at base 0": changes(Step, base=0),
    "steps without samples": changes(Step, sample=False),
}
CASES = [(name, lie, True) for name, lie in ABOUT_THE_RUN.items()]
CASES += [(name, lie, False) for name, lie in ABOUT_THE_NUMBERS.items()]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("who", ["a0", "b0", "c0"])
@pytest.mark.parametrize(("lie", "is_token_true"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_lie_ends_by_name_and_in_time(lie: Lie, is_token_true: bool, who: str, copies: int) -> None:
    for after in (0, 6):
        swarm = Swarm(after, copies=copies)
        session = swarm.ask()
        swarm.run_to_token(session, after)
        liar = swarm.host(who)
        liar.core = Liar(liar.core, lie)
        error = end_of(swarm, session, within_s=200.0)
        if is_token_true:
            check_tokens(swarm, session, error, unbroken())
        assert len(swarm.tokens(session)) <= 30
        liar.crash()
        check_nothing_left(swarm)


@pytest.mark.parametrize("who", ["a0", "b0", "c0"])
@pytest.mark.parametrize("lie", list(ABOUT_THE_RUN.values()), ids=list(ABOUT_THE_RUN))
def test_where_others_can_take_over_a_liar_costs_no_token(lie: Lie, who: str) -> None:
    swarm = Swarm(3, copies=3)
    session = swarm.ask()
    swarm.run_to_token(session, 6)
    liar = swarm.host(who)
    liar.core = Liar(liar.core, lie)
    error = end_of(swarm, session, within_s=200.0)
    assert error is None
    assert swarm.tokens(session) == unbroken()


@pytest.mark.parametrize("hop", [0, 1])
def test_a_hop_that_sends_nonsense_is_replaced_and_its_reporter_is_not(hop: int) -> None:
    swarm = Swarm(30 + hop)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    names = swarm.chain_names(session)
    swarm.engines[names[hop]].lies = True
    assert swarm.run(session) == unbroken()
    (recovery,) = swarm.recoveries(session)
    assert recovery.lost == (swarm.host(names[hop]).contact.peer,)
    assert [peer for _, peer, _ in swarm.host(names[hop + 1]).log.misbehaved] == list(recovery.lost)


def test_a_hop_that_cries_nonsense_of_everybody_is_replaced_itself() -> None:
    swarm = Swarm(33, copies=3)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    liar = swarm.chain_names(session)[1]

    def accuse(core: Any, now: float) -> tuple[None, list[Effect]]:
        served = core.hop._sessions.get(session)
        return None, core.hop._blame(served, served.upstream, "made up") if served is not None else []

    for _ in range(4):
        swarm.host(liar).call(accuse)
        swarm.world.run_for(0.2)
    assert swarm.run(session) == unbroken()
    assert swarm.host(liar).contact.peer in {peer for r in swarm.recoveries(session) for peer in r.lost}


@pytest.mark.parametrize("token", [VOCABULARY_SIZE, (1 << 31) - 1])
@pytest.mark.parametrize("after", [0, 9])
def test_a_last_hop_that_makes_up_tokens_is_replaced_before_one_is_delivered(after: int, token: int) -> None:
    swarm = Swarm(34)
    session = swarm.ask()
    swarm.run_to_token(session, after)
    first, _, last = (swarm.host(name) for name in swarm.chain_names(session))
    last.core = Liar(last.core, changes(Token, token=token))
    assert swarm.run(session) == unbroken()
    (recovery,) = swarm.recoveries(session)
    assert recovery.lost == (last.contact.peer,)
    assert first.contact in {hop.contact for hop in recovery.chain}
