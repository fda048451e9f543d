"""One lookup: who are the k peers nearest to a key? A state machine that knows no network.

Rules:

1. At most alpha questions are in flight while answers bring the lookup nearer; none waits for a round to end.
   When alpha answers in a row brought nobody nearer, all of the k nearest are asked (rust-libp2p's `stall`):
   they have to answer anyway, and one after another they would only take longer.
2. A peer that is slow gives its place in the window away, but its late answer still counts. One that failed
   is never taken back, whoever tells of it again.
3. The lookup is done when the k nearest of all not failed have answered (Kademlia, section 2.3), or when it
   may ask nobody more.

Departs from the paper: no rounds. Later additions have their place here: disjoint paths are several of these
that share a set of asked peers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import CandidateHeap, ContactNode
from p2pinfer.ids import Contact, Endpoint, PeerId

__all__ = ["Lookup"]

_IDS_PER_ENDPOINT_MAX = 2
"""Ids believed at one endpoint: a liar can aim no more of our questions than that at somebody's address."""


class _Asked(enum.Enum):
    IN_FLIGHT = enum.auto()
    SLOW = enum.auto()
    ANSWERED = enum.auto()


class Lookup:
    """The search for the peers nearest to one key.

    Invariant: at most `lookup_queries_max` peers are asked and at most 4 k candidates kept.
    """

    def __init__(self, key: bytes, own: PeerId, config: DhtConfig) -> None:
        self.key = key
        self.queries = 0
        """Peers asked."""
        self._own = own
        self._config = config
        self._candidates = CandidateHeap(key, config.k)
        self._asked: dict[bytes, _Asked] = {}
        self._failed: set[bytes] = set()
        self._ids_at: dict[Endpoint, set[PeerId]] = {}
        self._answers_without_progress = 0

    @property
    def is_done(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        if self.queries >= self._config.query.lookup_queries_max:
            return all(asked is _Asked.ANSWERED for asked in self._asked.values())
        return all(self._asked.get(node.id) is _Asked.ANSWERED for node in self._candidates)

    @property
    def nearest(self) -> tuple[Contact, ...]:
        """The peers among the k nearest that answered, nearest first."""
        return tuple(node.contact for node in self._candidates if self._asked.get(node.id) is _Asked.ANSWERED)

    def add(self, contacts: Iterable[Contact]) -> bool:
        """Take contacts, from our table or from an answer; unsorted and repeated ones are fine.

        Returns:
            Whether one of them is now among the k nearest.
        """
        fresh = [ContactNode(contact) for contact in contacts if self._is_new(contact)]
        if fresh:
            self._candidates.push(fresh)
        added = {node.id for node in fresh}
        return bool(added) and any(node.id in added for node in self._candidates)

    def choose_next(self) -> list[Contact]:
        """Return whom to ask now; they count as asked."""
        config = self._config
        has_stalled = self._answers_without_progress >= config.alpha
        in_flight = sum(asked is _Asked.IN_FLIGHT for asked in self._asked.values())
        room = min(
            (config.k if has_stalled else config.alpha) - in_flight,
            config.query.lookup_queries_max - self.queries,
        )
        chosen: list[Contact] = []
        if room > 0:
            for node in self._candidates:
                if len(chosen) == room:
                    break
                if node.id not in self._asked:
                    self._asked[node.id] = _Asked.IN_FLIGHT
                    chosen.append(node.contact)
        self.queries += len(chosen)
        return chosen

    def answered(self, peer: PeerId, *, has_progress: bool) -> None:
        """A peer's answer is complete; `has_progress` says whether it brought anybody nearer."""
        if peer in self._asked:
            self._asked[peer] = _Asked.ANSWERED
            self._answers_without_progress = 0 if has_progress else self._answers_without_progress + 1

    def slow(self, peer: PeerId) -> None:
        """A peer did not answer in the time that it usually takes; it is asked again."""
        if self._asked.get(peer) is _Asked.IN_FLIGHT:
            self._asked[peer] = _Asked.SLOW

    def failed(self, peer: PeerId) -> None:
        """A peer did not answer at all."""
        self._asked.pop(peer, None)
        self._failed.add(peer)
        self._candidates.remove([peer])

    def _is_new(self, contact: Contact) -> bool:
        peer = contact.peer
        if peer is None or peer == self._own or self._candidates.knows(peer):
            return False
        if peer in self._failed or peer in self._asked:
            return False
        ids = self._ids_at.setdefault(contact.endpoint, set())
        if peer not in ids and len(ids) >= _IDS_PER_ENDPOINT_MAX:
            return False
        ids.add(peer)
        return True
