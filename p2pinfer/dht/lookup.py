"""One lookup: who are the k peers nearest to a key? A state machine that knows no network.

Rules:

1. At most alpha questions are in flight while answers bring the lookup nearer; none waits for a round to end.
   When alpha answers in a row brought nobody nearer, all of the k nearest are asked (rust-libp2p's `stall`):
   they have to answer anyway, and one after another they would only take longer.
2. A peer that is slow gives its place in the window away, but its late answer still counts. One that failed
   is never taken back, whoever tells of it again.
3. The lookup is done when the k nearest of all not failed have answered (Kademlia, section 2.3), or when it
   may ask nobody more.
4. With several paths (S/Kademlia, section 4.4) nobody is asked by two of them, and each believes only those
   that it asked itself: a liar leads one path astray and not the others. What they find is put together.
5. Where the k nearest found stand much wider apart than peers of this network do, liars have told of each
   other alone: the lookup starts again from those not asked yet. What was found stays.
"""

from __future__ import annotations

import bisect
import enum
import heapq
from collections.abc import Iterable, Sequence

from p2pinfer.dht.addresses import counted_group
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import CandidateHeap, ContactNode
from p2pinfer.dht.keyspace import distance
from p2pinfer.ids import Contact, Endpoint, PeerId

__all__ = ["Lookup"]

_IDS_PER_ENDPOINT_MAX = 2
"""Ids believed at one endpoint: a liar can aim no more of our questions than that at somebody's address."""


class _Asked(enum.Enum):
    IN_FLIGHT = enum.auto()
    SLOW = enum.auto()
    ANSWERED = enum.auto()


class _Path:
    """What one path knows, and how it gets on."""

    __slots__ = ("_groups", "_place", "answers_without_progress", "candidates", "in_flight")

    def __init__(self, key: bytes, k: int) -> None:
        self.candidates = CandidateHeap(key, k)
        self.in_flight = 0
        self.answers_without_progress = 0
        self._place = int.from_bytes(key, "big")
        self._groups: dict[str, list[tuple[int, bytes]]] = {}

    def has_room(self, group: str, node: ContactNode, count_max: int) -> bool:
        """Whether a contact is among the nearest of its network block; who is not any more is let go."""
        members = self._groups.setdefault(group, [])
        bisect.insort(members, (node.long_id ^ self._place, node.id))
        if len(members) <= count_max:
            return True
        _, farthest = members.pop()
        self.candidates.remove([farthest])
        return bool(farthest != node.id)


