"""A simulated swarm of whole peers: SWIM, DHT and inference composed as in a real process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from p2pinfer.dht.config import DhtConfig
from p2pinfer.effects import Effect
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Request
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.news import GenerationFailed, Recovered, Sampled
from p2pinfer.peer_core import PeerConfig, PeerCore
from p2pinfer.swim.config import SwimConfig
from p2pinfer.testing import World
from p2pinfer.testing.host import Host
from p2pinfer.testing.trace import Trace
from p2pinfer.wire.messages.inference import Sampling
from tests.inference.swarm import DIGEST, LAYER_COUNT, SPANS, TimedHashEngine

CONFIG = PeerConfig(
    swim=SwimConfig.local(), dht=DhtConfig.for_tests(), entry=EntryConfig(prefill_chunk_positions=4)
)


def sign(statement: Any) -> Any:
    """Sign for the simulation: the cores do no cryptography, so a hash stands for the signature."""
    return replace(statement, signature=hashlib.blake2b(repr(statement).encode()).digest())


class PeerSwarm:
    """The peer `me` without layers, and holders a0, b0, c0, a1 ... that join through it."""

    def __init__(
        self,
        seed: int | World,
        *,
        copies: int = 2,
        trace: Trace | None = None,
        wire: bool = False,
        config: PeerConfig = CONFIG,
    ) -> None:
        self.config = config
        self.world = seed if isinstance(seed, World) else World(seed, trace=trace, wire=wire)
        self.me = self.add("me", None)
        for copy in range(copies):
            for letter, span in zip("abc", SPANS, strict=True):
                self.add(f"{letter}{copy}", span)

    def add(self, name: str, span: Span | None) -> Host:
        public_key = hashlib.sha256(name.encode()).digest()
        endpoint = Endpoint("10.0.0.1", 7000 + len(self.world.hosts))
        bootstrap = [Endpoint("10.0.0.1", 7000)] if self.world.hosts else []

        def core(disk: Mapping[str, bytes], rng: random.Random, now: float) -> tuple[PeerCore, list[Effect]]:
            peer = PeerCore(
                public_key=public_key, endpoint=endpoint, config=self.config, rng=rng, sign=sign, now=now
            )
            effects = peer.join(bootstrap, now)
            if span:
                served = ServedSpan(
                    digest=DIGEST,
                    span=span,
                    layer_count=LAYER_COUNT,
                    position_size_bytes=8,
                    positions_max=4096,
                )
                effects += peer.serve(served, "hash:12", now)
            return peer, effects

        return self.world.add(
            name,
            core,
            Contact(PeerId.from_public_key(public_key), endpoint),
            engine=lambda: TimedHashEngine(span or Span(0, 1), LAYER_COUNT),
        )

    def settle(self, timeout_s: float = 20.0) -> bool:
        """Run until every live peer sees every other one and what it holds."""
        hosts = [h for h in self.world.hosts.values() if h.up]

        def agree(host: Host) -> bool:
            records = host.core.swim.alive()
            return len(records) == len(hosts) and sum(1 for r in records if r.holding) == len(hosts) - 1

        return self.world.run_until_true(lambda: all(map(agree, hosts)), timeout_s)

    def ask(self, *, prompt: int = 10, answer: int = 30, seed: int = 1, at: str = "me") -> SessionId:
        sampling = Sampling(token_count_max=answer, seed=seed, repeat_last_n=8)
        request = Request(
            digest=DIGEST, layer_count=LAYER_COUNT, prompt=tuple(range(1, prompt + 1)), sampling=sampling
        )
        session: SessionId = self.world.hosts[at].call(lambda core, now: core.open(request, now)).value
        return session

    def of(self, session: SessionId, kind: type[Any], at: str = "me") -> list[Any]:
        found = [item for item in self.world.hosts[at].delivered if isinstance(item, kind)]
        return [item for item in found if item.session == session]

    def tokens(self, session: SessionId, at: str = "me") -> list[int]:
        return [item.token for item in self.of(session, Sampled, at)]

    def run(self, session: SessionId, at: str = "me", timeout_s: float = 60.0) -> list[int]:
        def ended() -> bool:
            return bool(self.of(session, GenerationFailed, at)) or any(
                item.final for item in self.of(session, Sampled, at)
            )

        assert self.world.run_until_true(ended, timeout_s), "the generation hangs"
        return self.tokens(session, at)

    def recoveries(self, session: SessionId, at: str = "me") -> list[Recovered]:
        return self.of(session, Recovered, at)

    def chain(self, session: SessionId, at: str = "me") -> list[Host]:
        by_peer = {host.contact.peer: host for host in self.world.hosts.values()}
        generation = self.world.hosts[at].core.entry._generations[session]
        return [by_peer[hop.contact.peer] for hop in generation.chain]
