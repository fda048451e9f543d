"""A simulated swarm of inference cores alone: holders are given, nobody gossips.

Every host is entry peer and hop at once. Engines are `HashEngine`s, whose tokens change if anything in a
replay differs from the unbroken run.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig, HopConfig
from p2pinfer.inference.entry_core import EntryCore
from p2pinfer.inference.generation import Request, chunked
from p2pinfer.inference.hop_core import HopCore, ServedSpan
from p2pinfer.inference.news import GenerationFailed, Recovered, Sampled
from p2pinfer.inference.planner import Holder
from p2pinfer.inference.standing import StandingConfig
from p2pinfer.testing import World
from p2pinfer.testing.host import Host
from p2pinfer.testing.trace import Trace
from p2pinfer.wire.messages.inference import (
    Prefilled,
    Sampling,
    SessionReady,
    SessionRefused,
    StepFailed,
    Token,
)
from p2pinfer.work import EngineInput, EngineOutput, SampleRequest
from tests.inference.hash_engine import ROW_SIZE_BYTES, VOCABULARY_SIZE, HashEngine

LAYER_COUNT = 12
DIGEST = b"\x07" * 32
SPANS = (Span(0, 4), Span(4, 8), Span(8, 12))


class InferencePeer:
    """Entry peer and hop in one core; a message to itself is delivered at once."""

    def __init__(
        self,
        me: Contact,
        span: Span | None,
        rng: random.Random,
        memory: int,
        balancer: str = "power_of_two",
    ) -> None:
        served = None
        if span:
            served = ServedSpan(
                digest=DIGEST,
                span=span,
                layer_count=LAYER_COUNT,
                position_size_bytes=ROW_SIZE_BYTES,
                positions_max=4096,
            )
        self.me = me
        config = EntryConfig(prefill_chunk_positions=4, standing=StandingConfig(balancer=balancer))
        self.entry = EntryCore(me=me, config=config, rng=rng)
        self.hop = HopCore(me=me, config=HopConfig(memory_size_bytes_max=memory), served=served)

    def open(self, request: Request, now: float) -> tuple[SessionId, list[Effect]]:
        session, effects = self.entry.open(request, now)
        return session, self._carry(effects, now)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        return self._carry(self._route(sender, message, now), now)

    def _route(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match message:
            case SessionReady() | SessionRefused() | Prefilled():
                effects += self.entry.receive(sender, message, now)
            case Token() | StepFailed():
                is_asked, is_served = self.entry.knows(message.session), self.hop.knows(message.session)
                if is_asked or not is_served:
                    effects += self.entry.receive(sender, message, now)
                if is_served or not is_asked:
                    effects += self.hop.receive(sender, message, now)
            case _:
                effects += self.hop.receive(sender, message, now)
        return effects

    def computed(self, results: tuple[EngineOutput, ...], now: float) -> list[Effect]:
        return self._carry(self.hop.computed(results, now), now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        return self._carry(self.entry.disconnected(contact, now) + self.hop.disconnected(contact, now), now)

    def tick(self, now: float) -> list[Effect]:
        return self._carry(self.entry.tick(now) + self.hop.tick(now), now)

    @property
    def deadline(self) -> float | None:
        return min((d for d in (self.entry.deadline, self.hop.deadline) if d is not None), default=None)

    def statistics(self) -> Mapping[str, Any]:
        return {**self.hop.statistics(), **self.entry.statistics()}

    def _carry(self, effects: list[Effect], now: float) -> list[Effect]:
        outside: list[Effect] = []
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            if isinstance(effect, Send) and effect.to == self.me:
                pending += self._route(self.me, effect.message, now)
            else:
                outside.append(effect)
        return outside


class TimedHashEngine(HashEngine):
    """Says how long it would have taken."""

    speed = 1.0

    def run(self, batch: Any) -> Any:
        rows = sum(max(len(i.tokens), i.hidden.shape[0] if i.hidden else 0) for i in batch)
        return tuple(super().run(batch)), 0.004 * rows * self.speed


class Swarm:
    """One entry peer `me` without layers, and holders named by their span: a0, a1, b0, b1, c0, c1 ..."""

    def __init__(
        self,
        seed: int | World,
        *,
        copies: int = 2,
        trace: Trace | None = None,
        memory: int = 1 << 20,
        balancer: str = "power_of_two",
    ) -> None:
        self.world = seed if isinstance(seed, World) else World(seed, trace=trace)
        self.engines: dict[str, TimedHashEngine] = {}
        self.holders: list[Holder] = []
        self._number = 0
        self.memory = memory
        self.balancer = balancer
        self.me = self.add("me", None)
        for copy in range(copies):
            for letter, span in zip("abc", SPANS, strict=True):
                self.add(f"{letter}{copy}", span)

    def add(self, name: str, span: Span | None) -> Host:
        self._number += 1
        number = self._number
        contact = Contact(PeerId(bytes([number]) * 32), Endpoint("10.0.0.1", 7000 + number))

        def engine() -> TimedHashEngine:
            self.engines[name] = TimedHashEngine(span or Span(0, 1), LAYER_COUNT)
            return self.engines[name]

        def core(disk: Mapping[str, bytes], rng: random.Random, now: float) -> InferencePeer:
            peer = InferencePeer(contact, span, rng, self.memory, self.balancer)
            peer.entry.set_holders({DIGEST: tuple(self.holders)})
            return peer

        host = self.world.add(name, core, contact, engine=engine)
        if span:
            self.holders.append(Holder(contact, span, 0.004, 0, 0.001))
        self.tell_holders()
        return host

    def tell_holders(self) -> None:
        for host in self.world.hosts.values():
            host.core.entry.set_holders({DIGEST: tuple(self.holders)})

    def host(self, name: str) -> Host:
        return self.world.hosts[name]

    def ask(
        self,
        *,
        prompt: int | tuple[int, ...] = 10,
        answer: int = 30,
        seed: int = 1,
        at: str = "me",
        key: bytes = b"",
    ) -> SessionId:
        """Open a generation with a prompt, or one of that many tokens, at a host."""
        if isinstance(prompt, int):
            prompt = tuple(range(1, prompt + 1))
        sampling = Sampling(token_count_max=answer, seed=seed, repeat_last_n=8)
        request = Request(
            digest=DIGEST,
            layer_count=LAYER_COUNT,
            prompt=prompt,
            sampling=sampling,
            key=key,
            vocabulary_size=VOCABULARY_SIZE,
        )
        call = self.host(at).call(lambda core, now: core.open(request, now))
        session: SessionId = call.value
        return session

    def tokens(self, session: SessionId, at: str = "me") -> list[int]:
        return [i.token for i in self.host(at).delivered if isinstance(i, Sampled) and i.session == session]

    def ended(self, session: SessionId, at: str = "me") -> bool:
        return any(
            (isinstance(i, Sampled) and i.final and i.session == session)
            or (isinstance(i, GenerationFailed) and i.session == session)
            for i in self.host(at).delivered
        )

    def failure(self, session: SessionId) -> GenerationFailed | None:
        for item in self.me.delivered:
            if isinstance(item, GenerationFailed) and item.session == session:
                return item
        return None

    def recoveries(self, session: SessionId) -> list[Recovered]:
        return [i for i in self.me.delivered if isinstance(i, Recovered) and i.session == session]

    def run(self, session: SessionId, timeout_s: float = 60.0, at: str = "me") -> list[int]:
        """Run to the generation's end and return its tokens."""
        assert self.world.run_until_true(lambda: self.ended(session, at), timeout_s), "the generation hangs"
        return self.tokens(session, at)

    def run_to_token(self, session: SessionId, count: int) -> None:
        assert self.world.run_until_true(lambda: len(self.tokens(session)) >= count, 60.0)

    def chain_names(self, session: SessionId) -> list[str]:
        names = {host.contact: name for name, host in self.world.hosts.items()}
        chain = self.me.core.entry._generations[session].chain
        return [names[hop.contact] for hop in chain]


