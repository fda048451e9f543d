"""Peers for the DHT's tests: keys, contacts, cores, and the sign function of a world without cryptography."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import LookupDone
from p2pinfer.dht.table import RoutingTable
from p2pinfer.effects import Deliver, Effect, Message, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.messages.dht import DhtRecord
from p2pinfer.wire.messages.records import Signed

S = TypeVar("S", bound=Signed)
M = TypeVar("M", bound=Message)


def public_key(index: int) -> bytes:
    return hashlib.sha256(b"public key %d" % index).digest()


def peer_id(index: int) -> PeerId:
    return PeerId.from_public_key(public_key(index))


def endpoint(index: int) -> Endpoint:
    return Endpoint(f"10.{index // 62500}.{index // 250 % 250}.{index % 250 + 1}", 7946)


def contact(index: int, host: str | None = None) -> Contact:
    return Contact(peer_id(index), endpoint(index) if host is None else Endpoint(host, 7946))


def unsigned(statement: S) -> S:
    return statement


def make_core(index: int, *, config: DhtConfig | None = None, seed: int = 1, now: float = 0.0) -> DhtCore:
    return DhtCore(
        public_key=public_key(index),
        endpoint=endpoint(index),
        config=config or DhtConfig.for_tests(),
        rng=random.Random(seed),
        sign=unsigned,
        now=now,
    )


def record(
    owner: int = 1,
    *,
    key: bytes = bytes(32),
    subkey: bytes = b"",
    value: bytes = b"v",
    sequence: int = 1,
    expires_s: float = 60.0,
) -> DhtRecord:
    return DhtRecord(
        namespace="value",
        public_key=public_key(owner),
        key=key,
        subkey=subkey,
        value=value,
        sequence=sequence,
        expires_ms=int(expires_s * 1000),
    )


def in_namespace(namespace: str, each: DhtRecord) -> DhtRecord:
    return dataclasses.replace(each, namespace=namespace)


def sent(effects: Iterable[Effect], kind: type[M]) -> list[tuple[Contact, M]]:
    return [
        (effect.to, effect.message)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def done(effects: Iterable[Effect]) -> list[LookupDone]:
    return [
        effect.item
        for effect in effects
        if isinstance(effect, Deliver) and isinstance(effect.item, LookupDone)
    ]


def nearest_by_force(key: bytes, peers: Iterable[bytes], count: int) -> list[bytes]:
    """The dumb twin: compare everything."""
    return sorted(peers, key=lambda peer: [one ^ other for one, other in zip(peer, key, strict=True)])[:count]


def exchange(cores: Sequence[DhtCore], effects: list[Effect], source: DhtCore, now: float) -> list[Effect]:
    """Carry every message at once and without loss until all is quiet; return what is not a message."""
    by_endpoint = {core.contact.endpoint: core for core in cores}
    waiting = [(source, effect) for effect in effects]
    others: list[Effect] = []
    while waiting:
        sender, effect = waiting.pop(0)
        if not isinstance(effect, Send):
            others.append(effect)
            continue
        target = by_endpoint.get(effect.to.endpoint)
        if target is not None:
            answers = target.receive(sender.contact, effect.message, now)
            waiting += [(target, answer) for answer in answers]
    return others


def waiting(table: RoutingTable) -> int:
    """Contacts in the replacement caches."""
    return table.known_count - len(table)
