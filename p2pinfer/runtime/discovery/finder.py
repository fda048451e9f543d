"""Runs the strategies and hands what they find to the core, a little at a time.

Rules:

1. Whoever is known to live is not asked, neither when found nor when its turn comes.
2. One contact is asked at a time, after a random wait: of many peers that hear one announcement the first few
   ask, and the others have heard of the newcomer by gossip before their turn.
3. The same contact is asked again after a while at the earliest, a peer that is said to be elsewhere a little
   sooner, and only so many wait: what comes from outside costs a few datagrams a second, whatever it is.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import trio

from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime.discovery.api import Discovery, Live

__all__ = ["Finder"]

WAIT_S_MAX = 0.5
"""The longest wait before a contact is asked: two or three rounds of gossip."""
REPEAT_S = 10.0
"""The shortest time between two questions to the same contact."""
WAITING_COUNT_MAX = 64
ASKED_COUNT_MAX = 256
"""Peers and addresses remembered as asked."""

_Key = PeerId | Endpoint
"""Who, or where nobody knows who, the address."""


class Finder:
    """What a peer's strategies find.

    Args:
        strategies: The ways to look, all at once.
        own: This peer.
        live: The other members that live.
        ask: Gives one contact to the core as a hint; must not wait.
        rng: Draws the waits.
        move_s: The shortest time between questions to one peer at different addresses, seconds: while the
            core waits for an answer from the first, it takes no other. It also bounds what a lying member can
            have sent to addresses that it makes up.
    """

    def __init__(
        self,
        strategies: Sequence[Discovery],
        *,
        own: Contact,
        live: Live,
        ask: Callable[[Contact], object],
        rng: random.Random,
        move_s: float = 1.0,
    ) -> None:
        self._strategies = tuple(strategies)
        self._own = own
        self._live = live
        self._ask = ask
        self._rng = rng
        self._move_s = move_s
        self._waiting: OrderedDict[_Key, Contact] = OrderedDict()
        self._asked: OrderedDict[_Key, tuple[float, Endpoint]] = OrderedDict()
        self._came = trio.Event()
        self._counts: Counter[str] = Counter()

    def move(self, own: Contact) -> None:
        """This peer is elsewhere from now on."""
        self._own = own

    async def run(self) -> None:
        """Look for peers until cancelled."""
        async with trio.open_nursery() as nursery:
            for strategy in self._strategies:
                nursery.start_soon(strategy.run, self.found)
            nursery.start_soon(self._ask_all)

    def found(self, contacts: Sequence[Contact]) -> None:
        """Take contacts that may be members."""
        for contact in self._strangers(contacts):
            key = contact.peer or contact.endpoint
            if key not in self._waiting and len(self._waiting) >= WAITING_COUNT_MAX:
                self._counts["dropped"] += 1
                continue
            self._waiting[key] = contact
            self._came.set()

    def statistics(self) -> dict[str, int]:
        """Counters since the start: contacts asked, and dropped because too many waited; a copy."""
        return dict(self._counts)

    async def _ask_all(self) -> None:
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while self._waiting:
                await trio.sleep(self._rng.uniform(0, WAIT_S_MAX))
                key, contact = self._waiting.popitem(last=False)
                if not self._strangers([contact]) or self._was_asked(key, contact.endpoint):
                    continue
                if self._is_busy(key):
                    self._waiting[key] = contact  # its turn comes again
                    continue
                self._remember(key, contact.endpoint)
                self._ask(contact)

    def _strangers(self, contacts: Sequence[Contact]) -> list[Contact]:
        """Those that are neither this peer nor known to live."""
        live = self._live()
        peers = {self._own.peer, *(each.peer for each in live)}
        endpoints = {self._own.endpoint, *(each.endpoint for each in live)}
        return [
            each
            for each in contacts
            if each.endpoint != self._own.endpoint
            and (each.endpoint not in endpoints if each.peer is None else each.peer not in peers)
        ]

    def _was_asked(self, key: _Key, endpoint: Endpoint) -> bool:
        """Whether that very address was asked a short while ago."""
        asked_at, asked = self._asked.get(key, (-math.inf, None))
        return asked == endpoint and trio.current_time() - asked_at < REPEAT_S

    def _is_busy(self, key: _Key) -> bool:
        """Whether an answer from another address of the same peer may still come."""
        asked_at, _ = self._asked.get(key, (-math.inf, None))
        return trio.current_time() - asked_at < self._move_s

    def _remember(self, key: _Key, endpoint: Endpoint) -> None:
        self._counts["asked"] += 1
        self._asked[key] = (trio.current_time(), endpoint)
        self._asked.move_to_end(key)
        if len(self._asked) > ASKED_COUNT_MAX:
            self._asked.popitem(last=False)
