"""Swarms of real SWIM cores in the simulator, with signatures that cost nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from p2pinfer.effects import Effect, Message, Notify, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.testing import Host, World
from p2pinfer.wire.codec import signing_bytes
from p2pinfer.wire.messages.records import Holding, PeerRecord, Signed

S = TypeVar("S", bound=Signed)
M = TypeVar("M", bound=Message)

FAST = SwimConfig.for_tests()


def sign(statement: S) -> S:
    """Stands for Ed25519: as long, as deterministic, and without its cost."""
    signature = hashlib.blake2b(signing_bytes(statement), digest_size=64).digest()
    signed: Any = dataclasses.replace(statement, signature=signature)  # type: ignore[type-var]
    return signed  # type: ignore[no-any-return]


def key(index: int) -> bytes:
    return hashlib.sha256(b"key %d" % index).digest()


def peer_id(index: int) -> PeerId:
    return PeerId.from_public_key(key(index))


def endpoint(index: int) -> Endpoint:
    return Endpoint(f"10.0.{index // 250}.{index % 250 + 1}", 7946)


def contact(index: int) -> Contact:
    return Contact(peer_id(index), endpoint(index))


def holding(start: int = 0, end: int = 10, queue: int = 0) -> Holding:
    return Holding(
        model="smollm2:135m",
        digest=b"d" * 32,
        layer_count=30,
        start=start,
        end=end,
        step_us=1400,
        queue=queue,
    )


def make_core(index: int, *, config: SwimConfig = FAST, now: float = 0.0, seed: int = 0) -> SwimCore:
    return SwimCore(
        public_key=key(index),
        endpoint=endpoint(index),
        config=config,
        rng=random.Random(seed * 1000 + index),
        sign=sign,
        now=now,
    )


def record(index: int, incarnation: int = 1, *, expires_s: float = 1000.0, **changes: Any) -> PeerRecord:
    fields: dict[str, Any] = {
        "public_key": key(index),
        "endpoint": endpoint(index),
        "incarnation": incarnation,
        "expires_ms": int(expires_s * 1000),
        **changes,
    }
    return sign(PeerRecord(**fields))


def sent(effects: Iterable[Effect], kind: type[M]) -> list[tuple[Contact, M]]:
    return [
        (each.to, each.message)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, kind)
    ]


def news(effects: Iterable[Effect]) -> list[object]:
    return [each.news for each in effects if isinstance(each, Notify)]


class Swarm:
    """Hosts 0 to n-1 of a world, all of which join through host 0 alone."""

    def __init__(self, world: World, count: int, config: SwimConfig = FAST) -> None:
        self.world = world
        self.config = config
        self.hosts: list[Host] = []
        for index in range(count):
            self.add(index)

    def add(self, index: int) -> Host:
        host = self.world.add(f"p{index}", self._factory(index), contact(index))
        self.hosts.append(host)
        return host

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            core = SwimCore(
                public_key=key(index),
                endpoint=endpoint(index),
                config=self.config,
                rng=rng,
                sign=sign,
                now=now,
            )
            return core, core.join([endpoint(0)], now)

        return make

    def names(self, indices: Iterable[int]) -> list[str]:
        return [f"p{index}" for index in indices]

    def sees(self, viewer: int, indices: Iterable[int]) -> bool:
        """Whether the viewer takes exactly these for alive, suspects not counted."""
        views = self.hosts[viewer].core.members()
        alive = {view.record.public_key for view in views if view.state is MemberState.ALIVE}
        return alive == {key(index) for index in indices}

    def all_see(self, indices: Iterable[int], viewers: Iterable[int] | None = None) -> bool:
        wanted = list(indices)
        return all(self.sees(viewer, wanted) for viewer in (wanted if viewers is None else viewers))

    def settle(self, timeout_s: float = 20.0) -> float:
        """Run until all that are up see each other; return how long it took."""
        began = self.world.now
        up = [index for index, host in enumerate(self.hosts) if host.up]
        assert run_until(self.world, lambda: self.all_see(up), timeout_s), "the swarm did not form"
        return self.world.now - began

    def news_of(self, kind: type, *, since: float = 0.0) -> list[tuple[float, str, Any]]:
        """When, by whom and what, of all news of one kind."""
        return sorted(
            (
                (at, host.name, item)
                for host in self.hosts
                for at, item in host.log.notices
                if isinstance(item, kind) and at >= since
            ),
            key=lambda each: each[:2],
        )


def run_until(world: World, predicate: Callable[[], bool], timeout_s: float, step_s: float = 0.05) -> bool:
    """Like `run_until_true`, but looks only every `step_s`: a look at all costs more than an event."""
    end = world.now + timeout_s
    while not predicate():
        if world.now >= end:
            return False
        world.run_for(step_s)
    return True
