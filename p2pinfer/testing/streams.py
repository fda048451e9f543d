"""Simulated streams: one connection between two hosts, in order each way while it lives.

1. The first message dials, which takes the round trips of TCP and TLS; meanwhile messages wait, and leave by
   their priority, as in the real stream.
2. A crash resets the connection: the other end hears of it one latency later, if the way is open. What was in
   flight is lost.
3. A partition is noticed only by who sends: after `timeout_s` without an acknowledgement that end gives up.
   The other end still holds its half, until it sends into it and is answered with a reset.
4. Nobody at the endpoint, or somebody else: the dial fails, and so does all that waited for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pinfer.effects import Message
from p2pinfer.ids import Contact, PeerId
from p2pinfer.testing.rules import Delay, Drop, Packet

if TYPE_CHECKING:
    from p2pinfer.testing.host import Host
    from p2pinfer.testing.network import Network
    from p2pinfer.testing.world import World

__all__ = ["HANDSHAKE_ROUND_TRIPS", "Connection", "Streams"]

HANDSHAKE_ROUND_TRIPS = 2
"""One for TCP (RFC 9293) and one for TLS 1.3 (RFC 8446)."""
RETRANSMIT_S = 0.2
"""Seconds between two tries to get a segment through; Linux' least retransmission timeout."""
TIMEOUT_S = 5.0
"""Seconds without acknowledgement after which an end gives up; the project's TCP_USER_TIMEOUT."""


class _Lane:
    """One direction of a connection."""

    __slots__ = ("last_arrival", "source", "stalled_since", "target", "waiting")

    def __init__(self, source: Host, target: Host) -> None:
        self.source = source
        self.target = target
        self.waiting: list[Message] = []
        self.last_arrival = 0.0
        self.stalled_since: float | None = None


class Connection:
    """What both ends hold of one stream; each may let go of it without the other knowing."""

    __slots__ = ("dialled", "lanes", "open", "since")

    def __init__(self, dialler: Host, target: Host, dialled: Contact, now: float) -> None:
        self.dialled = dialled
        self.since = now
        self.open = False
        self.lanes = {dialler.name: _Lane(dialler, target), target.name: _Lane(target, dialler)}


