"""Peers that attack a simulated DHT, and what watches the network while they do.

Each attacker has a key of its own and answers pings, so that the table takes it for a member: what is forged
outright never reaches a core (`wire/envelope.py`), which `refuse_forgeries` stands for here.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import distance, key_of
from p2pinfer.dht.news import LookupDone
from p2pinfer.effects import Effect, Message, Send
from p2pinfer.errors import SignatureError
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.testing import Drop, Host, Packet, World
from p2pinfer.testing.network import ENVELOPE_SIZE_BYTES
from p2pinfer.wire.codec import encoded_size, signed_parts
from p2pinfer.wire.messages.dht import (
    PAGES_COUNT_MAX,
    DhtPing,
    DhtPong,
    DhtRecord,
    FindNodes,
    FoundNodes,
    Stored,
    StoreRecords,
)
from tests.dht.peers import endpoint, nearest_by_force
from tests.simulation.dht_swarm import DhtSwarm

Answer = Callable[[Contact, Message], Iterable[Message]]

KEY = key_of("value", "attacked")
TESTS = DhtConfig.for_tests()
LOOKUP_QUERIES_MAX = 60
"""Peers that a lookup may ask in these swarms of fifty, whatever it is told."""
PAGE_CONTACTS_COUNT = 15
_INTRODUCTION = 1
"""The number of an attacker's first question."""


@functools.cache
def identity(index: int) -> Identity:
    """The keys of an honest peer, or of an owner who is somewhere else."""
    return Identity.from_seed(index.to_bytes(32, "big"))


class Attacker:
    """Answers pings as anybody, and everything else as `answer` says.

    Attributes:
        heard: Everything that it was sent.
    """

    def __init__(self, answer: Answer) -> None:
        self.heard: list[Message] = []
        self._answer = answer

    deadline = None

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        self.heard.append(message)
        if isinstance(message, DhtPing):
            return [Send(sender, DhtPong(message.query))]
        if isinstance(message, FoundNodes) and message.query == _INTRODUCTION:
            return [Send(sender, DhtPing(0, message.token))]
        return [Send(sender, each) for each in self._answer(sender, message)]

    def tick(self, now: float) -> list[Effect]:
        return []

    def statistics(self) -> Mapping[str, Any]:
        return {}


class AttackedSwarm(DhtSwarm):
    """Honest peers with real keys, which joined through the first one, and whoever attacks them."""

    def __init__(self, world: World, count: int, config: DhtConfig | None = None) -> None:
        self.config = config or DhtConfig.for_tests()
        self.attackers: list[Host] = []
        super().__init__(world, count)

    def add_attackers(self, contacts: Sequence[Contact], answer: Answer) -> list[Host]:
        """Start attackers; nobody knows them yet."""
        begun = len(self.attackers)
        added = [
            self.world.add(f"a{begun + index}", lambda *_: Attacker(answer), contact)
            for index, contact in enumerate(contacts)
        ]
        self.attackers += added
        return added

    def introduce(self, attackers: Iterable[Host], victims: Iterable[Host]) -> None:
        """Let every attacker ask every victim something and show its token: it is taken for a contact."""
        question = FindNodes(query=_INTRODUCTION, keys=(bytes(32),), padding=bytes(900))
        to = [victim.contact for victim in victims]
        for attacker in attackers:
            attacker.call(lambda core, now: [Send(contact, question) for contact in to])

    def told(self, host: Host) -> set[PeerId]:
        """Whom a peer would tell others of."""
        return {each.peer for each in host.core._table.nearest(bytes(32), 10_000) if each.peer is not None}

    def honest_recall(self, host: Host, found: LookupDone, key: bytes) -> float:
        """The share of the truly nearest honest peers that a lookup found, of a k that has room for them."""
        others = [other.contact.peer for other in self.alive if other is not host and other.contact.peer]
        true = nearest_by_force(key, others, self.config.k)
        return sum(peer in {each.peer for each in found.nearest} for peer in true) / len(true)

    def nearest_hosts(self, key: bytes) -> list[Host]:
        """The honest, nearest to a key first."""
        return sorted(self.hosts, key=lambda host: distance(host.contact.peer or b"", key))

    def _add(self, index: int) -> Host:
        keys = identity(index)

        def factory(disk: Mapping[str, bytes], rng: random.Random, now: float) -> DhtCore:
            return DhtCore(
                public_key=keys.public_key,
                endpoint=endpoint(index),
                config=self.config,
                rng=rng,
                sign=keys.sign_statement,
                now=now,
            )

        return self.world.add(f"n{index}", factory, Contact(keys.peer_id, endpoint(index)))


def ground(key: bytes, count: int, first: int = 9000) -> list[Contact]:
    """Ids ground until they are the nearest to a key, each in a network block of its own."""
    near = int.from_bytes(key, "big")
    return [
        Contact(PeerId((near ^ (1 + i)).to_bytes(32, "big")), endpoint(first + 250 * i)) for i in range(count)
    ]


