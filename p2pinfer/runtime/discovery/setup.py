"""Which ways to find peers a node has, by its settings, wired once."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import trio

from p2pinfer.addresses import is_numeric
from p2pinfer.config import NodeConfig
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.discovery.api import Discovery, Live
from p2pinfer.runtime.discovery.bootstrap import Bootstrap
from p2pinfer.runtime.discovery.dns_names import DnsNames
from p2pinfer.runtime.discovery.finder import Finder
from p2pinfer.runtime.discovery.links import Links
from p2pinfer.runtime.discovery.multicast import Multicast
from p2pinfer.runtime.discovery.peer_cache import PeerCache
from p2pinfer.runtime.driver import Driver
from p2pinfer.runtime.home import Home
from p2pinfer.wire.envelope import ANNOUNCEMENT, Envelopes

__all__ = ["Search", "make_search"]

CACHE_FILE = "peers.json"
_PATIENCE = 1.2
"""Above 1: a ping ends with the period in which it began, or a little later on a busy machine."""


@dataclass(frozen=True, slots=True)
class Search:
    """A peer's search for others."""

    finder: Finder
    cache: PeerCache
    multicast: Multicast | None
    live: Live
    """The other members that live."""
    is_wide: bool
    """Whether peers may be found elsewhere than in the invite and the cache."""
    met: trio.Event = field(default_factory=trio.Event)
    """Set once this peer knows a member, whichever of the two found the other."""

    def seen(self, contact: Contact) -> None:
        """A member came."""
        self.cache.seen(contact)
        self.met.set()

    def move(self, own: Contact) -> None:
        """This peer is elsewhere from now on."""
        self.finder.move(own)
        if self.multicast is not None:
            self.multicast.move(own)

    def statistics(self) -> dict[str, int]:
        """Counters of the search: see `Finder` and `Multicast`."""
        heard = {} if self.multicast is None else self.multicast.statistics()
        return {**self.finder.statistics(), **{f"multicast {name}": count for name, count in heard.items()}}


def make_search(
    config: NodeConfig,
    home: Home,
    clock: Clock,
    driver: Driver[PeerCore],
    hosts: tuple[str, ...],
    probe_interval_s: float,
) -> Search:
    """Wire the ways that the settings ask for; nothing runs yet.

    Args:
        config: The node's settings.
        home: Who the peer is, its swarm, and the addresses of its invite.
        clock: The peer's.
        driver: Of the core that is given the hints.
        hosts: The numeric addresses that are listened on.
        probe_interval_s: How long SWIM waits for the answer to a ping, seconds.
    """
    core = driver.core
    rng = random.Random(os.urandom(32))

    def live() -> list[Contact]:
        return [each.contact for each in core.swim.alive() if each.owner != core.contact.peer]

    cache = PeerCache(home.directory / CACHE_FILE, home.swarm.id, live=live, now=clock.now)
    strategies: list[Discovery] = [cache]
    given = tuple(dict.fromkeys((*config.bootstrap, *home.addresses)))
    numbers = [each for each in given if is_numeric(each)]
    names = [each for each in given if not is_numeric(each)]
    if numbers:
        strategies.append(Bootstrap(numbers))
    if names:
        strategies.append(DnsNames(names, rng=rng))
    multicast = None
    if config.multicast:
        multicast = Multicast(
            Envelopes(home.identity, home.swarm, home.membership, Verifier(), prefix=ANNOUNCEMENT),
            own=core.contact,
            open_links=lambda: Links(hosts),
            live=live,
            now=clock.now,
            rng=rng,
        )
        strategies.append(multicast)
    finder = Finder(
        strategies,
        own=core.contact,
        live=live,
        ask=lambda contact: driver.offer(lambda core, now: core.hint([contact], now)),
        rng=rng,
        move_s=_PATIENCE * probe_interval_s,
    )
    return Search(finder, cache, multicast, live, is_wide=config.multicast or bool(config.bootstrap))