class Lookup:
    """The search for the peers nearest to one key.

    Invariant: at most `lookup_queries_max` peers are asked and at most 4 k candidates kept on each path.
    """

    def __init__(self, key: bytes, own: PeerId, config: DhtConfig) -> None:
        self.key = key
        self.queries = 0
        """Peers asked."""
        self.in_flight_max: int | None = None
        """Fewer than alpha questions at one time, where so many answers are all that is wanted."""
        self._own = own
        self._config = config
        self._asked: dict[bytes, _Asked] = {}
        self._asked_by: dict[bytes, _Path] = {}
        self._failed: set[bytes] = set()
        self._ids_at: dict[Endpoint, set[PeerId]] = {}
        self._given_up: list[_Path] = []
        self._paths = self._new_paths()
        self._is_closed = False
        self._asked_wide: set[bytes] = set()
        self._is_worth_more = True

    @property
    def is_done(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        if self._is_closed:
            return True
        asked = self._asked
        if self.queries >= self._config.query.lookup_queries_max:
            return all(each is _Asked.ANSWERED for each in asked.values())
        return all(
            asked.get(node.id) is _Asked.ANSWERED for path in self._paths for node in path.candidates.nearest
        )

    @property
    def nearest(self) -> tuple[Contact, ...]:
        """The peers among the k nearest that answered, nearest first."""
        paths = [*self._given_up, *self._paths]
        if len(paths) == 1:
            nodes: Iterable[ContactNode] = paths[0].candidates.nearest
        else:
            found = {node.id: node for path in paths for node in path.candidates.nearest}
            place = int.from_bytes(self.key, "big")
            nodes = heapq.nsmallest(self._config.k, found.values(), key=lambda node: node.long_id ^ place)
        return tuple(node.contact for node in nodes if self._asked.get(node.id) is _Asked.ANSWERED)

    @property
    def has_seeds(self) -> bool:
        """Whether every path knows k contacts."""
        return all(len(path.candidates) == self._config.k for path in self._paths)

    def start(self, seeds: Sequence[Contact]) -> None:
        """Take contacts of our own, nearest first; the paths share them out."""
        for index, path in enumerate(self._paths):
            self._add(path, seeds[index :: len(self._paths)])

    def add(self, contacts: Iterable[Contact], teller: PeerId | None) -> bool:
        """Take contacts out of a peer's answer; unsorted and repeated ones are fine.

        Returns:
            Whether one of them is now among the k nearest of the path that asked.
        """
        path = self._asked_by.get(teller) if teller is not None else None
        return path is not None and self._add(path, contacts)

    def choose_next(self, count_max: int = 1 << 30) -> list[Contact]:
        """Return whom to ask now, at most so many; they count as asked."""
        chosen: list[Contact] = []
        if self._is_closed:
            return chosen
        config, paths_count = self._config, len(self._paths)
        for path in self._paths:
            has_stalled = path.answers_without_progress >= config.alpha
            window = config.k if has_stalled else max(1, config.alpha // paths_count)
            if self.in_flight_max is not None:
                window = min(window, self.in_flight_max)
            room = min(
                window - path.in_flight,
                config.query.lookup_queries_max - self.queries,
                count_max - len(chosen),
            )
            if room <= 0:
                continue
            for node in path.candidates.nearest:
                if node.id not in self._asked:
                    self._ask(path, node.id)
                    chosen.append(node.contact)
                    room -= 1
                    if not room:
                        break
        return chosen

    def next_unasked(self) -> Contact | None:
        """The nearest candidate of all paths that was not asked yet."""
        for path in self._paths:
            for node in path.candidates.nearest:
                if node.id not in self._asked:
                    return node.contact
        return None

    def wants(self, peer: PeerId) -> bool:
        """Whether a peer is among those that will be asked, and has not been; it counts as asked now."""
        if self._is_closed or peer in self._asked or self.queries >= self._config.query.lookup_queries_max:
            return False
        for path in self._paths:
            if path.candidates.knows(peer):
                for node in path.candidates.nearest:
                    if node.id == peer:
                        self._ask(path, node.id)
                        return True
        return False

    def answered(self, peer: PeerId, *, has_progress: bool) -> None:
        """A peer's answer is complete; `has_progress` says whether it brought anybody nearer."""
        path = self._settle(peer, _Asked.ANSWERED)
        if path is not None:
            path.answers_without_progress = 0 if has_progress else path.answers_without_progress + 1

    def slow(self, peer: PeerId) -> None:
        """A peer did not answer in the time that it usually takes; it is asked again."""
        if self._asked.get(peer) is _Asked.IN_FLIGHT:
            self._settle(peer, _Asked.SLOW)

    def failed(self, peer: PeerId) -> None:
        """A peer did not answer at all."""
        self._settle(peer, None)
        self._failed.add(peer)
        for path in self._paths:
            path.candidates.remove([peer])

    def ask_wider(self, count: int) -> list[Contact]:
        """Return those of the k nearest to ask once more, for more contacts; they count as asked now.

        None where the last ones asked so brought nobody: what answers hid, they would have told of.
        """
        if not self._is_worth_more:
            return []
        chosen: list[Contact] = []
        for contact in self.nearest:
            if len(chosen) < count and contact.peer is not None and contact.peer not in self._asked_wide:
                self._asked_wide.add(contact.peer)
                self._ask(self._asked_by[contact.peer], contact.peer)
                chosen.append(contact)
        self._is_worth_more = False
        return chosen

    def is_sparse(self, distance_expected: float) -> bool:
        """Whether the k-th nearest found is much farther off than it should be, as if others were hidden.

        Args:
            distance_expected: Of the k-th nearest peer, from the size of the network.
        """
        nearest = self.nearest
        if len(nearest) < self._config.k or nearest[-1].peer is None:
            return False
        return distance(nearest[-1].peer, self.key) > self._config.query.sparse_factor * distance_expected

    def restart(self, seeds: Sequence[Contact]) -> bool:
        """Begin again from contacts that were not asked yet; False where there are none."""
        fresh = [each for each in seeds if each.peer not in self._asked and each.peer not in self._failed]
        if not fresh or self.queries >= self._config.query.lookup_queries_max:
            return False
        self._given_up += self._paths
        self._paths = self._new_paths()
        self._ids_at.clear()
        self.start(fresh)
        return True

    def close(self) -> None:
        """Ask nobody more: what was wanted is found."""
        self._is_closed = True

    def _new_paths(self) -> list[_Path]:
        return [_Path(self.key, self._config.k) for _ in range(self._config.disjoint)]

    def _add(self, path: _Path, contacts: Iterable[Contact]) -> bool:
        limits, fresh = self._config.table, []
        for contact in contacts:
            if self._is_new(path, contact):
                node = ContactNode(contact)
                group = counted_group(contact.endpoint.host, private_exempt=limits.private_exempt)
                if group is None or path.has_room(group, node, limits.lookup_group_count_max):
                    fresh.append(node)
        has_progress = bool(fresh) and path.candidates.take(fresh)
        self._is_worth_more |= has_progress
        return has_progress

    def _ask(self, path: _Path, peer: bytes) -> None:
        self._asked[peer] = _Asked.IN_FLIGHT
        self._asked_by[peer] = path
        path.in_flight += 1
        self.queries += 1

    def _settle(self, peer: PeerId, state: _Asked | None) -> _Path | None:
        """Note what became of a question; return the path that asked."""
        before, path = self._asked.get(peer), self._asked_by.get(peer)
        if before is None or path is None:
            return None
        path.in_flight -= before is _Asked.IN_FLIGHT
        if state is None:
            del self._asked[peer], self._asked_by[peer]
        else:
            self._asked[peer] = state
        return path

    def _is_new(self, path: _Path, contact: Contact) -> bool:
        peer = contact.peer
        if peer is None or peer == self._own or path.candidates.knows(peer):
            return False
        if peer in self._failed or self._asked_by.get(peer) is path:
            return False
        ids = self._ids_at.setdefault(contact.endpoint, set())
        if peer not in ids and len(ids) >= _IDS_PER_ENDPOINT_MAX:
            return False
        ids.add(peer)
        return True
