"""Names that one peer holds for a while, with a fencing token for whatever it does meanwhile.

A holder may be paused for longer than its lease lasts, and go on as if it still had it. No clock can rule
that out, so every lease has a token: whoever guards something refuses a token lower than the highest it has
seen (Kleppmann, "How to do distributed locking", 2016; Jepsen's report on etcd 3.4.3 shows what comes of
locks without).

Rules:

1. Tokens are counted through the whole life of the metadata: each acquisition has one that no other had,
   higher than all before, whatever the name.
2. Time is the log's alone, stamped by leaders and never going back. A lease has ended once an entry with its
   time, or a later one, is applied: on all replicas at the same index.
3. Keys that are attached to a lease go with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.limits import Limits
from p2pinfer.raft.refusals import refused

__all__ = ["Lease", "LeaseTable"]


class Lease(NamedTuple):
    """A name that is held."""

    name: str
    holder: PeerId
    token: int
    ttl_ms: int
    expires_ms: int


class LeaseTable:
    """All leases that are held, and the keys attached to them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_name: dict[str, Lease] = {}
        self._names: dict[int, str] = {}
        """By token."""
        self._keys: dict[int, set[str]] = {}
        """By token."""
        self._ends: list[tuple[int, int]] = []
        """A heap of (expiry, token); what was renewed or released is left in it until it comes up."""
        self.token_count = 0
        """Tokens that were ever given."""

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def all(self) -> tuple[Lease, ...]:
        """Every lease, by name."""
        return tuple(self._by_name[name] for name in sorted(self._by_name))

    def get(self, name: str) -> Lease | None:
        """Return the lease of a name, or None if nobody holds it."""
        return self._by_name.get(name)

    @property
    def deadline_ms(self) -> int | None:
        """When the next lease ends unless it is renewed."""
        while self._ends:
            expires_ms, token = self._ends[0]
            name = self._names.get(token)
            if name is not None and self._by_name[name].expires_ms == expires_ms:
                return expires_ms
            heapq.heappop(self._ends)
        return None

    def acquire(self, name: str, holder: PeerId, ttl_ms: int, now_ms: int) -> tuple[Lease, set[str]]:
        """Give a name to a peer under a new token.

        Returns:
            The lease, and the keys that were attached to the holder's own lease before.

        Raises:
            CommandRefused: Another peer holds it, there are too many, or the time is out of bounds.
        """
        self._check_ttl(ttl_ms)
        before = self._by_name.get(name)
        if before is not None and before.holder != holder:
            raise refused("lease_held", name, retry_after_ms=before.expires_ms - now_ms)
        if before is None and len(self._by_name) >= self._limits.leases_count_max:
            raise refused("too_many_leases", number=len(self._by_name))
        keys = self.end(before.token) if before is not None else set()
        self.token_count += 1
        lease = Lease(name, holder, self.token_count, ttl_ms, now_ms + ttl_ms)
        self._hold(lease)
        return lease, keys

    def renew(self, name: str, token: int, ttl_ms: int, now_ms: int) -> Lease:
        """Let a lease last for its time from now on; never shorter than it did.

        Raises:
            CommandRefused: It has ended, or the time is out of bounds.
        """
        self._check_ttl(ttl_ms)
        lease = self.check(name, token)
        longer = lease._replace(ttl_ms=ttl_ms, expires_ms=max(lease.expires_ms, now_ms + ttl_ms))
        self._hold(longer)
        return longer

    def check(self, name: str, token: int) -> Lease:
        """Return the lease of a name if this token holds it.

        Raises:
            CommandRefused: It does not.
        """
        lease = self._by_name.get(name)
        if lease is None or lease.token != token:
            raise refused("lease_lost", name, token)
        return lease

    def end(self, token: int) -> set[str]:
        """End a lease that is held; returns the keys that were attached to it."""
        del self._by_name[self._names.pop(token)]
        return self._keys.pop(token, set())

    def expired(self, now_ms: int) -> int | None:
        """Return the token of the lease that ended first and is still held, or None: whoever asks ends it."""
        due_ms = self.deadline_ms
        return self._ends[0][1] if due_ms is not None and due_ms <= now_ms else None

    def check_attach(self, token: int, count: int) -> None:
        """Check that so many more keys may be attached to a lease.

        Raises:
            CommandRefused: It has ended, or has too many keys.
        """
        if token not in self._names:
            raise refused("lease_lost", number=token)
        if len(self._keys.get(token, ())) + count > self._limits.touched_count_max:
            raise refused("too_many_attached", number=self._limits.touched_count_max)

    def attach(self, key: str, token: int) -> None:
        """Let a key go with a lease."""
        self._keys.setdefault(token, set()).add(key)

    def detach(self, key: str, token: int) -> None:
        """Let a key no longer go with a lease; the lease may have ended."""
        keys = self._keys.get(token)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._keys[token]

    def load(self, leases: Iterable[Lease], token_count: int) -> None:
        """Take the leases of a snapshot into a table that is empty."""
        self.token_count = token_count
        for lease in leases:
            self._hold(lease)

    def _hold(self, lease: Lease) -> None:
        self._by_name[lease.name] = lease
        self._names[lease.token] = lease.name
        heapq.heappush(self._ends, (lease.expires_ms, lease.token))
        if len(self._ends) > 4 * len(self._by_name) + 64:
            # Renewals leave their old ends behind: a lease that is renewed for ever would grow the heap.
            self._ends = [(each.expires_ms, each.token) for each in self._by_name.values()]
            heapq.heapify(self._ends)

    def _check_ttl(self, ttl_ms: int) -> None:
        low, high = self._limits.ttl_ms_min, self._limits.ttl_ms_max
        if not low <= ttl_ms <= high:
            raise refused("wrong_ttl", number=ttl_ms)