def scattered(rng: random.Random, hosts: Iterable[str]) -> list[Contact]:
    """Random ids, one at each address."""
    return [Contact(PeerId(rng.randbytes(32)), Endpoint(host, 7946)) for host in hosts]


def block(prefix: str, count: int) -> list[str]:
    """Addresses of one /24, as in `5.6.7`."""
    return [f"{prefix}.{number + 1}" for number in range(count)]


def nothing(sender: Contact, message: Message) -> Iterable[Message]:
    """A black hole: pings are all that it answers."""
    return ()


def tells(contacts: Sequence[Contact], records: Sequence[DhtRecord] = ()) -> Answer:
    """Answers with those of `contacts` that are nearest to the keys and with `records`; keeps nothing."""

    def answer(sender: Contact, message: Message) -> Iterable[Message]:
        if isinstance(message, StoreRecords):
            yield Stored(message.query, ("stored",) * len(message.records))
        elif isinstance(message, FindNodes):
            told = [contact for key in message.keys for contact in _nearest(contacts, key, 30)]
            pages = range(
                0, max(1, min(len(told), PAGES_COUNT_MAX * PAGE_CONTACTS_COUNT)), PAGE_CONTACTS_COUNT
            )
            for page, at in enumerate(pages):
                yield FoundNodes(
                    query=message.query,
                    page=page,
                    page_count=len(pages),
                    token=bytes(8),
                    seen=sender.endpoint,
                    contacts=tuple(told[at : at + PAGE_CONTACTS_COUNT]),
                    records=tuple(records) if message.records and not page else (),
                )

    return answer


def _nearest(contacts: Sequence[Contact], key: bytes, count: int) -> list[Contact]:
    return sorted(contacts, key=lambda contact: distance(contact.peer or b"", key))[:count]


class Ledger:
    """Counts what the whole network sends to one address, with the envelopes.

    Attributes:
        bytes_out: Sent to the address.
        datagrams: By kind.
        asked: FindNodes, by the name of the host that asked and the first key.
    """

    def __init__(self, world: World, victim: Endpoint) -> None:
        self.bytes_out = 0
        self.datagrams: Counter[str] = Counter()
        self.asked: Counter[tuple[str, bytes]] = Counter()
        self._victim = victim
        self._send = world.network.send
        world.network.send = self._count  # type: ignore[method-assign]

    def _count(self, source: Host, to: Contact, message: Message) -> None:
        if to.endpoint == self._victim:
            self.bytes_out += encoded_size(message) + ENVELOPE_SIZE_BYTES
            self.datagrams[type(message).__name__] += 1
            if isinstance(message, FindNodes):
                self.asked[source.name, message.keys[0]] += 1
        self._send(source, to, message)


def refuse_forgeries(world: World) -> Counter[str]:
    """Let no packet through with a signature that is not its owner's, as the datagram plane does."""
    counts: Counter[str] = Counter()
    verifier = Verifier()

    def judge(packet: Packet) -> Drop | None:
        for statement in signed_parts(packet.message):
            try:
                verifier.verify_statement(statement)
            except SignatureError:
                counts["refused"] += 1
                return Drop()
        return None

    world.network.add_rule(judge)
    return counts


def joined(count: int, seed: int, config: DhtConfig | None = None) -> AttackedSwarm:
    print(f"seed {seed}")
    swarm = AttackedSwarm(World(seed), count, config)
    swarm.world.run_for(8.0)
    return swarm


def is_bounded(swarm: AttackedSwarm, begun: float, found: LookupDone) -> bool:
    """Whether a lookup kept to its time and its number of questions."""
    took_s = swarm.world.now - begun
    return took_s <= swarm.config.query.lookup_s_max and found.queries <= LOOKUP_QUERIES_MAX


def record_of(owner: int, value: bytes, *, now: float, **changes: object) -> DhtRecord:
    """A record that its owner really signed."""
    keys = identity(owner)
    fields: dict[str, object] = {
        "public_key": keys.public_key,
        "namespace": "value",
        "key": KEY,
        "subkey": b"",
        "value": value,
        "sequence": int(now * 1000),
        "expires_ms": int((now + 60.0) * 1000),
        **changes,
    }
    return keys.sign_statement(DhtRecord(**fields))  # type: ignore[arg-type]


def push(swarm: AttackedSwarm, liar: Host, host: Host, record: DhtRecord) -> None:
    """Store a record as the protocol says: ask for a token, then show it."""
    tokens: list[bytes] = []
    inner = liar.core.receive

    def note(sender: Contact, message: object, now: float) -> object:
        if isinstance(message, FoundNodes):
            tokens.append(message.token)
        return inner(sender, message, now)

    liar.core.receive = note
    ask = FindNodes(query=1, keys=(KEY,), padding=bytes(900))
    liar.call(lambda core, now: [Send(host.contact, ask)])
    assert swarm.world.run_until_true(lambda: bool(tokens), timeout_s=5.0)
    liar.core.receive = inner
    store = StoreRecords(query=2, token=tokens[0], records=(record,))
    liar.call(lambda core, now: [Send(host.contact, store)])
    swarm.world.run_for(0.05)
