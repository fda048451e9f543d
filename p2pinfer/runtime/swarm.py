"""What happens in the swarm, for applications: who comes and goes, and what members say of themselves.

async for news in peer.swarm.news():
    if isinstance(news, MemberDead): ...
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, get_args

import trio

from p2pinfer.errors import PeerUnreachable
from p2pinfer.ids import PeerId
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.driver import Driver
from p2pinfer.runtime.status import describe_holding
from p2pinfer.swim.member import MemberView
from p2pinfer.swim.news import (
    DatagramsLost,
    IdentityConflict,
    Joined,
    MemberDead,
    MemberJoined,
    MemberLeft,
    MetadataFailed,
    MetadataRead,
    News,
    RoundTrip,
)

__all__ = ["Swarm"]

_log = logging.getLogger(__name__)

_NEWS_COUNT_MAX = 1024
"""News that wait for a listener; the slowest misses what comes beyond that, and it is said in the log."""
_LOST_COUNT = 3
"""Probes in a row that were answered over a stream alone before the log says so."""
_NEWS_TYPES = get_args(News)


class Swarm:
    """The swarm as one peer sees it."""

    def __init__(self, driver: Driver[PeerCore], core: PeerCore) -> None:
        self._driver = driver
        self._core = core
        self._listeners: set[trio.MemorySendChannel[News]] = set()
        self._readers: dict[PeerId, list[trio.MemorySendChannel[MetadataRead | MetadataFailed]]] = {}
        self._unheard: Counter[PeerId] = Counter()

    def members(self) -> tuple[MemberView, ...]:
        """Everybody remembered, this peer included: its record and whether it lives, left or died."""
        return self._core.swim.members()

    async def news(self) -> AsyncGenerator[News, None]:
        """Give what happens from the first iteration on; see `swim/news.py`."""
        sender, receiver = trio.open_memory_channel[News](_NEWS_COUNT_MAX)
        self._listeners.add(sender)
        try:
            async for item in receiver:
                yield item
        finally:
            self._listeners.discard(sender)

    async def set_metadata(self, data: bytes) -> None:
        """Say more of this peer than its record holds, at most 64 KiB, to whoever asks.

        Raises:
            LocalProtocolError: It is too large.
        """
        await self._driver.call(lambda core, now: (None, core.set_metadata(data, now)))

    async def metadata(self, peer: PeerId) -> bytes:
        """Return what a member says of itself beyond its record; nothing where it says nothing.

        Raises:
            PeerUnreachable: It is no live member, does not answer, or its answer is not what it signed.
            Overloaded: Too many such questions are open.
        """
        sender, receiver = trio.open_memory_channel[MetadataRead | MetadataFailed](1)
        readers = self._readers.setdefault(peer, [])
        readers.append(sender)
        try:
            await self._driver.call(lambda core, now: (None, core.read_metadata(peer, now)))
            answer = await receiver.receive()
        finally:
            readers.remove(sender)
            if not readers and self._readers.get(peer) is readers:
                del self._readers[peer]
        if isinstance(answer, MetadataFailed):
            raise PeerUnreachable(f"the metadata of {peer.short} cannot be read: {answer.reason}")
        return answer.data

    def heard(self, item: object) -> None:
        """Take what the core notifies; from the driver's loop, so it never waits."""
        if not isinstance(item, _NEWS_TYPES):
            return
        self._log(item)
        if isinstance(item, MetadataRead | MetadataFailed):
            for reader in self._readers.get(item.peer, ()):
                _offer(reader, item)
        for listener in self._listeners:
            if not _offer(listener, item):
                _log.warning("a listener for news of the swarm is too slow: %s is lost to it", item)

    def _log(self, item: object) -> None:
        match item:
            case Joined(member_count=count):
                _log.info("joined the swarm: %d members", count)
            case MemberJoined(record=record):
                what = describe_holding(record.holding)
                _log.info("peer %s came: %s %s", record.owner.short, record.endpoint, what)
            case MemberDead(peer=peer):
                _log.info("peer %s is dead", peer.short)
            case MemberLeft(peer=peer):
                _log.info("peer %s left", peer.short)
            case RoundTrip(peer=peer):
                self._unheard.pop(peer, None)
            case DatagramsLost(peer=peer):
                self._note_lost_datagrams(peer)
            case IdentityConflict(endpoint=endpoint):
                _log.warning(
                    "another process uses this peer's key at %s: give each its own --data-dir", endpoint
                )

    def _note_lost_datagrams(self, peer: PeerId) -> None:
        """Say once when it happens again and again: some datagrams are lost in every network."""
        if peer not in self._unheard and len(self._unheard) >= _NEWS_COUNT_MAX:
            return
        self._unheard[peer] += 1
        if self._unheard[peer] == _LOST_COUNT:
            _log.warning(
                "peer %s answers over TCP but never over UDP: let UDP pass the firewalls between here and it",
                peer.short,
            )


def _offer(channel: trio.MemorySendChannel[Any], item: object) -> bool:
    try:
        channel.send_nowait(item)
    except (trio.WouldBlock, trio.BrokenResourceError):
        return False
    return True
