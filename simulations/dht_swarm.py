"""A swarm of real DHT cores that joins through its own members, and those in it that lie.

1. Joins are real: a peer asks one that joined before it, looks itself up and fills its buckets.
   `form_tables` is quicker and no more than a guess at the same: k random peers of every bucket.
2. Signatures are stand-ins and nobody checks them: Ed25519 would take most of the time.
3. Nothing depends on the order of sets or on hash(): one seed, one run, in every process.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.testing import Host, World
from p2pinfer.testing.network import Path
from p2pinfer.wire.messages.dht import PAGES_COUNT_MAX, FindNodes, FoundNodes, Stored, StoreRecords
from simulations.swim_swarm import sign

__all__ = ["DhtSwarm", "Poisoner", "Ring", "place"]

_JOINED_S = 1.0
"""Nobody joins through a peer that started so short a time ago."""
_ENTRIES_COUNT = 3
"""Members that a peer knows when it joins."""
_TRIES_COUNT = 64
_ROUND_TRIP_S = 0.1
"""What peers of filled tables believe to have measured."""
_PAGE_CONTACTS_COUNT = 15
"""Contacts that fit one datagram."""


def place(peer: bytes) -> int:
    """Where an id or a key stands."""
    return int.from_bytes(peer, "big")


def _public_key(index: int) -> bytes:
    return hashlib.sha256(b"dht peer %d" % index).digest()


def _endpoint(index: int) -> Endpoint:
    return Endpoint(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 7946)


def _contact(index: int) -> Contact:
    return Contact(PeerId.from_public_key(_public_key(index)), _endpoint(index))


class Ring:
    """Contacts in the order of their ids, to find the nearest to a key without comparing all.

    Attributes:
        peers: Their ids.
    """

    def __init__(self, contacts: Iterable[Contact]) -> None:
        self._by_place = sorted((place(contact.peer or b""), contact) for contact in contacts)
        self._places = [at for at, _ in self._by_place]
        self.peers = frozenset(contact.peer for _, contact in self._by_place)

    def nearest(self, key: bytes, count: int) -> list[Contact]:
        """The `count` nearest, nearest first, exactly.

        Those that share a prefix with the key stand together and are nearer than all others: the smallest
        such run that has enough of them is sorted.
        """
        target = place(key)
        for free_bits in range(257):
            low = target >> free_bits << free_bits
            begin = bisect_left(self._places, low)
            end = bisect_left(self._places, low + (1 << free_bits))
            if end - begin >= count or end - begin == len(self._places):
                break
        near = heapq.nsmallest(count, self._by_place[begin:end], key=lambda each: each[0] ^ target)
        return [contact for _, contact in near]

    def in_bucket(self, own: bytes, prefix: int) -> list[Contact]:
        """All that share exactly `prefix` leading bits with `own`."""
        free_bits = 255 - prefix
        low = (place(own) >> free_bits ^ 1) << free_bits
        begin, end = (bisect_left(self._places, at) for at in (low, low + (1 << free_bits)))
        return [contact for _, contact in self._by_place[begin:end]]


class Poisoner:
    """A core that tells of its accomplices alone, and forgets what it promises to keep.

    S/Kademlia's adversary (Baumgart and Mies 2007, section 5): they know each other, answer every question
    with those of them that are nearest to the key, and are members like others in all else.

    Attributes:
        is_lying: Whether it does so yet.
    """

    def __init__(self, core: DhtCore, accomplices: Ring, contacts_count: int) -> None:
        self.is_lying = True
        self._core = core
        self._accomplices = accomplices
        self._contacts_count = contacts_count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Lie to whoever asks; be honest otherwise, so that the own table stays good."""
        if not self.is_lying:
            return self._core.receive(sender, message, now)
        if isinstance(message, FindNodes):
            return [*self._core.heard(sender, now), *self._lie(sender, message)]
        if isinstance(message, StoreRecords):
            return [Send(sender, Stored(message.query, ("stored",) * len(message.records)))]
        return self._core.receive(sender, message, now)

    def _lie(self, sender: Contact, message: FindNodes) -> list[Effect]:
        told = [each for key in message.keys for each in self._accomplices.nearest(key, self._contacts_count)]
        told = told[: _PAGE_CONTACTS_COUNT * PAGES_COUNT_MAX]
        pages = [told[at : at + _PAGE_CONTACTS_COUNT] for at in range(0, len(told), _PAGE_CONTACTS_COUNT)]
        return [
            Send(
                sender,
                FoundNodes(
                    query=message.query,
                    page=page,
                    page_count=len(pages),
                    token=bytes(8),
                    seen=sender.endpoint,
                    contacts=tuple(contacts),
                ),
            )
            for page, contacts in enumerate(pages)
        ]


