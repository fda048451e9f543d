"""The stream plane: one authenticated connection for each pair of peers, dialled when something is sent.

Rules:

1. `send_nowait` never waits: it writes, queues or refuses. What was queued for a peer that cannot be reached
   is dropped, and `on_disconnect` says so.
2. Where both dial at once, both ends keep the connection that the smaller PeerId dialled, and its dialler
   retires the others: nothing that was queued in them is lost.
3. Whatever a remote end does is a named error, counted, and ends its own connection at most.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import LocalProtocolError, Overloaded, P2PInferError, PeerUnreachable
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime.calls import Handler, Responses
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.connection import Connection, OnMessages, Receiver, Timing
from p2pinfer.runtime.doors import DoorLimits, Doors
from p2pinfer.runtime.handshake import Credentials, Established
from p2pinfer.runtime.routes import Route, Routes, choose_kept
from p2pinfer.runtime.tls import TlsStream

__all__ = ["Streams", "StreamsConfig", "StreamsEvents"]

_CONNECTIONS_PER_PEER_COUNT_MAX = 8
"""Two that dial each other by name and by address at once have four, for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsConfig:
    """Settings of the stream plane."""

    stage_deadline_s: float = 5.0
    """Connecting, and each stage of the handshake. Source: above Linux' first two SYN repeats (1 s, 3 s)."""
    half_open_count_max: int = 128
    """Handshakes under way that others began, in all."""
    half_open_per_host_count_max: int = 32
    """... and from one address: a small office behind one, or a swarm on one machine."""
    connections_count_max: int = 1024
    """Connections open: the usual limit of a process on its open files."""
    outbox_size_bytes_max: int = 32 << 20
    """Waiting bytes for each connection, above which senders are refused or wait."""
    heartbeat_interval_s: float = 5.0
    """Below the 30 s after which home routers may forget a connection."""
    silence_timeout_s: float = 15.0
    """Three heartbeats."""
    retirement_s: float = 10.0
    """How long the other end may take to say goodbye to a connection that is not used any more."""
    redial_first_s: float = 0.05
    """Wait after the first dial that failed; doubled after each further one."""
    redial_max_s: float = 2.0
    closing_s: float = 1.0
    """How long `aclose` tries to get out what is queued."""

    @classmethod
    def for_tests(cls) -> StreamsConfig:
        """Short waits, for the loopback."""
        return cls(stage_deadline_s=2.0, redial_first_s=0.01, redial_max_s=0.05, closing_s=0.5)


def _ignore(contact: Contact) -> None:
    """Take no notice."""


def _take_no_notice(reason: str) -> None:
    """Take no notice."""


async def _drop(contact: Contact, messages: Sequence[Message]) -> None:
    """Take no notice."""


@dataclass(slots=True, kw_only=True)
class StreamsEvents:
    """What the streams tell their owner.

    `on_messages` may wait, which slows that sender down; the others return at once.
    """

    on_messages: OnMessages = _drop
    """What one read gave, in order: at least one message."""
    on_connect: Callable[[Contact], None] = _ignore
    """The first connection to a peer is open."""
    on_disconnect: Callable[[Contact], None] = _ignore
    """A connection ended or could not be opened; what was sent last may be lost."""
    on_refused: Callable[[str], None] = _take_no_notice
    """A connection was not opened: `accept` or `dial`, and the name of the error, as in the counters."""


