"""A toy core that uses the whole contract: a replicated grow-only counter.

Each peer counts its own increments, persists its count before it tells anybody, sends every peer what it
knows on a timer (datagrams), and answers a `ToyAsk` over a stream. The join of two states is the maximum by
peer, so any order, loss or repetition must end in the same sum.

Its tags are the last of the client requests, which the codec knows as it knows all below 128.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from p2pinfer.effects import (
    Compute,
    Deliver,
    Disconnect,
    Effect,
    Message,
    Notify,
    OpenCache,
    Persist,
    Plane,
    Priority,
    Send,
)
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId
from p2pinfer.testing import Host, World
from p2pinfer.wire.schema import Count, Size, registered

GOSSIP_INTERVAL_S = 0.1


@registered
@dataclass(frozen=True, slots=True)
class ToyCounts(Message):
    """What a peer knows: pairs of a peer and its count. Sent on a timer, never answered."""

    TAG = 124
    PLANE = Plane.DATAGRAM

    peers: Annotated[tuple[PeerId, ...], Count(64)]
    counts: Annotated[tuple[int, ...], Count(64)]


@registered
@dataclass(frozen=True, slots=True)
class ToyAsk(Message):
    """Asks for an echo. Sent by whoever likes to; answered with `ToyAnswer`."""

    TAG = 125
    PLANE = Plane.STREAM

    number: int
    padding: Annotated[bytes, Size(1 << 20)] = b""

    @property
    def priority(self) -> Priority:
        return Priority.BULK if self.padding else Priority.CONTROL


@registered
@dataclass(frozen=True, slots=True)
class ToyAnswer(Message):
    """The echo of a `ToyAsk`."""

    TAG = 126
    PLANE = Plane.STREAM

    number: int


@registered
@dataclass(frozen=True, slots=True)
class ToyShot(Message):
    """A single datagram, for counting."""

    TAG = 127
    PLANE = Plane.DATAGRAM

    number: int
    padding: Annotated[bytes, Size(1 << 16)] = b""


@dataclass
class ToyCore:
    """A grow-only counter that gossips; `acks_early` is the mutant that tells before its disk knows."""

    me: Contact
    peers: tuple[Contact, ...]
    rng: random.Random
    now: float
    stored: Mapping[str, bytes] = field(default_factory=dict)
    acks_early: bool = False
    gossips: bool = True
    counts: dict[PeerId, int] = field(default_factory=dict)
    lost: list[Contact] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    ticks_count: int = 0
    disk_errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadline: float | None = (
            self.now + GOSSIP_INTERVAL_S * self.rng.random() if self.gossips else None
        )
        value = self.stored.get("count", b"")
        self.counts[self.own] = int.from_bytes(value, "big")

    @property
    def own(self) -> PeerId:
        assert self.me.peer is not None
        return self.me.peer

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    # --- commands ---

    def increment(self, now: float) -> list[Effect]:
        count = self.counts[self.own] = self.counts[self.own] + 1
        write = Persist("count", count.to_bytes(8, "big"))
        promise = [Deliver(("counted", count)), *self._tell()]
        return [*promise, write] if self.acks_early else [write, *promise]

    def ask(self, to: Contact, numbers: Sequence[int], padding: bytes = b"") -> list[Effect]:
        return [Send(to, ToyAsk(number, padding)) for number in numbers]

    def shoot(self, to: Contact, numbers: Sequence[int], padding: bytes = b"") -> list[Effect]:
        return [Send(to, ToyShot(number, padding)) for number in numbers]

    def write(self, *items: tuple[str, bytes | None]) -> list[Effect]:
        return [*(Persist(key, value) for key, value in items), Deliver("written")]

    def hang_up(self, peer: PeerId) -> list[Effect]:
        return [Disconnect(peer)]

    def refuse(self, _: float) -> list[Effect]:
        raise LocalProtocolError("a toy refuses: ask for something else")

    def value_and_effects(self, now: float) -> tuple[int, list[Effect]]:
        return self.total, [Notify("asked")]

    def compute(self, batch: tuple[Any, ...]) -> list[Effect]:
        return [OpenCache(SessionId(bytes(16)), 8), Compute(batch)]

    # --- inputs ---

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        if isinstance(message, ToyCounts):
            for peer, count in zip(message.peers, message.counts, strict=False):
                if peer != self.own:
                    self.counts[peer] = max(count, self.counts.get(peer, 0))
        elif isinstance(message, ToyAsk):
            return [Deliver(message.number), Send(sender, ToyAnswer(message.number))]
        elif isinstance(message, ToyAnswer | ToyShot):
            self.heard.append(message.number)
            return [Deliver(message.number)]
        return []

    def tick(self, now: float) -> list[Effect]:
        self.ticks_count += 1
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = now + GOSSIP_INTERVAL_S * (0.5 + self.rng.random())
        return self._tell()

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        self.lost.append(contact)
        return []

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        self.disk_errors.append(key)
        return [Notify("disk failed")]

    def computed(self, results: tuple[Any, ...], now: float) -> list[Effect]:
        return [Deliver((now, results))]

    def statistics(self) -> Mapping[str, Any]:
        return {"total": self.total}

    def _tell(self) -> list[Effect]:
        peers = tuple(sorted(self.counts))
        message = ToyCounts(peers, tuple(self.counts[peer] for peer in peers))
        return [Send(peer, message) for peer in self.peers]


def contact(number: int) -> Contact:
    """The contact of the host with that number, counted from 1."""
    return Contact(PeerId(bytes([number]) * 32), Endpoint(f"10.0.0.{number}", 7946))


def add_toys(world: World, hosts_count: int, **settings: Any) -> list[Host]:
    """Add hosts h1, h2, ... that all know each other."""
    contacts = [contact(number) for number in range(1, hosts_count + 1)]

    def add(me: Contact, name: str) -> Host:
        others = tuple(other for other in contacts if other != me)
        return world.add(name, lambda disk, rng, now: ToyCore(me, others, rng, now, disk, **settings), me)

    return [add(me, f"h{number}") for number, me in enumerate(contacts, 1)]