class DhtSwarm:
    """Hosts of a world with a DHT core each.

    Attributes:
        hosts: Everybody that was added and not removed; adversaries too.
        accomplices: The adversaries among all that ever come.
        are_lying: Whether adversaries that start from now on lie at once.
        changes_count: How often somebody came or went.
        gone_at: When each of those went that did.
    """

    def __init__(self, world: World, config: DhtConfig, adversaries: Collection[int] = ()) -> None:
        self.world = world
        self.config = config
        self.hosts: list[Host] = []
        self._rng = world.rng("swarm")
        self._started_at: dict[str, float] = {}
        self.are_lying = True
        self.changes_count = 0
        self.gone_at: dict[PeerId | None, float] = {}
        self._made_count = 0
        self._adversaries = frozenset(adversaries)
        self.accomplices = Ring(_contact(index) for index in adversaries)
        self._paths: dict[str, Path] = {}
        # A path for each pair, as usual, is some hundred bytes: 5,000 hosts are 25 million pairs.
        world.network.path = self._path  # type: ignore[method-assign]

    @property
    def alive(self) -> list[Host]:
        """The honest that are up."""
        return [host for host in self.hosts if host.up and not isinstance(host.core, Poisoner)]

    def turn(self) -> None:
        """Let all adversaries lie from now on."""
        self.are_lying = True
        for host in self.hosts:
            if isinstance(host.core, Poisoner):
                host.core.is_lying = True

    def living(self) -> Ring:
        """All that are up, adversaries too, to be found by key."""
        return Ring(host.contact for host in self.hosts if host.up)

    def add(self) -> Host:
        """Start a peer that nobody knows yet."""
        index = self._made_count
        self._made_count += 1
        self.changes_count += 1
        host = self.world.add(f"p{index}", self._factory(index), _contact(index))
        self.hosts.append(host)
        self._started_at[host.name] = self.world.now
        return host

    def start_one(self) -> Host:
        """Start a peer and let it join through some that are up and have been for a moment.

        One of them is honest: whoever is led in by liars alone has never seen anything else.
        """
        entries = [self._choose_entry(is_honest=True)]
        entries += [self._choose_entry(is_honest=False) for _ in range(_ENTRIES_COUNT - 1)]
        host = self.add()
        nameless = [Contact(None, entry.contact.endpoint) for entry in entries if entry is not None]
        self._rng.shuffle(nameless)
        host.call(lambda core, at: core.bootstrap(nameless, at))
        return host

    def _choose_entry(self, *, is_honest: bool) -> Host | None:
        """A random peer to join through; None where there is nobody yet."""
        for _ in range(_TRIES_COUNT if self.hosts else 0):
            entry = self._rng.choice(self.hosts)
            has_joined = entry.up and self._started_at[entry.name] <= self.world.now - _JOINED_S
            if has_joined and not (is_honest and isinstance(entry.core, Poisoner)):
                return entry
        return self.hosts[0] if self.hosts else None

    def crash(self, host: Host) -> None:
        """End a peer without a word."""
        host.crash()
        self.changes_count += 1
        self.gone_at[host.contact.peer] = self.world.now

    def total(self, counter: str) -> int:
        """The sum of a counter over all."""
        return sum(int(host.core.statistics().get(counter, 0)) for host in self.hosts)

    def remove(self, host: Host) -> None:
        """End a peer without a word, for ever."""
        self.crash(host)
        self.hosts.remove(host)
        del self.world.hosts[host.name]
        del self.world.network.listeners[host.contact.endpoint]
        del self._started_at[host.name]
        self._paths.pop(host.name, None)

    def form_by_joins(self, count: int, joins_per_s: float) -> None:
        """Plan the start and the join of `count` peers, evenly from now on."""
        begun = self.world.now
        for index in range(count):
            self.world.at(begun + index / joins_per_s, self.start_one)

    def form_tables(self, count: int) -> None:
        """Start `count` peers at once, each of which knows up to k random ones of every bucket."""
        for _ in range(count):
            self.add()
        ring, k, now = Ring(host.contact for host in self.hosts), self.config.k, self.world.now
        for host in self.hosts:
            own, left = host.contact.peer or b"", count - 1
            for prefix in range(256):
                inside = ring.in_bucket(own, prefix)
                for contact in inside if len(inside) <= k else self._rng.sample(inside, k):
                    host.core._table.confirm(contact, _ROUND_TRIP_S, now)
                left -= len(inside)
                if not left:
                    break

    def _path(self, source: str, target: str) -> Path:
        """Each host has one to everybody."""
        path = self._paths.get(source)
        if path is None:
            path = self._paths[source] = Path(self.world.rng(f"path/{source}"))
        return path

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> DhtCore | Poisoner:
            core = DhtCore(
                public_key=_public_key(index),
                endpoint=_endpoint(index),
                config=self.config,
                rng=rng,
                sign=sign,
                now=now,
            )
            if index not in self._adversaries:
                return core
            liar = Poisoner(core, self.accomplices, self.config.answer.contacts_count)
            liar.is_lying = self.are_lying
            return liar

        return make
