"""Keeping small things with other peers, and finding them, for applications: `peer.dht`.

await peer.dht.put("greeting", b"hello", ttl_s=3600)
for found in await peer.dht.get("greeting"):
    print(found.owner, found.value)

await peer.dht.provide("weather")
providers = await peer.dht.find_providers("weather")

Rules:

1. A key is 32 bytes, or a name, which stands in the namespace `value`, or a namespace with a name. Everybody
   may keep something under a key: what is found names its owner, and whom to believe is the reader's choice.
   Only its owner can write under `("own", public_key + subkey)`, with that sub-key, and only the value itself
   stands under `("content", value)`.
2. What was put is kept alive for as long as this peer runs, until it is removed; a peer that is killed leaves
   it for the rest of its lifetime.
3. So many lookups run at a time and so many more wait; above that `Overloaded` says when to come back. A wait
   that is cancelled leaves nothing behind: what runs in the core by then ends by itself and is told nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import trio

from p2pinfer.addresses import is_numeric
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import check_key, key_of
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.dht.put import Put
from p2pinfer.effects import Effect
from p2pinfer.errors import Cancelled, Overloaded, RecordConflict
from p2pinfer.ids import Contact
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.dht_values import (
    PROVIDER,
    VALUE,
    Found,
    Key,
    Provider,
    found_of,
    place_of,
    provided_place,
    provider_of,
)
from p2pinfer.runtime.manifests import FoundManifest, ask_for_manifest, manifest_key
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Dht", "Found", "Key", "Provider"]

TTL_S = 3600.0
"""How long a record lives without being put again, seconds, where nothing else is said."""
RUNNING_COUNT_MAX = 24
"""Lookups of applications at a time; the core has room for 63, and its own upkeep and holders want some."""
_QUORUMS = {"content": 1, "own": 3}
"""Holders that suffice where it is known before that they cannot tell different things: fewer are asked."""
WAITING_COUNT_MAX = 512
"""Calls that run or wait for their turn."""
TOGETHER_COUNT_MAX = 64
"""Keys of one lookup."""
_POLL_S = 0.25

_Begin = Callable[[DhtCore, float], tuple[LookupId, list[Effect]]]


class Dht:
    """A peer's part of the DHT, for applications; `peer.dht`.

    Args:
        parts: The peer's.
        nursery: Lives as long as the peer: its end ends every wait.
    """

    def __init__(self, parts: Parts, nursery: trio.Nursery) -> None:
        self._parts = parts
        self._turn = trio.Semaphore(RUNNING_COUNT_MAX)
        self._count = 0
        self._waits: dict[LookupId, _Wait] = {}
        nursery.start_soon(self._hold)

    @property
    def public_key(self) -> bytes:
        """This peer's Ed25519 key, by which its values in the namespace `own` are found."""
        return self._parts.home.identity.public_key

    @staticmethod
    def key_of(namespace: str, name: str | bytes) -> bytes:
        """Return the key of a name in a namespace: 32 bytes.

        Raises:
            LocalProtocolError: The namespace is empty or has a NUL.
        """
        return key_of(namespace, name)

    async def get(self, key: Key, *, quorum: int | None = None) -> tuple[Found, ...]:
        """Look for the values under a key, of all owners; by sub-key, then by owner.

        Args:
            key: Which; with a namespace only its own records count.
            quorum: Peers near the key whose answers suffice; 0 asks all of them, None leaves it to the DHT.

        Raises:
            LocalProtocolError: That is no key.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        if quorum is None:
            quorum = _QUORUMS.get(place_of(key)[0])
        return (await self.get_many([key], quorum=quorum))[key]

    async def get_many(
        self, keys: Sequence[Key], *, quorum: int | None = None
    ) -> dict[Key, tuple[Found, ...]]:
        """Look for the values under several keys, many with each walk through the DHT.

        Raises:
            LocalProtocolError: One of them is no key.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        places = {key: place_of(key) for key in keys}
        wanted = list(dict.fromkeys(place for _, place in places.values()))
        records: list[DhtRecord] = []
        for start in range(0, len(wanted), TOGETHER_COUNT_MAX):
            part = wanted[start : start + TOGETHER_COUNT_MAX]
            done = await self._lookup(lambda dht, now, part=part: dht.get(part, now, quorum=quorum))  # type: ignore[misc]
            records += done.values
        return {
            key: tuple(
                found_of(record)
                for record in records
                if record.key == place and namespace in ("", record.namespace)
            )
            for key, (namespace, place) in places.items()
        }

    async def put(
        self,
        key: Key,
        value: bytes,
        *,
        ttl_s: float = TTL_S,
        subkey: bytes = b"",
        expected: int | None = None,
    ) -> int:
        """Keep a value under a key, in this peer's name, until `remove`; returns how many peers hold it.

        Args:
            key: Where; others may have values of their own there.
            value: At most 512 bytes.
            ttl_s: How long it lives without being put again, seconds; above 0, at most 48 hours.
            subkey: At most 64 bytes: each sub-key has its own value.
            expected: Store only in place of this peer's record with that sequence, 0 standing for none.

        Raises:
            LocalProtocolError: Something of it is out of bounds, or too much is put already.
            RecordConflict: Another record is held than expected; it says which.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        namespace, place = place_of(key)
        wanted = Put(key=place, value=value, ttl_s=ttl_s, subkey=subkey, namespace=namespace or VALUE)
        return await self._put(replace(wanted, expected=expected))

    async def remove(self, key: Key, *, subkey: bytes = b"") -> None:
        """Keep a value alive no longer: it vanishes when its last record expires.

        Raises:
            LocalProtocolError: That is no key.
        """
        _, place = place_of(key)
        await self._parts.driver.call(lambda core, now: (None, core.dht.unput(place, subkey, now)))

    async def provide(self, name: Key, *, ttl_s: float = TTL_S) -> int:
        """Say that this peer can hand out what is named, until `stop_providing`; returns who keeps the word.

        Raises:
            LocalProtocolError: That is no key, or too much is put already.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        endpoint = self._parts.core.contact.endpoint
        # A host name is not told: who looks for this peer by its id finds it all the same.
        value = str(endpoint).encode() if is_numeric(endpoint) else b""
        return await self._put(Put(key=provided_place(name), value=value, ttl_s=ttl_s, namespace=PROVIDER))

    async def stop_providing(self, name: Key) -> None:
        """Say it no longer: it is forgotten when the last record expires.

        Raises:
            LocalProtocolError: That is no key.
        """
        place = provided_place(name)
        await self._parts.driver.call(lambda core, now: (None, core.dht.unput(place, b"", now)))

    async def find_providers(self, name: Key) -> tuple[Provider, ...]:
        """Look for the peers that can hand out what is named.

        Raises:
            LocalProtocolError: That is no key.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        place = provided_place(name)
        done = await self._lookup(lambda dht, now: dht.get([place], now))
        found = [provider_of(record) for record in done.values if record.namespace == PROVIDER]
        # A member's own address is newer than what it said when it began to provide.
        members = {each.owner: each.endpoint for each in self._parts.core.swim.alive()}
        return tuple(replace(each, endpoint=members.get(each.peer, each.endpoint)) for each in found)

    async def find_peers(self, key: Key) -> tuple[Contact, ...]:
        """Look for the peers nearest to a key that answer, nearest first; this one is not among them.

        Raises:
            LocalProtocolError: That is no key.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        _, place = place_of(key)
        return (await self._lookup(lambda dht, now: dht.find_nodes(place, now))).nearest

    async def manifest(self, digest: bytes) -> FoundManifest:
        """Ask those who have a model's file what it is: `runtime/manifests.py` says what may be believed.

        Args:
            digest: SHA-256 of the file, 32 bytes.

        Raises:
            LocalProtocolError: That is no SHA-256.
            ModelNotFound: Nobody is found who has the file and answers.
            Overloaded: Too many calls at a time; it says when to come back.
        """
        check_key(digest)
        own = self._parts.core.contact.peer
        providers = await self.find_providers(manifest_key(digest))
        contacts = [Contact(each.peer, each.endpoint) for each in providers if each.endpoint is not None]
        others = [each for each in contacts if each.peer != own]
        return await ask_for_manifest(self._parts.streams, self._parts.store, others, digest)

    async def wait_for_others(self) -> None:
        """Wait until another peer of the DHT has answered: what is put before that stays here at first."""
        while not self._parts.core.dht.statistics()["contacts_good"]:  # noqa: ASYNC110 -- a pure core has no event
            await trio.sleep(_POLL_S)

    def status(self) -> dict[str, Any]:
        """What this peer knows of the DHT, as plain data: `docs/cli.md` lists the keys."""
        core = self._parts.core
        counts = core.dht.statistics()
        return {
            "peer": str(core.contact.peer),
            "endpoint": str(core.contact.endpoint),
            "seen": counts.get("seen"),
            "nat": counts.get("nat", "unknown"),
            "network_size": counts.get("network_size"),
            "is_joined": counts["is_joined"],
            "contacts": counts["contacts"],
            "contacts_good": counts["contacts_good"],
            "buckets": counts.get("buckets"),
            "records": counts["records"],
            "own_records": counts["own_puts"],
            "lookups": counts["lookups_running"],
            "calls": self._count,
            "statistics": dict(counts),
        }

    def heard(self, done: LookupDone) -> None:
        """Take the end of a lookup; from the driver's loop, so it never waits."""
        wait = self._waits.pop(done.id, None)
        if wait is not None:
            wait.finish(done)

    # --- the waits ------------------------------------------------------------------------------

    async def _put(self, wanted: Put) -> int:
        done = await self._lookup(lambda dht, now: dht.put(wanted, now))
        held, expected = done.conflict, wanted.expected
        # A holder that missed an update has an older record than expected: the put mends that.
        if held is not None and expected is not None and (held.sequence > expected or not done.stored_at):
            raise RecordConflict(
                f"the record held has sequence {held.sequence}, not {expected}: read it and decide anew",
                sequence=held.sequence,
                value=held.value,
            )
        return done.stored_at

    async def _lookup(self, begin: _Begin) -> LookupDone:
        if self._count >= WAITING_COUNT_MAX:
            raise Overloaded(f"{self._count} calls to the DHT run or wait already", retry_after_s=1.0)
        self._count += 1
        try:
            async with self._turn:
                return await self._run(begin)
        finally:
            self._count -= 1

    async def _run(self, begin: _Begin) -> LookupDone:
        wait = _Wait()

        def command(core: PeerCore, now: float) -> tuple[None, list[Effect]]:
            if wait.is_over:
                raise Cancelled("nobody waits for it any more")
            lookup, effects = core.use_dht(lambda dht: begin(dht, now), now)
            # Before the effects are performed: the end may come with them.
            wait.lookup = lookup
            self._waits[lookup] = wait
            return None, effects

        try:
            await self._parts.driver.call(command)
            return await wait.ended()
        finally:
            wait.is_over = True
            if wait.lookup is not None:
                self._waits.pop(wait.lookup, None)

    async def _hold(self) -> None:
        """Let nobody wait for ever when the peer ends."""
        try:
            await trio.sleep_forever()
        finally:
            for wait in self._waits.values():
                wait.finish(None)
            self._waits.clear()


class _Wait:
    """Somebody who waits for the end of a lookup."""

    def __init__(self) -> None:
        self.lookup: LookupId | None = None
        self.is_over = False
        self._event = trio.Event()
        self._done: LookupDone | None = None

    def finish(self, done: LookupDone | None) -> None:
        """The lookup has ended; None where the peer did."""
        self._done = done
        self._event.set()

    async def ended(self) -> LookupDone:
        """Wait for the end.

        Raises:
            Cancelled: The peer ended first.
        """
        await self._event.wait()
        if self._done is None:
            raise Cancelled("the peer is closing: ask again with another")
        return self._done
