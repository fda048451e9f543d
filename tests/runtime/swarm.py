"""Peers of one small swarm for the runtime's tests: real sockets on the loopback, fixed keys."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import trio

from p2pinfer.effects import Message
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Contact, Endpoint, PeerId, SwarmId
from p2pinfer.membership import SwarmPolicy, issue_certificate
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.handshake import Credentials
from p2pinfer.runtime.sockets import Sockets, open_sockets
from p2pinfer.runtime.streams import Streams, StreamsConfig, StreamsEvents
from p2pinfer.wire.messages.membership import Membership

T = TypeVar("T")

OWNER = Identity.from_seed(hashlib.sha256(b"owner").digest())
SWARM = SwarmPolicy(SwarmId(OWNER.public_key))
VALID_S = 3600.0
LOOPBACK = Endpoint("127.0.0.1", 0)


def identity_of(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


def credentials_of(name: str, *, age_s: float = 0.0, swarm: SwarmPolicy = SWARM) -> Credentials:
    """A member's credentials; with an age above an hour they have run out."""
    identity = identity_of(name)
    began = Clock().now() - age_s
    certificate = issue_certificate(
        OWNER, SWARM.id, identity.public_key, not_before=began - 60.0, not_after=began + VALID_S
    )
    return Credentials(identity, swarm, Membership(swarm=swarm.id, chain=(certificate,)), Verifier())


class Peer:
    """One end of the stream plane that records what it is told."""

    def __init__(
        self,
        name: str,
        *,
        credentials: Credentials | None = None,
        config: StreamsConfig | None = None,
        is_echoing: bool = False,
        advertised: Endpoint | None = None,
    ) -> None:
        self.credentials = credentials or credentials_of(name)
        self.sockets: Sockets = open_sockets(LOOPBACK)
        self.is_echoing = is_echoing
        self.messages: list[Message] = []
        self.connects: list[PeerId | None] = []
        self.disconnects: list[Contact] = []
        self.refusals: list[str] = []
        self._changed = trio.Event()
        events = StreamsEvents(
            on_messages=self._on_messages,
            on_connect=lambda contact: self._note(self.connects, contact.peer),
            on_disconnect=lambda contact: self._note(self.disconnects, contact),
            on_refused=lambda reason: self._note(self.refusals, reason),
        )
        self.streams = Streams(
            self.credentials,
            advertised or self.sockets.endpoint,
            clock=Clock(),
            events=events,
            config=config or StreamsConfig.for_tests(),
        )
        self.events = events

    @property
    def id(self) -> PeerId:
        return self.credentials.identity.peer_id

    @property
    def contact(self) -> Contact:
        return Contact(self.id, self.sockets.endpoint)

    @property
    def nameless(self) -> Contact:
        return replace(self.contact, peer=None)

    def count(self, name: str) -> int:
        return self.streams.statistics().get(name, 0)

    async def wait_messages(self, count: int) -> list[Message]:
        return await self._wait(self.messages, count)

    async def wait_connects(self, count: int) -> list[PeerId | None]:
        return await self._wait(self.connects, count)

    async def wait_disconnects(self, count: int) -> list[Contact]:
        return await self._wait(self.disconnects, count)

    async def wait_refused(self, reason: str) -> None:
        with trio.fail_after(5):
            while reason not in self.refusals:
                self._changed = trio.Event()
                await self._changed.wait()

    async def _wait(self, items: list[T], count: int) -> list[T]:
        with trio.fail_after(5):
            while len(items) < count:
                self._changed = trio.Event()
                await self._changed.wait()
        return items

    async def _on_messages(self, contact: Contact, messages: Sequence[Message]) -> None:
        for message in messages:
            self._note(self.messages, message)
            if self.is_echoing:
                self.streams.send_nowait(contact, message)

    def _note(self, items: list[T], item: T) -> None:
        items.append(item)
        self._changed.set()


async def let_mock_time_pass(duration_s: float) -> None:
    """For tests with `autojump_clock`, where it takes no real time."""
    with trio.move_on_after(duration_s):
        await trio.sleep_forever()


@asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    """Run the peers' streams for as long as the block lasts."""
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    await nursery.start(peer.streams.run, peer.sockets.listeners)
                yield
                nursery.cancel_scope.cancel()
    finally:
        for peer in peers:
            peer.sockets.close()
