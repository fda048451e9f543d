"""Any well-typed message from anybody, in any order: nothing is raised and the figures stay true."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Compute, DropCache, Effect, Message, OpenCache
from p2pinfer.errors import NoChain
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig, HopConfig
from p2pinfer.inference.generation import Request
from p2pinfer.inference.hop_core import HopCore, ServedSpan
from p2pinfer.inference.planner import Holder
from p2pinfer.peer_core import PeerConfig, PeerCore
from p2pinfer.wire.messages.inference import (
    POSITIONS_MAX,
    ChainHop,
    CloseSession,
    OpenSession,
    Resume,
    Sampling,
    SessionReady,
    SessionRefused,
    Step,
    StepFailed,
    Tensor,
    Token,
)
from p2pinfer.work import EngineOutput

DIGEST = b"\x01" * 32
KEYS = [bytes([i]) * 32 for i in range(5)]
PEERS = [Contact(PeerId.from_public_key(key), Endpoint("10.0.0.1", 7000 + i)) for i, key in enumerate(KEYS)]
ME = PEERS[0]
CHAINS = [
    (ChainHop(PEERS[0], 0, 2), ChainHop(PEERS[1], 2, 4), ChainHop(PEERS[2], 4, 6)),
    (ChainHop(PEERS[1], 0, 2), ChainHop(PEERS[0], 2, 4), ChainHop(PEERS[2], 4, 6)),
    (ChainHop(PEERS[1], 0, 2), ChainHop(PEERS[2], 2, 4), ChainHop(PEERS[0], 4, 6)),
    (ChainHop(PEERS[0], 0, 6),),
    (ChainHop(PEERS[0], 0, 2), ChainHop(PEERS[0], 2, 4), ChainHop(PEERS[0], 4, 6)),
    (ChainHop(PEERS[3], 0, 3), ChainHop(PEERS[0], 3, 6)),
    (),
]
POSITION_SIZE_BYTES = 16
SERVED = ServedSpan(
    digest=DIGEST, span=Span(0, 6), layer_count=6, position_size_bytes=POSITION_SIZE_BYTES, positions_max=64
)

few = st.integers(0, 6)
counts = st.one_of(few, st.sampled_from([30, 64, POSITIONS_MAX]))
peers = st.sampled_from(PEERS)
tensors = st.builds(
    Tensor,
    dtype=st.sampled_from(["f4", "f2", "?"]),
    shape=st.sampled_from([(), (1,), (1, 2), (3, 2), (1 << 24, 1), (1, 1, 1, 1)]),
    data=st.sampled_from([b"", b"12345678", b"x" * 500]),
)
tokens = st.lists(st.integers(0, 9), max_size=5).map(tuple)
samplings = st.builds(
    Sampling,
    repeat_last_n=st.sampled_from([0, 1, 64]),
    stop_tokens=st.sampled_from([(), (3,)]),
    token_count_max=st.sampled_from([1, 4, POSITIONS_MAX]),
)


def messages(sessions: st.SearchStrategy[SessionId]) -> st.SearchStrategy[Message]:
    return st.one_of(
        st.builds(
            OpenSession,
            session=sessions,
            epoch=few,
            digest=st.sampled_from([DIGEST, b"\x02" * 32]),
            chain=st.sampled_from(CHAINS),
            index=st.integers(0, 3),
            entry=peers,
            positions_max=st.sampled_from([1, 8, 30, 64, 65, POSITIONS_MAX]),
            sampling=samplings,
            prompt_count=st.integers(1, 9),
            sample_from=st.integers(1, 9),
            recent=tokens,
        ),
        st.builds(SessionReady, session=sessions, epoch=few, next_step=counts, working=st.booleans()),
        st.builds(
            SessionRefused, session=sessions, epoch=few, code=st.sampled_from(["overloaded", "span", "\0"])
        ),
        st.builds(
            Step,
            session=sessions,
            step=counts,
            base=counts,
            tokens=tokens,
            hidden=st.none() | tensors,
            sample=st.booleans(),
        ),
        st.builds(
            Token,
            session=sessions,
            step=counts,
            position=counts,
            token=st.integers(0, 9),
            final=st.booleans(),
        ),
        st.builds(Resume, session=sessions, epoch=few, forward_from=counts),
        st.builds(
            StepFailed,
            session=sessions,
            epoch=few,
            code=st.sampled_from(["unknown", "unreachable", "engine", "closing", "?"]),
            peer=st.none() | peers.map(lambda contact: contact.peer),
        ),
        st.builds(CloseSession, session=sessions),
    )


hop_sessions = st.sampled_from([SessionId(bytes([i]) * 16) for i in range(3)])
moments = st.sampled_from([0.0, 0.0, 0.01, 1.2, 6.0, 16.0, 121.0])
outputs = st.builds(
    EngineOutput,
    hidden=st.none() | tensors,
    token=st.none() | st.integers(0, 9),
    error=st.sampled_from([None, None, None, "no"]),
)
ACTS = ("message", "message", "message", "computed", "tick", "disconnected")
Act = tuple[str, Contact, Any, EngineOutput, float]


def acts(sessions: st.SearchStrategy[SessionId]) -> st.SearchStrategy[list[Act]]:
    act = st.tuples(st.sampled_from(ACTS), peers, messages(sessions), outputs, moments)
    return st.lists(act, min_size=1, max_size=40)


class Bench:
    """Feeds a core, and plays its engine, whose caches show whether the effects' order makes sense."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.now = 0.0
        self.caches: set[SessionId] = set()
        self.in_work: list[int] = []

    def feed(self, act: Act) -> None:
        what, sender, message, output, wait_s = act
        self.now += wait_s
        match what:
            case "message":
                self.perform(self.core.receive(sender, message, self.now))
            case "computed" if self.in_work:
                self.perform(self.core.computed((output,) * self.in_work.pop(0), self.now))
            case "tick":
                self.perform(self.core.tick(self.now))
            case "disconnected":
                self.perform(self.core.disconnected(sender, self.now))

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case OpenCache(session=session):
                    assert session not in self.caches
                    self.caches.add(session)
                case DropCache(session=session):
                    assert session in self.caches
                    self.caches.remove(session)
                case Compute(batch=batch):
                    assert not self.in_work, "one batch at a time"
                    self.in_work.append(len(batch))


