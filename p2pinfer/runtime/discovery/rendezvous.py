"""Members that the DHT knows: a swarm keeps where its members listen under its own key.

Rules:

1. Some members say there where they listen, so few that the peers near the key can hold them all, whatever
   the swarm's size; who says it is drawn anew each time.
2. What is found is a hint as everything here: `finder.py` passes over those that live, and SWIM believes only
   who answers.

What it can do and what not: the DHT's datagrams are the swarm's own, sealed with its keys, so nobody finds a
swarm by this who has no membership, and a first member has to be reached in another way. Whoever is reached
tells of all members that SWIM knows; this adds those that it has lost or forgotten, from the peers that keep
the records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from p2pinfer.addresses import is_numeric
from p2pinfer.errors import P2PInferError
from p2pinfer.ids import Contact, Endpoint, PeerId, SwarmId
from p2pinfer.runtime.discovery.api import Live, OnFound

__all__ = ["MEMBER_TTL_S", "Keeps", "Rendezvous", "find_members"]

NAMESPACE = "swarm"
MEMBER_TTL_S = 1800.0
"""How long a member's word of where it listens lives, seconds."""
SAYING_COUNT = 32
"""Members that say where they listen, on average, in a swarm that has more."""
LOOK_INTERVAL_S = 600.0
"""Between two looks."""
ALONE_INTERVAL_S = 30.0
"""... while no other member lives."""


class KeptValue(Protocol):
    """What is needed of a value that was found."""

    @property
    def owner(self) -> PeerId:
        """Whose it is."""
        ...

    @property
    def value(self) -> bytes:
        """What it says."""
        ...


class Keeps(Protocol):
    """What is needed of `runtime/dht.py`."""

    async def wait_for_others(self) -> None:
        """Wait until another peer of the DHT has answered."""
        ...

    async def get(self, key: tuple[str, bytes]) -> Sequence[KeptValue]:
        """Look for the values under a key."""
        ...

    async def put(self, key: tuple[str, bytes], value: bytes, *, ttl_s: float) -> int:
        """Keep a value under a key until `remove`."""
        ...

    async def remove(self, key: tuple[str, bytes]) -> None:
        """Keep it alive no longer."""
        ...


async def find_members(dht: Keeps, swarm: SwarmId) -> tuple[Contact, ...]:
    """Return where members of a swarm say that they listen.

    Raises:
        Overloaded: Too many calls to the DHT at a time.
    """
    found = []
    for each in await dht.get((NAMESPACE, swarm)):
        try:
            endpoint = Endpoint.parse(each.value.decode())
        except ValueError:  # a text that is no UTF-8 is one as well
            continue
        if endpoint.port:
            found.append(Contact(each.owner, endpoint))
    return tuple(found)


class Rendezvous:
    """Looks for members in the DHT, and says there where this one listens.

    Args:
        dht: The peer's.
        swarm: Whose members are looked for.
        own: Where this peer listens now.
        live: The other members that live.
        rng: Draws who says where it listens, and spreads the looks of many peers.
    """

    def __init__(
        self, dht: Keeps, swarm: SwarmId, own: Callable[[], Endpoint], *, live: Live, rng: random.Random
    ) -> None:
        self._dht = dht
        self._swarm = swarm
        self._own = own
        self._live = live
        self._rng = rng
        self._told: Endpoint | None = None

    async def run(self, found: OnFound) -> None:
        """Look for members until cancelled."""
        await self._dht.wait_for_others()
        while True:
            try:
                await self._maybe_tell()
                found(await find_members(self._dht, self._swarm))
            except P2PInferError:
                pass  # too much else is going on: the next look is as good
            wait_s = LOOK_INTERVAL_S if self._live() else ALONE_INTERVAL_S
            await trio.sleep(wait_s * self._rng.uniform(0.75, 1.25))

    async def _maybe_tell(self) -> None:
        """Say where this peer listens, or stop saying it, as the lot falls."""
        key, own = (NAMESPACE, bytes(self._swarm)), self._own()
        is_drawn = self._rng.random() * (len(self._live()) + 1) < SAYING_COUNT
        wanted = own if is_drawn and is_numeric(own) else None
        if wanted is not None and wanted != self._told:
            await self._dht.put(key, str(wanted).encode(), ttl_s=MEMBER_TTL_S)
        elif wanted is None and self._told is not None:
            await self._dht.remove(key)
        self._told = wanted
