"""Swarms of DHT cores for the simulated tests."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import LookupDone
from p2pinfer.dht.put import Put
from p2pinfer.ids import Contact
from p2pinfer.testing import Host, World
from tests.dht.peers import contact, make_core, nearest_by_force


class DhtSwarm:
    """Hosts that join through the first one, and what may be asked of them."""

    def __init__(self, world: World, count: int, *, spread_s: float = 2.0) -> None:
        self.world = world
        self.rng = world.rng("swarm")
        self.hosts = [self._add(index) for index in range(count)]
        entry = Contact(None, self.hosts[0].contact.endpoint)
        for index, host in enumerate(self.hosts[1:]):
            world.at(world.now + spread_s * index / count, functools.partial(self._join, host, entry))

    @property
    def alive(self) -> list[Host]:
        return [host for host in self.hosts if host.up]

    def get(self, host: Host, key: bytes, *, quorum: int | None = None) -> LookupDone:
        return self.get_many(host, [key], quorum=quorum)

    def get_many(self, host: Host, keys: Sequence[bytes], *, quorum: int | None = None) -> LookupDone:
        return self._wait(host, host.call(lambda core, now: core.get(keys, now, quorum=quorum)).value)

    def find_nodes(self, host: Host, key: bytes) -> LookupDone:
        return self._wait(host, host.call(lambda core, now: core.find_nodes(key, now)).value)

    def put(
        self,
        host: Host,
        key: bytes,
        value: bytes,
        **options: Any,
    ) -> LookupDone:
        wanted = Put(key=key, value=value, **options)
        return self._wait(host, host.call(lambda core, now: core.put(wanted, now)).value)

    def recall(self, host: Host, key: bytes, k: int = 20) -> float:
        """The share of the truly nearest living peers that a lookup finds."""
        others = [other.contact.peer for other in self.alive if other is not host and other.contact.peer]
        true = nearest_by_force(key, others, k)
        found = {each.peer for each in self.find_nodes(host, key).nearest}
        return sum(peer in found for peer in true) / len(true)

    def mean_recall(self, lookups: int) -> float:
        keys = [self.rng.randbytes(32) for _ in range(lookups)]
        return sum(self.recall(self.rng.choice(self.alive), key) for key in keys) / lookups

    def holders_count(self, key: bytes) -> int:
        """Living peers that keep something under a key."""
        return sum(bool(host.core._store.get(key, host.now)) for host in self.alive)

    def total(self, counter: str) -> int:
        return sum(int(host.core.statistics().get(counter, 0)) for host in self.alive)

    def _add(self, index: int) -> Host:
        def factory(disk: Mapping[str, bytes], rng: random.Random, now: float) -> DhtCore:
            return make_core(index, seed=rng.getrandbits(32), now=now)

        return self.world.add(f"n{index}", factory, contact(index))

    def _join(self, host: Host, entry: Contact) -> None:
        host.call(lambda core, now: core.bootstrap([entry], now))

    def _wait(self, host: Host, lookup_id: int) -> LookupDone:
        def ended() -> list[LookupDone]:
            items = reversed(host.delivered)
            return [item for item in items if isinstance(item, LookupDone) and item.id == lookup_id]

        assert self.world.run_until_true(lambda: bool(ended()), timeout_s=30.0), f"seed {self.world.seed}"
        return ended()[0]