def unbroken(prompt: int = 10, answer: int = 30, seed: int = 1) -> list[int]:
    """The tokens that one engine with all layers gives, step by step."""
    shapes = chunked(0, prompt, 4)
    return undisturbed(tuple(range(1, prompt + 1)), shapes, answer=answer, seed=seed)


def undisturbed(
    known: tuple[int, ...], shapes: Sequence[tuple[int, int]], *, answer: int = 30, seed: int = 1
) -> list[int]:
    """The tokens that one engine gives after a prompt that is cut into steps of these bases and counts."""
    engine = HashEngine(Span(0, LAYER_COUNT), LAYER_COUNT)
    session = SessionId(b"u" * 16)
    prompt = len(known)
    engine.open_cache(session, prompt + answer)
    sampling = Sampling(token_count_max=answer, seed=seed, repeat_last_n=8)
    tokens = list(known)
    steps = deque(shapes)
    base = 0
    while len(tokens) < prompt + answer:
        rows = tuple(tokens[base : base + steps.popleft()[1]] if steps else tokens[base:])
        position = base + len(rows)
        recent = tuple(tokens[-8:])
        sample = SampleRequest(sampling, position, recent) if position >= prompt else None
        (output,) = engine.run([EngineInput(session=session, base=base, tokens=rows, sample=sample)])
        assert output.error is None
        if output.token is not None:
            tokens.append(output.token)
        base = position
    return tokens[prompt:]