class Streams:
    """Sends and receives over streams, for as long as `run` runs.

    Args:
        credentials: What this peer proves and how it checks others.
        endpoint: Where others reach us, told to whom we dial; port 0 if we do not listen.
        clock: For the expiry of memberships.
        events: Told what happens.
        config: Limits and waits.
    """

    def __init__(
        self,
        credentials: Credentials,
        endpoint: Endpoint,
        *,
        clock: Clock,
        events: StreamsEvents,
        config: StreamsConfig | None = None,
    ) -> None:
        self.config = config or StreamsConfig()
        self.handlers: dict[type[Message], Handler] = {}
        """Who answers which kind of request; see `calls.Handler`."""
        self.receivers: dict[type[Message], Callable[[Contact, Message], None]] = {}
        """Who takes which kind of message, at once, instead of `events.on_messages`."""
        self._events = events
        self._self = credentials.identity.peer_id
        self._counts: Counter[str] = Counter()
        limits = DoorLimits(
            stage_deadline_s=self.config.stage_deadline_s,
            half_open_count_max=self.config.half_open_count_max,
            half_open_per_host_count_max=self.config.half_open_per_host_count_max,
        )
        self._doors = Doors(credentials, endpoint, clock=clock, limits=limits, on_refused=self._on_refused)
        self.set_endpoint = self._doors.set_endpoint
        """Others reach us elsewhere from now on; open connections stay."""
        self._routes = Routes(first_s=self.config.redial_first_s, last_s=self.config.redial_max_s)
        self._receiver = Receiver(self._on_messages, self._on_leaving, self.handlers, credentials.verifier)
        self._open: set[Connection] = set()
        self._held: set[Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._is_closing = False

    async def run(
        self,
        listeners: Sequence[socket.socket] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept, dial and carry messages until cancelled or closed; closes the listeners."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for listener in listeners:
                    nursery.start_soon(self._accept_all, listener)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._is_closing = True
            self._nursery = None
            for listener in listeners:
                listener.close()
            self._routes.fail_all()

    def send_nowait(self, contact: Contact, message: Message, *, hold: bool = False) -> bool:
        """Send a message, dialling first where that is needed; False (and counted) where there is no room.

        Args:
            contact: To whom. With `peer` None, whoever of the swarm answers at the endpoint.
            message: What to send.
            hold: Wait for `flush`, so that several small messages go in one write.
        """
        route = self._routes.find(contact)
        connection = route.connection if route is not None else None
        if connection is None:
            taken = self._queue(contact, message)
        else:
            taken = connection.send_nowait(message, hold=hold)
            if hold:
                self._held.add(connection)
        if not taken:
            self._counts["dropped: no room"] += 1
        return taken

    def flush(self) -> None:
        """Write what was held."""
        if self._held:
            held, self._held = self._held, set()
            for connection in held:
                connection.flush()

    async def send(self, contact: Contact, message: Message) -> None:
        """Send a message, waiting for the connection and for room in its outbox.

        Raises:
            PeerUnreachable: The peer could not be reached.
            RemoteProtocolError: A kind of it: who answered is not who should, or refused us.
        """
        await (await self._connection(contact)).send(message)

    async def connect(self, contact: Contact) -> Contact:
        """Have a connection; returns who is at its other end.

        Raises:
            PeerUnreachable: The peer could not be reached.
            RemoteProtocolError: A kind of it: who answered is not who should, or refused us.
        """
        return (await self._connection(contact)).contact

    @asynccontextmanager
    async def call(self, contact: Contact, request: Message) -> AsyncIterator[Responses]:
        """Ask, and iterate over the answers; leaving the block early cancels the call at the other peer.

        Raises:
            P2PInferError: From here, where the call could not be made; from the iteration, what ended it.
        """
        connection = await self._connection(contact)
        if connection.calls is None:
            raise LocalProtocolError("a connection is used before it runs")
        async with connection.calls.open(request) as responses:
            yield responses

    def disconnect(self, peer: PeerId) -> None:
        """Say goodbye to a peer, once what is queued was sent. It is dialled again when something is sent."""
        connection = self._routes.detach(peer)
        if connection is not None:
            connection.retire()

    def is_connected(self, peer: PeerId) -> bool:
        """Whether a connection to the peer is open."""
        route = self._routes.find_peer(peer)
        return route is not None and route.connection is not None

    def statistics(self) -> dict[str, int]:
        """Counters since the start, errors by name, and what is open now; a copy."""
        waiting = sum(connection.waiting_bytes for connection in self._open)
        return {**self._counts, "connections": len(self._open), "waiting_bytes": waiting}

    async def aclose(self) -> None:
        """Say goodbye everywhere, give it a moment to get out, and end `run`."""
        self._is_closing = True
        with trio.move_on_after(self.config.closing_s):
            async with trio.open_nursery() as nursery:
                for connection in tuple(self._open):
                    connection.retire()
                    nursery.start_soon(connection.ended.wait)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _queue(self, contact: Contact, message: Message) -> bool:
        if contact.peer == self._self or self._is_closing:
            return False
        route = self._route_to(contact)
        return route is not None and route.queue(message, self.config.outbox_size_bytes_max)

    async def _connection(self, contact: Contact) -> Connection:
        route = self._routes.find(contact)
        if route is not None and route.connection is not None:
            return route.connection
        if contact.peer == self._self:
            raise LocalProtocolError("a peer does not dial itself")
        route = self._route_to(contact)
        if route is None:
            raise PeerUnreachable(f"{contact} is not dialled: the streams are closed, or too many are open")
        return await route.connected()

    def _route_to(self, contact: Contact) -> Route | None:
        """The route to a contact, with somebody dialling; None while closing or where there are too many."""
        if (
            self._nursery is None
            or self._is_closing
            or len(self._routes) >= self.config.connections_count_max
        ):
            return None
        route = self._routes.get(contact)
        if route.connection is None and not route.is_dialling:
            route.is_dialling = True
            self._nursery.start_soon(self._dial, route)
        return route

    async def _dial(self, route: Route) -> None:
        await trio.sleep_until(self._routes.dial_not_before(route))
        try:
            tls, established = await self._doors.dial(route.contact, self._routes.lost_with(route))
        except P2PInferError as error:
            self._on_refused(f"dial: {type(error).__name__}")
            route.is_dialling = False
            if route.connection is None:
                self._routes.fail(route, error)
                self._events.on_disconnect(route.contact)
            return
        route.is_dialling = False
        await self._carry(tls, established, route)

    async def _accept_all(self, listener: socket.socket) -> None:
        async with trio.open_nursery() as nursery:
            await self._doors.accept_all(listener, lambda sock: nursery.start_soon(self._welcome, sock))

    async def _welcome(self, sock: socket.socket) -> None:
        if len(self._open) >= self.config.connections_count_max:
            self._on_refused("accept: too many connections")
            sock.close()
            return
        found = await self._doors.welcome(sock)
        if found is not None:
            await self._carry(*found, None)

    async def _carry(self, tls: TlsStream, established: Established, dialled: Route | None) -> None:
        """Run a connection that was just opened, to its end."""
        config = self.config
        connection = Connection(
            tls,
            established,
            receiver=self._receiver,
            outbox_size_bytes_max=config.outbox_size_bytes_max,
            timing=Timing(
                heartbeat_interval_s=config.heartbeat_interval_s,
                silence_timeout_s=config.silence_timeout_s,
                retirement_s=config.retirement_s,
            ),
        )
        self._open.add(connection)
        self._counts["connections opened"] += 1
        try:
            await connection.run(lambda: self._adopt(connection, dialled))
        finally:
            self._open.discard(connection)
            self._held.discard(connection)
            self._on_end(connection)

    def _adopt(self, connection: Connection, dialled: Route | None) -> None:
        """Give a new connection its place, beside or instead of an older one to the same peer."""
        if sum(each.peer == connection.peer for each in self._open) > _CONNECTIONS_PER_PEER_COUNT_MAX:
            connection.end(Overloaded(f"{connection.contact} opens one connection after the other"))
            return
        route = self._routes.of_connection(connection, dialled)
        old = route.connection
        if old is None:
            route.adopt(connection)
            self._events.on_connect(connection.contact)
        else:
            self._adopt_second(route, old, connection)
        if dialled is not None and dialled is not route and route.connection is not None:
            dialled.adopt(route.connection)  # it was opened for an endpoint whose peer we knew already

    def _adopt_second(self, route: Route, old: Connection, new: Connection) -> None:
        kept, is_old_broken = choose_kept(old, new, self._self)
        if is_old_broken:
            route.adopt(new)
            old.end(PeerUnreachable(f"{old.contact} opened a new connection, having lost this one"))
            self._events.on_disconnect(old.contact)
            self._events.on_connect(new.contact)
            return
        if kept is new:
            route.adopt(new)
        # Only the dialler of the kept one retires the other: a listener has a connection before its dialler,
        # so it could say goodbye to the only one that the other end knows of yet.
        if kept.established.dialler == self._self:
            for each in self._usable(kept.peer):
                if each is not kept:
                    each.retire()

    def _usable(self, peer: PeerId) -> list[Connection]:
        """The connections to a peer that were not retired yet."""
        return [each for each in self._open if each.peer == peer and each.is_usable]

    def _on_refused(self, reason: str) -> None:
        self._counts[reason] += 1
        self._events.on_refused(reason)

    async def _on_messages(self, contact: Contact, messages: Sequence[Message]) -> None:
        if self.receivers:
            messages = [message for message in messages if not self._was_received(contact, message)]
        if messages:
            await self._events.on_messages(contact, messages)

    def _was_received(self, contact: Contact, message: Message) -> bool:
        receive = self.receivers.get(type(message))
        if receive is not None:
            receive(contact, message)
        return receive is not None

    def _on_leaving(self, connection: Connection) -> None:
        """A connection takes no more messages."""
        route = self._routes.find_peer(connection.peer)
        if route is not None and route.connection is connection:
            self._routes.detach(connection.peer)

    def _on_end(self, connection: Connection) -> None:
        error = connection.error
        self._counts[f"ended: {type(error).__name__ if error else 'goodbye'}"] += 1
        if error is not None:
            self._routes.remember_lost(connection)
        was_alone = not self.is_connected(connection.peer)
        if not self._is_closing and (was_alone or (connection.is_retiring and error is not None)):
            self._events.on_disconnect(connection.contact)
        for spare in self._usable(connection.peer)[:1] if was_alone else ():
            self._routes.of_connection(spare, None).adopt(spare)
            self._events.on_connect(spare.contact)
