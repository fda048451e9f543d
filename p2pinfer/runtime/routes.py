"""Where messages for a peer go: its connection, or a queue while somebody dials."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import P2PInferError, PeerUnreachable
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime.connection import Connection
from p2pinfer.wire.codec import encode

__all__ = ["Route", "Routes", "choose_kept"]

_PAST_COUNT_MAX = 4096
"""Peers whose last connection or failed dials are remembered: the members of a large swarm."""


class Route:
    """The way to one peer, or to whoever answers at an endpoint."""

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.connection: Connection | None = None
        self.is_dialling = False
        self._waiting: deque[Message] = deque()
        self._waiting_size = 0
        self._ready = trio.Event()
        self._error: P2PInferError | None = None

    def queue(self, message: Message, size_bytes_max: int) -> bool:
        """Keep a message until there is a connection; False where there is no room."""
        if self._waiting_size >= size_bytes_max:
            return False
        self._waiting_size += len(encode(message))
        self._waiting.append(message)
        return True

    def adopt(self, connection: Connection) -> None:
        """Use a connection from now on; what waited goes first."""
        self.connection = connection
        waiting, self._waiting, self._waiting_size = self._waiting, deque(), 0
        for message in waiting:
            connection.put(message, message.priority)
        self._ready.set()

    def leave(self) -> None:
        """The connection takes no more messages."""
        self.connection = None
        self._ready = trio.Event()

    def fail(self, error: P2PInferError) -> None:
        """There will be no connection: whoever waits for one gets the error."""
        self._error = error
        self._waiting.clear()
        self._ready.set()

    async def connected(self) -> Connection:
        """Wait for the connection.

        Raises:
            P2PInferError: It could not be opened.
        """
        while self.connection is None:
            if self._error is not None:
                raise self._error
            await self._ready.wait()
        return self.connection


@dataclass(slots=True)
class _Past:
    """What is remembered of a peer between connections."""

    lost: bytes = b""
    failure_count: int = 0
    not_before: float = 0.0


class Routes:
    """All routes, by peer, or by endpoint as long as nobody knows who answers there.

    Args:
        first_s: Wait after the first dial that failed.
        last_s: Wait at most.
    """

    def __init__(self, *, first_s: float, last_s: float) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._by_peer: dict[PeerId, Route] = {}
        self._by_endpoint: dict[Endpoint, Route] = {}
        self._peer_at: dict[Endpoint, PeerId] = {}
        self._past: OrderedDict[PeerId | Endpoint, _Past] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_peer) + len(self._by_endpoint)

    def find(self, contact: Contact) -> Route | None:
        """The route to a contact, if there is one."""
        peer = contact.peer
        if peer is None:
            peer = self._peer_at.get(contact.endpoint)
        if peer is None:
            return self._by_endpoint.get(contact.endpoint)
        return self._by_peer.get(peer)

    def find_peer(self, peer: PeerId | None) -> Route | None:
        """The route to a peer, if there is one."""
        return None if peer is None else self._by_peer.get(peer)

    def get(self, contact: Contact) -> Route:
        """The route to a contact; made where there is none."""
        route = self.find(contact)
        if route is None:
            route = Route(contact)
            if contact.peer is None:
                self._by_endpoint[contact.endpoint] = route
            else:
                self._by_peer[contact.peer] = route
        return route

    def of_connection(self, connection: Connection, dialled: Route | None) -> Route:
        """The route that a new connection belongs to; `dialled` is the one that it was opened for."""
        contact = connection.contact
        peer = connection.peer
        if dialled is not None and dialled.contact.peer is None:
            self._by_endpoint.pop(dialled.contact.endpoint, None)
            self._peer_at[dialled.contact.endpoint] = peer
            self._past.pop(dialled.contact.endpoint, None)
        route = self._by_peer.get(peer)
        if route is None:
            route = self._by_peer[peer] = dialled if dialled is not None else Route(contact)
        route.contact = contact
        self._past.pop(peer, None)
        return route

    def detach(self, peer: PeerId) -> Connection | None:
        """Give no more messages to a peer's connection; returns it, if there is one."""
        route = self._by_peer.get(peer)
        if route is None or route.connection is None:
            return None
        connection = route.connection
        route.leave()
        if not route.is_dialling:
            del self._by_peer[peer]
            self._peer_at = {at: who for at, who in self._peer_at.items() if who != peer}
        return connection

    def remember_lost(self, connection: Connection) -> None:
        """A connection broke: the next hello to that peer tells which, as it may not have noticed."""
        self._past_of(connection.peer).lost = connection.established.id

    def lost_with(self, route: Route) -> bytes:
        """The id of the last connection that broke, if it is known with whom."""
        past = self._past.get(_key(route.contact))
        return past.lost if past is not None else b""

    def dial_not_before(self, route: Route) -> float:
        """When a peer may be dialled (trio's time): waits grow with each dial that failed."""
        past = self._past.get(_key(route.contact))
        return past.not_before if past is not None else 0.0

    def fail(self, route: Route, error: P2PInferError) -> None:
        """A dial failed: forget the route, and what waited for it."""
        past = self._past_of(_key(route.contact))
        wait_s = min(self._last_s, self._first_s * 2.0 ** min(past.failure_count, 32))
        past.failure_count += 1
        past.not_before = trio.current_time() + wait_s
        if route.contact.peer is None:
            self._by_endpoint.pop(route.contact.endpoint, None)
        else:
            self._by_peer.pop(route.contact.peer, None)
        route.fail(error)

    def fail_all(self) -> None:
        """The streams are closed."""
        for route in (*self._by_peer.values(), *self._by_endpoint.values()):
            route.fail(PeerUnreachable("the streams of this peer are closed"))

    def _past_of(self, key: PeerId | Endpoint) -> _Past:
        past = self._past.setdefault(key, _Past())
        self._past.move_to_end(key)
        if len(self._past) > _PAST_COUNT_MAX:
            self._past.popitem(last=False)
        return past


def choose_kept(old: Connection, new: Connection, this: PeerId) -> tuple[Connection, bool]:
    """Which of two connections to one peer is used, and whether the old one is broken.

    Both ends come to the same answer: it depends only on what both know.
    """
    ours, theirs = old.established, new.established
    if new.contact.endpoint.port == 0:
        # Programs that only ask may share one key: each has its own connection, and nobody calls them back.
        return old, False
    if theirs.instance != ours.instance or theirs.lost == ours.id:
        return new, True
    if ours.dialler != theirs.dialler:
        preferred = min(this, new.peer)
        return (old if ours.dialler == preferred else new), False
    return (old if ours.id < theirs.id else new), False


def _key(contact: Contact) -> PeerId | Endpoint:
    return contact.endpoint if contact.peer is None else contact.peer