class Streams:
    """All connections of a world.

    Attributes:
        timeout_s: How long an end sends again before it gives up.
    """

    def __init__(self, world: World, network: Network) -> None:
        self.timeout_s = TIMEOUT_S
        self._world = world
        self._network = network
        self._ends: dict[str, dict[str, Connection]] = {}
        self._refusing: set[tuple[str, Contact]] = set()

    def connected(self, source: str, target: str) -> bool:
        """Whether `source` holds an open connection to `target`; the other end may know better."""
        connection = self._ends.get(source, {}).get(target)
        return connection is not None and connection.open

    def send(self, source: Host, to: Contact, target: Host | None, message: Message) -> None:
        """Send over the connection there is, or dial."""
        world = self._world
        if target is None or (to.peer is not None and to.peer != target.contact.peer):
            self._refuse(source, to, message)
            return
        if target is source:
            world.push(world.now, target.hear, (source.contact, message))
            return
        connection = self._ends.setdefault(source.name, {}).get(target.name)
        if connection is None:
            connection = Connection(source, target, to, world.now)
            self._ends[source.name][target.name] = connection
            world.push(
                world.now + self._round_trip_s(source, target), self._knock, (connection, source, target)
            )
        lane = connection.lanes[source.name]
        if not connection.open or lane.waiting:
            lane.waiting.append(message)
        else:
            self._transmit(connection, lane, message)

    def disconnect(self, host: Host, peer: PeerId) -> None:
        """Close the connection to a peer in order: the other end hears of it after what was sent."""
        for name, connection in list(self._ends.get(host.name, {}).items()):
            other = connection.lanes[host.name].target
            if other.contact.peer == peer:
                del self._ends[host.name][name]
                self._reset(connection, host, other, not_before=connection.lanes[host.name].last_arrival)

    def crashed(self, host: Host) -> None:
        """Let go of all that a host held."""
        for connection in self._ends.pop(host.name, {}).values():
            if connection.open:
                self._reset(connection, host, connection.lanes[host.name].target)

    # --- dialling ---

    def _refuse(self, source: Host, to: Contact, message: Message) -> None:
        """Fail a dial that finds nobody, or somebody else; one word for all messages that waited."""
        self._network.count("nobody", source.name, message)
        key = (source.name, to)
        if key not in self._refusing:
            self._refusing.add(key)
            latency, rng = self._network.link.latency, self._network.path(source.name, "nobody").rng
            at = self._world.now + latency.draw(rng) + latency.draw(rng)
            self._world.push(at, self._refused, (key, source, source.life))

    def _refused(self, key: tuple[str, Contact], source: Host, life: int) -> None:
        self._refusing.discard(key)
        if life == source.life:
            self._trace(source, "refused", key[1])
            source.lose_stream(key[1])

    def _round_trip_s(self, source: Host, target: Host) -> float:
        latency_s = self._network.latency_s
        return latency_s(source.name, target.name) + latency_s(target.name, source.name)

    def _knock(self, connection: Connection, source: Host, target: Host) -> None:
        """End the first round trip: refused, silent, or on to the second."""
        if self._end(source, target) is not connection:
            return
        if self._cut_either_way(source, target):
            self._knock_again(connection, source, target)
        elif not target.up:
            self._trace(source, "refused", connection.dialled)
            self._let_go(connection, source, target, connection.dialled)
        else:
            at = self._world.now + (HANDSHAKE_ROUND_TRIPS - 1) * self._round_trip_s(source, target)
            self._world.push(at, self._open, (connection, source, target))

    def _knock_again(self, connection: Connection, source: Host, target: Host) -> None:
        end = connection.since + self.timeout_s
        if self._world.now >= end:
            self._let_go(connection, source, target, connection.dialled)
        else:
            at = min(self._world.now + RETRANSMIT_S, end)
            self._world.push(at, self._knock, (connection, source, target))

    def _open(self, connection: Connection, source: Host, target: Host) -> None:
        """End the handshake; the target takes part in it, so a stalled one does not answer."""
        if self._end(source, target) is not connection:
            return
        if not target.up or target.stalled or self._cut_either_way(source, target):
            self._knock_again(connection, source, target)
            return
        connection.open = True
        self._supersede(connection, source, target)
        self._ends.setdefault(target.name, {})[source.name] = connection
        for lane in connection.lanes.values():
            lane.waiting.sort(key=lambda message: message.priority)
            self._flush(connection, lane)

    def _supersede(self, connection: Connection, source: Host, target: Host) -> None:
        """Put the new connection in the place of what the target held of the same two."""
        old = self._end(target, source)
        if old is None:
            return
        if old.open:
            self._let_go(old, target, source, source.contact)
        else:  # both dialled at once: one connection serves both
            connection.lanes[target.name].waiting += old.lanes[target.name].waiting

    # --- messages ---

    def _transmit(self, connection: Connection, lane: _Lane, message: Message) -> bool:
        """Put a message on the wire, or keep it to be sent again; whether it went."""
        network, world = self._network, self._world
        source, target = lane.source, lane.target
        verdict = network.judge(Packet(source.name, target.name, message, world.now))
        if isinstance(verdict, Drop):
            lane.waiting.append(message)
            self._stall(connection, lane)
            return False
        path = network.path(source.name, target.name)
        link = path.link or network.link
        delay_s = network.delay_s(path, link, message)
        if isinstance(verdict, Delay):
            delay_s += verdict.delay_s
        if link.loss:
            while delay_s < self.timeout_s and path.rng.random() < link.loss:
                delay_s += RETRANSMIT_S
        lane.last_arrival = max(world.now + delay_s, lane.last_arrival)
        world.push(lane.last_arrival, self._arrive, (connection, lane, message))
        if network.cut(target.name, source.name):
            self._stall(connection, lane)  # it arrives, but no acknowledgement comes back
        return True

    def _flush(self, connection: Connection, lane: _Lane) -> None:
        waiting, lane.waiting = lane.waiting, []
        for index, message in enumerate(waiting):
            if not self._transmit(connection, lane, message):
                lane.waiting += waiting[index + 1 :]
                return

    def _stall(self, connection: Connection, lane: _Lane) -> None:
        if lane.stalled_since is None:
            lane.stalled_since = self._world.now
            self._world.push(self._world.now + RETRANSMIT_S, self._retry, (connection, lane))

    def _retry(self, connection: Connection, lane: _Lane) -> None:
        """Try to get through again what was not acknowledged, or give up."""
        source, target = lane.source, lane.target
        since = lane.stalled_since
        if since is None or self._end(source, target) is not connection:
            return
        end = since + self.timeout_s
        waited_count = len(lane.waiting)
        self._flush(connection, lane)
        if not self._cut_either_way(source, target) and (
            not waited_count or len(lane.waiting) < waited_count
        ):
            lane.stalled_since = None
            if lane.waiting:
                self._stall(connection, lane)
        elif self._world.now >= end:
            self._let_go(connection, source, target, target.contact)
        else:
            self._world.push(min(self._world.now + RETRANSMIT_S, end), self._retry, (connection, lane))

    def _arrive(self, connection: Connection, lane: _Lane, message: Message) -> None:
        if self._end(lane.target, lane.source) is connection:
            lane.target.hear(lane.source.contact, message)
            return
        self._network.count("reset", lane.target.name, message)
        if self._network.cut(lane.target.name, lane.source.name):
            self._stall(connection, lane)
        else:
            self._reset(connection, lane.target, lane.source)

    # --- ends ---

    def _end(self, host: Host, other: Host) -> Connection | None:
        return self._ends.get(host.name, {}).get(other.name)

    def _cut_either_way(self, one: Host, other: Host) -> bool:
        return self._network.cut(one.name, other.name) or self._network.cut(other.name, one.name)

    def _reset(self, connection: Connection, host: Host, other: Host, *, not_before: float = 0.0) -> None:
        """Tell the other end that this one is gone, if the way is open."""
        if not self._network.cut(host.name, other.name):
            at = max(self._world.now + self._network.latency_s(host.name, other.name), not_before)
            self._world.push(at, self._let_go, (connection, other, host, host.contact))

    def _let_go(self, connection: Connection, host: Host, other: Host, contact: Contact) -> None:
        """End one half, with what waited in it, and tell its core."""
        if self._end(host, other) is connection:
            del self._ends[host.name][other.name]
            for message in connection.lanes[host.name].waiting:
                self._network.count("stream", host.name, message)
            connection.lanes[host.name].waiting.clear()
            self._trace(host, "reset", contact)
            host.lose_stream(contact)

    def _trace(self, host: Host, what: str, contact: Contact) -> None:
        if self._world.trace is not None:
            self._world.trace.line(self._world.now, host.name, what, contact)
