"""Carries a peer's effects out and its inputs in: between the driver and the two planes, disk and engine."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from p2pinfer.dht.news import AddressSeen
from p2pinfer.effects import (
    Deliver,
    EngineEffect,
    Message,
    Misbehaved,
    Notify,
    Persist,
    Plane,
)
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.datagrams import Datagrams
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.driver import Driver
from p2pinfer.runtime.streams import Streams
from p2pinfer.runtime.worker import Worker
from p2pinfer.swim.keyring import KeyringChanged
from p2pinfer.work import EngineOutput

__all__ = ["Inputs", "Planes"]

_log = logging.getLogger(__name__)


def _ignore(what: object) -> None:
    """Nobody listens yet."""


class Planes:
    """Performs the effects of a `PeerCore`; see `driver.Performer`.

    Attributes:
        worker: The engine's; None until a span is loaded.
        on_effect: Told what the core delivers, notifies and reports.
        on_address_seen: Told where others see this peer, if that is not where it says.
    """

    def __init__(
        self,
        datagrams: Datagrams,
        streams: Streams,
        disk: Disk,
    ) -> None:
        self._datagrams = datagrams
        self._streams = streams
        self._disk = disk
        self._counts: Counter[str] = Counter()
        self._asked: list[EngineEffect] = []
        self.worker: Worker | None = None
        self.on_effect: Callable[[Deliver | Notify | Misbehaved], None] = _ignore
        self.on_address_seen: Callable[[Endpoint], None] = _ignore

    def send(self, to: Contact, message: Message) -> None:
        """Hand a message to its plane; what there is no room for is dropped and counted there."""
        if message.PLANE is Plane.STREAM:
            self._streams.send_nowait(to, message, hold=True)
            return
        try:
            self._datagrams.send_nowait(to, message)
        except LocalProtocolError:
            self._counts["too large"] += 1
            _log.exception("a %s was not sent", type(message).__name__)

    def flush(self) -> None:
        """Write what was held back, then wake the engine.

        In this order, because the engine's thread needs the interpreter to prepare a batch: outputs that wait
        for it would leave that much later, and the next hop would stand still.
        """
        self._streams.flush()
        asked, self._asked = self._asked, []
        if self.worker is not None:
            for effect in asked:
                self.worker.submit(effect)

    async def persist(self, writes: Sequence[Persist]) -> None:
        """Make the writes durable."""
        await self._disk.write(writes)

    def disconnect(self, peer: PeerId) -> None:
        """Close the stream to a peer."""
        self._streams.disconnect(peer)

    def compute(self, effect: EngineEffect) -> None:
        """Keep an effect for the engine's thread, until what was sent before it is on its way."""
        self._asked.append(effect)

    def handle(self, effect: Deliver | Notify | Misbehaved) -> None:
        """Tell the application; a new keyring is in use before anything else is sent."""
        if isinstance(effect, Misbehaved):
            self._counts["misbehaved"] += 1
            _log.warning("peer %s misbehaves: %s", effect.peer.short, effect.reason)
        if isinstance(effect, Notify) and isinstance(effect.news, KeyringChanged):
            keyring = effect.news.keyring
            self._datagrams.use_keyring(keyring)
            count, name = len(keyring.keys), keyring.notice.primary.hex()
            _log.info("keyring version %d: %d keys, sealing with %s", keyring.version, count, name)
        if isinstance(effect, Notify) and isinstance(effect.news, AddressSeen):
            self.on_address_seen(effect.news.endpoint)
        self.on_effect(effect)

    def statistics(self) -> dict[str, int]:
        """Counters since the start; a copy."""
        return dict(self._counts)


class Inputs:
    """Gives the driver what the planes and the engine have for the core."""

    def __init__(self, driver: Driver[PeerCore]) -> None:
        self._driver = driver

    def on_datagram(self, sender: Contact, message: Message) -> bool:
        """Take a datagram's message, or drop it where the core cannot keep up."""
        return self._driver.offer(lambda core, now: core.receive(sender, message, now))

    def on_unopened(self, sender: Contact) -> None:
        """A member's datagram did not open. May be lost: it comes with the next one again."""
        self._driver.offer(lambda core, now: core.unopened(sender, now))

    def on_messages(self, sender: Contact, messages: Sequence[Message]) -> Awaitable[None]:
        """Take what came together on a stream; the wait for room is what slows the sender down."""
        return self._driver.submit(lambda core, now: core.receive_all(sender, messages, now))

    def on_disconnect(self, contact: Contact) -> None:
        """A stream ended or could not be opened."""
        self._driver.put(lambda core, now: core.disconnected(contact, now))

    def on_computed(self, outputs: tuple[EngineOutput, ...]) -> None:
        """The engine finished a batch."""
        self._driver.put(lambda core, now: core.computed(outputs, now))
