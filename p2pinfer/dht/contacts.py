"""The containers of contacts, built on the package `kademlia`: its `Node`, `NodeHeap` and `KBucket`.

What is changed, and why: `KBucket` reads a clock of its own, so the time is handed in here, and gives a free
place to whoever it heard last, answered or not, so the choice is ours; `NodeHeap` searches itself for every
push and sorts itself for every look, so membership is a set here and its heap is kept sorted, which is still
a heap; its hidden size is bounded. The package's 160-bit limit lies in its
routing table alone, which is not used: these three take ids of any length.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator

from kademlia.node import Node, NodeHeap
from kademlia.routing import KBucket

from p2pinfer.dht.keyspace import bucket_range
from p2pinfer.dht.roundtrip import RoundTrip
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, PeerId

__all__ = ["Bucket", "CandidateHeap", "ContactNode", "TableContact", "node_at"]


def node_at(key: bytes) -> Node:
    """A place in the key space, to measure distances from."""
    return Node(key)


class ContactNode(Node):  # type: ignore[misc]  # the package has no types
    """A contact at its place in the key space."""

    long_id: int

    def __init__(self, contact: Contact) -> None:
        if contact.peer is None:
            raise LocalProtocolError(f"{contact} has no place in the key space until its peer is known")
        super().__init__(contact.peer, contact.endpoint.host, contact.endpoint.port)
        self.peer: PeerId = contact.peer
        self.contact = contact


class TableContact(ContactNode):
    """A contact in the table, and what this peer itself has seen of it.

    Args:
        contact: Who, and where.
        group: The operator it counts for, as in `addresses.network_group`; None where it counts for none.
    """

    def __init__(self, contact: Contact, group: str | None = None) -> None:
        super().__init__(contact)
        self.group = group
        self.answered_at: float | None = None
        """When it last answered a question of ours; None until then, and it is told to nobody."""
        self.failures = 0
        """Questions in a row that it did not answer, every repetition included in one."""
        self.retry_at = 0.0
        """It is left alone until then."""
        self.is_stale = False
        """It waits for a place, and has not answered for so long that others are not told of it any more."""
        self.moved_to: Contact | None = None
        """Where it was heard from since, which is asked before it is believed."""
        self.checked_until = 0.0
        """A check is under way and has until then."""
        self.queued_at: float | None = None
        """For when the table has planned to look at it; never later than it is due."""
        self.round_trip = RoundTrip()

    @property
    def is_good(self) -> bool:
        """Whether others may be told of it: it answered us not long ago, and has not failed since."""
        return self.answered_at is not None and not self.failures and not self.is_stale


class Bucket(KBucket):  # type: ignore[misc]  # the package has no types
    """The contacts that share exactly `prefix` leading bits with this peer, and those that wait.

    Invariant: nobody waits while a place is free.
    """

    nodes: dict[PeerId, TableContact]
    replacement_nodes: dict[PeerId, TableContact]
    last_updated: float

    def __init__(self, own: PeerId, prefix: int, k: int, now: float) -> None:
        self._now = now
        low, high = bucket_range(own, prefix)
        super().__init__(low, high, k)
        self.prefix = prefix
        self.groups: Counter[str] = Counter()
        """How many of each group there are, those that wait included."""

    def touch_last_updated(self) -> None:
        """Called by the package's constructor, which would read a clock."""
        self.last_updated = self._now

    def touch(self, now: float) -> None:
        """A lookup passed through this bucket's range."""
        self._now = now
        self.touch_last_updated()

    @property
    def is_full(self) -> bool:
        """Whether there is neither a place nor room to wait for one."""
        is_placed = len(self.nodes) >= self.ksize
        return bool(is_placed and len(self.replacement_nodes) >= self.max_replacement_nodes)

    def everyone(self) -> Iterator[TableContact]:
        """Contacts, least recently heard first, then those that wait for a place."""
        yield from self.nodes.values()
        yield from self.replacement_nodes.values()

    def choose_leaver(self, newcomer: TableContact) -> TableContact | None:
        """Who of those that wait lets a newcomer wait: a good one goes for nobody that is not good itself."""
        waiting = self.replacement_nodes.values()
        doubtful = next((each for each in waiting if not each.is_good), None)
        if doubtful is not None or not newcomer.is_good:
            return doubtful
        return next(iter(waiting), None)

    def replace(self, contact: TableContact) -> None:
        """The peer has another address: it keeps its place."""
        nodes = self.nodes if contact.peer in self.nodes else self.replacement_nodes
        nodes[contact.peer] = contact

    def remove_node(self, node: TableContact) -> TableContact | None:
        """Take a contact out.

        Returns:
            Who takes its place: the one that answered last, else the one heard last (Kademlia, section 4.1).
        """
        self.replacement_nodes.pop(node.peer, None)
        if self.nodes.pop(node.peer, None) is None or not self.replacement_nodes:
            return None
        waiting = reversed(self.replacement_nodes.values())
        heir = max(waiting, key=lambda each: (each.is_good, -each.failures, each.answered_at or 0.0))
        del self.replacement_nodes[heir.peer]
        self.nodes[heir.peer] = heir
        return heir


class CandidateHeap(NodeHeap):  # type: ignore[misc]  # the package has no types
    """The contacts a lookup knows of. Iteration gives the nearest `maxsize`, nearest first.

    Invariant: at most four times `maxsize` are kept, so that liars cannot make it grow.
    """

    heap: list[tuple[int, ContactNode]]
    """Sorted: a lookup looks at its nearest several times for each answer."""
    maxsize: int

    def __init__(self, key: bytes, maxsize: int) -> None:
        super().__init__(node_at(key), maxsize)
        self._ids: set[bytes] = set()
        self._nearest: list[ContactNode] | None = None

    def __contains__(self, node: ContactNode) -> bool:
        return node.id in self._ids

    def __iter__(self) -> Iterator[ContactNode]:
        return iter(self.nearest)

    @property
    def nearest(self) -> list[ContactNode]:
        """The nearest `maxsize`, nearest first; gathered once for each change."""
        if self._nearest is None:
            self._nearest = [node for _, node in self.heap[: self.maxsize]]
        return self._nearest

    def knows(self, peer: bytes) -> bool:
        """Whether a contact with that id is in."""
        return peer in self._ids

    def take(self, nodes: list[ContactNode]) -> bool:
        """Add contacts as `push` does; say whether one of them is among the nearest `maxsize` now."""
        before = {node.id for node in self.nearest}
        self.push(nodes)
        return any(node.id not in before for node in self.nearest)

    def push(self, nodes: list[ContactNode]) -> None:
        """Add those that are not in yet, and let go of the farthest where they are too many."""
        target: int = self.node.long_id
        for node in nodes:
            if node.id not in self._ids:  # so no two have one distance, and nodes are never compared
                bisect.insort(self.heap, (node.long_id ^ target, node))
                self._ids.add(node.id)
        for _, node in self.heap[4 * self.maxsize :]:
            self._ids.remove(node.id)
        del self.heap[4 * self.maxsize :]
        self._nearest = None

    def remove(self, peers: Iterable[bytes]) -> None:
        """Let go of some, whoever is next moves up."""
        gone = self._ids.intersection(peers)
        if gone:
            self.heap = [pair for pair in self.heap if pair[1].id not in gone]
            self._ids -= gone
            self._nearest = None

    def popleft(self) -> ContactNode | None:
        """Take the nearest out; None where there is none."""
        if not self.heap:
            return None
        _, node = self.heap.pop(0)
        self._ids.remove(node.id)
        self._nearest = None
        return node
