"""Announces this peer on the local network, and hears those who do the same.

Rules:

1. An announcement is an envelope of the swarm with a prefix of its own: whoever is no member is ignored, and
   nothing that was said elsewhere counts here. It is signed and not sealed.
2. It is never answered here: who is new is asked by the core, for which `Finder` sets the pace.
3. The whole swarm together announces itself about twice a second at most, a lonely peer every few seconds.
   What claims to be an announcement is looked at so often a second and no oftener.
4. Links come and go: when the machine has others than before, all sockets are opened anew.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import trio

from p2pinfer.errors import DecodeError, RemoteProtocolError, ReplayError, VersionMismatch, WrongSwarm
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.discovery.api import Live, OnFound
from p2pinfer.runtime.discovery.links import Links
from p2pinfer.runtime.sockets import split_address
from p2pinfer.wire.envelope import DATAGRAM_SIZE_BYTES_MAX, Envelopes
from p2pinfer.wire.messages.discovery import Announcement

__all__ = ["Multicast"]

_log = logging.getLogger(__name__)

FIRST_INTERVALS_S = (1.0, 2.0)
"""After the first announcement: a network that has just come up loses some."""
ALONE_INTERVAL_S = 5.0
"""While no other member lives."""
INTERVAL_S = 30.0
SHARE_S = 0.5
"""Added to the interval for each member, where that makes more of it: two announcements a second for all."""
LOOK_INTERVAL_S = 10.0
"""Between two looks at the machine's links."""
JUDGED_COUNT_MAX = 50
"""Signatures checked in a second, at about 0.1 ms each: half a percent of a core."""
_TURN_COUNT_MAX = 16
"""Datagrams taken before other tasks get a turn."""
_HINT = slice(4, 8)
"""Where an envelope has the first bytes of its swarm's id, as people see it: `SwarmId.short`."""


class Multicast:
    """Announcements in and out.

    Args:
        envelopes: With the prefix of announcements, and never given a keyring.
        own: This peer, as others reach it.
        open_links: Makes the sockets, again and again.
        live: The other members that live.
        now: Seconds since the Unix epoch.
        rng: Spreads the announcements of peers that were started at once.
    """

    def __init__(
        self,
        envelopes: Envelopes,
        *,
        own: Contact,
        open_links: Callable[[], Links],
        live: Live,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._envelopes = envelopes
        self._own = own
        self._open_links = open_links
        self._live = live
        self._now = now
        self._rng = rng
        self._counts: Counter[str] = Counter()
        self._first_intervals_s = list(FIRST_INTERVALS_S)
        self._announce_at = 0.0
        self._judged_in = (0, 0)
        self._has_named_stranger = False
        self._is_heard: bool | None = None

    def move(self, own: Contact) -> None:
        """This peer is elsewhere from now on."""
        self._own = own

    async def run(self, found: OnFound) -> None:
        """Announce and listen until cancelled."""
        while True:
            with closing(self._open_links()) as links:
                async with trio.open_nursery() as nursery:
                    for receiver in links.receivers:
                        nursery.start_soon(self._listen, receiver, found)
                    await self._announce_on(links)
                    nursery.cancel_scope.cancel()

    def statistics(self) -> dict[str, int]:
        """Counters since the start: announcements sent, received, and what was dropped by reason; a copy."""
        return dict(self._counts)

    async def _announce_on(self, links: Links) -> None:
        """Announce until the machine has other links, or these turn out to be dead."""
        while True:
            if trio.current_time() >= self._announce_at:
                self._note_whether_heard(links.send(self._sealed()))
                self._announce_at = trio.current_time() + self._interval_s()
            wait_s = self._announce_at - trio.current_time()
            await trio.sleep(max(0.0, min(LOOK_INTERVAL_S, wait_s)))
            if not links.are_current or not links.receivers:
                return
            links.join()

    def _sealed(self) -> bytes:
        return self._envelopes.seal(Announcement(endpoint=self._own.endpoint), self._now())

    def _interval_s(self) -> float:
        if self._first_intervals_s:
            interval_s = self._first_intervals_s.pop(0)
        else:
            member_count = len(self._live()) + 1
            interval_s = ALONE_INTERVAL_S if member_count == 1 else max(INTERVAL_S, SHARE_S * member_count)
        return interval_s * self._rng.uniform(0.75, 1.25)

    def _note_whether_heard(self, link_count: int) -> None:
        self._counts["sent" if link_count else "not sent"] += 1
        if bool(link_count) is not self._is_heard:
            self._is_heard = bool(link_count)
            if not link_count:
                _log.info("this machine has no multicast now: peers are found by their addresses alone")

    async def _listen(self, receiver: socket.socket, found: OnFound) -> None:
        while True:
            await trio.lowlevel.wait_readable(receiver)
            for _ in range(_TURN_COUNT_MAX):
                try:
                    data, address = receiver.recvfrom(DATAGRAM_SIZE_BYTES_MAX + 1)
                except BlockingIOError:
                    break
                except OSError:  # of a link that has gone; the socket is still good
                    self._counts["dropped: link"] += 1
                    break
                self.take(data, split_address(address), found)
            await trio.lowlevel.checkpoint()

    def take(self, data: bytes, source: Endpoint, found: OnFound) -> None:
        """Take what came in from the group, whatever it is."""
        self._counts["received"] += 1
        if not self._may_judge():
            self._counts["dropped: too many"] += 1
            return
        try:
            opened = self._envelopes.open(data, self._now())
        except WrongSwarm:
            self._counts["dropped: WrongSwarm"] += 1
            self._name_stranger(data, source)
            return
        except RemoteProtocolError as error:
            self._counts[f"dropped: {type(error).__name__}"] += 1
            if not isinstance(error, DecodeError | VersionMismatch | ReplayError):  # those cost nothing
                self._count_judged()
            return
        self._count_judged()
        message = opened.message
        if not isinstance(message, Announcement):
            self._counts["dropped: no announcement"] += 1
        elif opened.sender == self._own.peer:
            self._counts["own"] += 1
        elif not message.endpoint.port or (_is_here(message.endpoint.host) and not _is_here(source.host)):
            self._counts["dropped: no address"] += 1
        else:
            found([Contact(opened.sender, message.endpoint)])

    def _may_judge(self) -> bool:
        second, count = self._judged_in
        return second != int(trio.current_time()) or count < JUDGED_COUNT_MAX

    def _count_judged(self) -> None:
        second, count = self._judged_in
        now = int(trio.current_time())
        self._judged_in = (now, count + 1 if second == now else 1)

    def _name_stranger(self, data: bytes, source: Endpoint) -> None:
        """Say once that there is another swarm: whoever wanted to join that one forgot the invite."""
        if self._has_named_stranger:
            return
        self._has_named_stranger = True
        _log.info(
            "swarm %s announces itself from %s, and this node is no member: to join, start with --join, an "
            "invite (p2pinfer invite prints one where the swarm was founded) and a new --data-dir",
            data[_HINT].hex(),
            source.host,
        )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
