"""A network of this package's DHT nodes in this process, for `benchmarks.dht`.

python -m benchmarks.dht_nodes NODES     says when it stands, then does the rounds of its standard input

Each node is a `DhtCore` behind what runs it in a peer: the driver, the datagram plane on a socket of its own,
and envelopes as in a swarm with invites: signed, sealed and with two certificates. What is left out is the
rest of a peer: membership, streams, disk and engine.
"""

from __future__ import annotations

import random
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio

from benchmarks.dht_work import do_rounds
from p2pinfer.dht.config import DhtConfig, TableConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.dht.put import Put
from p2pinfer.effects import Deliver, EngineEffect, Message, Misbehaved, Notify, Persist
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.membership import Invite
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.datagrams import Datagrams
from p2pinfer.runtime.driver import Driver
from p2pinfer.runtime.sockets import open_sockets
from p2pinfer.swim.rotation import first_keyring
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.messages.keyring import KEY_SIZE_BYTES, Keyring

__all__ = ["OwnNode", "Swarm"]

LOOPBACK = Endpoint("127.0.0.1", 0)
CONFIG = replace(DhtConfig.lan(), table=TableConfig(refresh_first_s=TableConfig().refresh_interval_s))
"""Nobody refreshes its table while others are measured: all do so once before, as the stock servers do."""
VALID_S = 86_400.0
"""How long memberships and records last: longer than any measurement."""
SETTLED_S = 60.0
"""At most so long for every node to know its neighbours."""
LOOK_S = 0.2
JOIN_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Swarm:
    """What all nodes share: the invite they came by, and the keys that seal."""

    invite: Invite
    keyring: Keyring

    @classmethod
    def found(cls) -> Swarm:
        owner = Identity.generate()
        keyring = first_keyring(owner.public_key, secrets.token_bytes(KEY_SIZE_BYTES), owner.sign_statement)
        return cls(Invite.create(owner, [Endpoint("127.0.0.1", 7946)], VALID_S, time.time()), keyring)


class OwnNode:
    """A DHT node without the rest of a peer. It is also what performs its core's effects."""

    def __init__(self, swarm: Swarm, seed: int) -> None:
        verifier, clock = Verifier(), Clock()
        self.identity = identity = Identity.generate()
        sockets = open_sockets(LOOPBACK)
        for listener in sockets.listeners:
            listener.close()
        membership = swarm.invite.admit(identity, clock.now(), VALID_S)
        envelopes = Envelopes(identity, swarm.invite.swarm, membership, verifier)
        envelopes.use_keyring(swarm.keyring)
        self.core = DhtCore(
            public_key=identity.public_key,
            endpoint=sockets.endpoint,
            config=CONFIG,
            rng=random.Random(seed),
            sign=identity.sign_statement,
            now=clock.now(),
        )
        self._datagrams = Datagrams(sockets.datagrams, envelopes, clock, self._on_datagram)
        self._driver = Driver(self.core, clock=clock, performer=self)
        self._done: dict[LookupId, LookupDone] = {}
        self._waiting: dict[LookupId, trio.Event] = {}

    @property
    def contact(self) -> Contact:
        return self.core.contact

    @property
    def is_settled(self) -> bool:
        """Whether it has joined and looks nobody up."""
        figures = self.core.statistics()
        return bool(figures["is_joined"]) and not figures["lookups_running"]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._datagrams.run)
            nursery.start_soon(self._driver.run)
            task_status.started()

    async def join(self, contacts: Sequence[Contact]) -> None:
        """Join, and look around until that is done."""
        await self._driver.call(lambda core, now: (None, core.bootstrap(contacts, now)))
        while not self.is_settled:
            await trio.sleep(JOIN_LOOK_S)

    async def look_around(self) -> None:
        """Look for its own neighbours."""
        await self._end_of(
            await self._driver.call(lambda core, now: core.find_nodes(self.identity.peer_id, now))
        )

    async def put(self, key: bytes, value: bytes) -> bool:
        lookup = await self._driver.call(
            lambda core, now: core.put(Put(key=key, value=value, ttl_s=VALID_S), now)
        )
        return (await self._end_of(lookup)).stored_at > 0

    async def get(self, key: bytes, holders: int) -> bytes | None:
        lookup = await self._driver.call(lambda core, now: core.get([key], now, quorum=holders))
        values = (await self._end_of(lookup)).values
        return values[0].value if values else None

    async def _end_of(self, lookup: LookupId) -> LookupDone:
        if lookup not in self._done:
            event = self._waiting[lookup] = trio.Event()
            await event.wait()
            del self._waiting[lookup]
        return self._done.pop(lookup)

    def _on_datagram(self, sender: Contact, message: Message) -> bool:
        return self._driver.offer(lambda core, now: core.receive(sender, message, now))

    # What `driver.Performer` asks for.

    def send(self, to: Contact, message: Message) -> None:
        self._datagrams.send_nowait(to, message)

    def flush(self) -> None:
        """Nothing is held back."""

    async def persist(self, writes: Sequence[Persist]) -> None:
        """Forget it: this node is never started again."""

    def disconnect(self, peer: PeerId) -> None:
        """There are no streams."""

    def compute(self, effect: EngineEffect) -> None:
        """There is no engine."""

    def handle(self, effect: Deliver | Notify | Misbehaved) -> None:
        if isinstance(effect, Deliver) and isinstance(effect.item, LookupDone):
            self._done[effect.item.id] = effect.item
            if effect.item.id in self._waiting:
                self._waiting[effect.item.id].set()


async def settle(nodes: Sequence[OwnNode]) -> float:
    """Wait until nobody looks anybody up and all contacts are checked; return how many each has."""
    known = -1
    with trio.move_on_after(SETTLED_S):
        while True:
            await trio.sleep(LOOK_S)
            now_known: int = sum(node.core.statistics()["contacts_good"] for node in nodes)
            if now_known == known and all(node.is_settled for node in nodes[1:]):
                break
            known = now_known
    return known / len(nodes)


async def main(node_count: int) -> None:
    swarm = Swarm.found()
    nodes = [OwnNode(swarm, index) for index in range(node_count)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for node in nodes[1:]:
            await node.join([nodes[0].contact])
        for node in nodes:  # once more, now that all are there
            await node.look_around()
        contacts = await settle(nodes)

        async def read_line() -> str:
            return await trio.to_thread.run_sync(sys.stdin.readline)

        await do_rounds(nodes, read_line, {"contacts": round(contacts, 1)})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