def check_hop(hop: HopCore, caches: set[SessionId]) -> None:
    sessions = hop._sessions.all()
    figures = hop.statistics()
    assert figures["sessions"] == len(sessions) == len(caches)
    assert figures["reserved_bytes"] == sum(s.reserved.size_bytes for s in sessions)
    assert figures["reserved_bytes"] <= hop._config.memory_size_bytes_max
    for session in sessions:
        bound = session.place.positions_max
        waiting = sum(step.row_count for step in session.waiting.values())
        assert waiting <= session.row_count <= bound
        assert len(session.kept) + len(session.waiting) <= bound
        held = sum(len(s.hidden.data) for s in session.waiting.values() if s.hidden)
        assert held <= session.reserved.size_bytes
        assert all(number >= session.next_step for number in session.waiting)
        assert len(session.recent) <= max(session.place.sampling.repeat_last_n, 5)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(acts(hop_sessions))
def test_a_hop_takes_anything(todo: list[Act]) -> None:
    config = HopConfig(memory_size_bytes_max=100 * POSITION_SIZE_BYTES, session_count_max=2)
    bench = Bench(HopCore(me=ME, config=config, served=SERVED))
    for act in todo:
        bench.feed(act)
        check_hop(bench.core, bench.caches)
    bench.now += 1000.0
    bench.perform(bench.core.tick(bench.now))
    check_hop(bench.core, bench.caches)
    assert not bench.caches


OWN = SessionId(b"\xee" * 16)
"""Stands for the generation that the peer has opened itself, in the messages that are drawn."""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(acts(st.one_of(st.just(OWN), hop_sessions)), st.booleans())
def test_a_whole_peer_takes_anything(todo: list[Act], is_hop: bool) -> None:
    rng = random.Random(1)
    peer = PeerCore(
        public_key=KEYS[0],
        endpoint=ME.endpoint,
        config=PeerConfig(entry=EntryConfig(prefill_chunk_positions=2)),
        rng=rng,
        sign=lambda statement: replace(statement, signature=b"s" * 64),
        now=0.0,
    )
    bench = Bench(peer)
    bench.perform(peer.serve(SERVED, "m", 0.0))
    others = [(1, 0, 2), (2, 0, 6), (3, 2, 6), (4, 0, 6)]
    holders = [Holder(PEERS[i], Span(a, b), 0.001, 0, 0.001) for i, a, b in others]
    if is_hop:
        holders.append(Holder(ME, Span(0, 2)))
    peer.entry.set_holders({DIGEST: holders})
    request = Request(digest=DIGEST, layer_count=6, prompt=(1, 2, 3), sampling=Sampling(token_count_max=4))
    try:
        own, effects = peer.entry.open(request, 0.0)
    except NoChain:
        raise AssertionError("there are holders of all layers") from None
    bench.perform(peer._carry(effects, 0.0))
    for what, sender, message, output, wait_s in todo:
        if message.session == OWN:
            message = replace(message, session=own)
        bench.feed((what, sender, message, output, wait_s))
        check_hop(peer.hop, bench.caches)
        for generation in peer.entry._generations.values():
            assert len(generation.early) <= 64
            assert len(generation.tokens) <= 4
            assert generation.deadline <= bench.now + 6.0
