"""The datagram plane: UDP, every datagram a signed envelope.

Rules:

1. Sending never waits: what the socket does not take is dropped and counted, as any network may do.
2. Receiving takes a bounded number of datagrams before other tasks get a turn, cheapest checks first: a
   flood costs its share of one core, not the loop.
3. What is refused is counted by the name of its error. A member that seals with a key that we lack, or does
   not seal, is told apart from whoever is no member: the log says so of each, once in a while.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from p2pinfer.effects import Message, Plane
from p2pinfer.errors import (
    CertificateError,
    LocalProtocolError,
    RemoteProtocolError,
    SealError,
    SignatureError,
    UnknownKey,
    Unsealed,
)
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.sockets import split_address
from p2pinfer.wire.envelope import DATAGRAM_SIZE_BYTES_MAX, Envelopes
from p2pinfer.wire.messages.keyring import Keyring

__all__ = ["Datagrams", "OnDatagram", "OnUnopened"]

_TURN_COUNT_MAX = 64
"""Datagrams for each turn: as garbage they cost some 0.3 ms."""
_TURN_S = 0.001
"""... and no new one after this long: a forged one costs 60 to 100 us, for its signature, and a good one also
what the core does with it, which happens within this turn where the core had nothing else to do."""
_NAMES_COUNT_MAX = 256
"""Host names remembered; peers advertise addresses, so only what people typed is a name."""
_LOG_INTERVAL_S = 60.0
"""Between two lines of the log on one kind of refusal: a flood must not fill the disk."""

_log = logging.getLogger(__name__)

OnDatagram = Callable[[Contact, Message], bool]
"""Takes an authenticated message at once; False where there is no room for it."""
OnUnopened = Callable[[Contact], None]
"""Told of a member whose datagram did not open."""


def _ignore(sender: Contact) -> None:
    """Take no notice."""


class Datagrams:
    """Sends and receives datagrams over bound sockets, for as long as `run` runs.

    Args:
        sockets: Bound and non-blocking; closed when `run` ends.
        envelopes: Signs and checks.
        clock: Dates what is sent.
        on_message: Given each message with its sender, at the address that it came from.
        on_unopened: Told of the sender of each that is sealed in another way than we can open.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        envelopes: Envelopes,
        clock: Clock,
        on_message: OnDatagram,
        on_unopened: OnUnopened = _ignore,
    ) -> None:
        self._sockets = tuple(sockets)
        # For each family the sockets of it first: one of the other family may serve both.
        self._sockets_v4 = sorted(sockets, key=lambda sock: sock.family != socket.AF_INET)
        self._sockets_v6 = sorted(sockets, key=lambda sock: sock.family != socket.AF_INET6)
        self._envelopes = envelopes
        self._clock = clock
        self._on_message = on_message
        self._on_unopened = on_unopened
        self._log_after: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._addresses: dict[str, str] = {}
        self._names_wanted: dict[str, tuple[Endpoint, bytes]] = {}
        self._name_wanted = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for sock in self._sockets:
                    nursery.start_soon(self._receive_all, sock)
                nursery.start_soon(self._look_up_names)
                task_status.started()
        finally:
            for sock in self._sockets:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    def send_nowait(self, to: Contact, message: Message) -> bool:
        """Send a message; False (and counted) where it was dropped. Whether it arrives is not known."""
        if message.PLANE is not Plane.DATAGRAM:
            raise LocalProtocolError(f"{type(message).__name__} does not travel as a datagram")
        data = self._envelopes.seal(message, self._clock.now(), to.peer)
        address = self._addresses.get(to.endpoint.host) or self._address_of(to.endpoint, data)
        return address is not None and self._send(data, address, to.endpoint.port)

    def use_keyring(self, keyring: Keyring) -> None:
        """Seal and open with these keys from now on."""
        self._envelopes.use_keyring(keyring)

    def statistics(self) -> dict[str, int]:
        """Counters since the start: sent, received, and what was dropped by reason; a copy."""
        return dict(self._counts)

    def _send(self, data: bytes, host: str, port: int) -> bool:
        try:
            self._socket_for(host).sendto(data, (host, port))
        except BlockingIOError:
            self._counts["dropped: full"] += 1
            return False
        except OSError:
            # No route, network down, port 0, ...: to the protocols that is one more loss.
            self._counts["dropped: unreachable"] += 1
            return False
        self._counts["sent"] += 1
        return True

    def _socket_for(self, host: str) -> socket.socket:
        return self._sockets_v6[0] if ":" in host else self._sockets_v4[0]

    async def _receive_all(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            began = now = self._clock.now()
            for _ in range(_TURN_COUNT_MAX):
                if now - began > _TURN_S:
                    break
                try:
                    # One byte more than allowed, so that a cut datagram is seen to be too long.
                    data, address = sock.recvfrom(DATAGRAM_SIZE_BYTES_MAX + 1)
                except BlockingIOError:
                    break
                except OSError:
                    # An ICMP error of something sent earlier is reported here; the socket is still good.
                    self._counts["refused by the other end"] += 1
                    continue
                self._take(data, address, now)
                now = self._clock.now()

    def _take(self, data: bytes, address: tuple[object, ...], now: float) -> None:
        self._counts["received"] += 1
        try:
            opened = self._envelopes.open(data, now)
        except RemoteProtocolError as error:
            self._refuse(error, address, now)
            return
        if opened.message.PLANE is not Plane.DATAGRAM:
            self._counts["dropped: wrong plane"] += 1
            return
        if not self._on_message(Contact(opened.sender, split_address(address)), opened.message):
            self._counts["dropped: inbox full"] += 1

    def _refuse(self, error: RemoteProtocolError, address: tuple[object, ...], now: float) -> None:
        kind = type(error).__name__
        self._counts[f"dropped: {kind}"] += 1
        is_noteworthy = isinstance(error, SealError | SignatureError | CertificateError)
        if is_noteworthy and now >= self._log_after.get(kind, now):
            self._log_after[kind] = now + _LOG_INTERVAL_S
            if isinstance(error, UnknownKey | Unsealed):
                _log.info("%s; the keyrings are compared with it", error)  # as when a peer joins
            else:
                _log.warning("refused a datagram from %s: %s", split_address(address), error)
        if isinstance(error, SealError) and error.sender is not None:
            self._on_unopened(Contact(error.sender, split_address(address)))

    def _address_of(self, endpoint: Endpoint, data: bytes) -> str | None:
        """The numeric address of a host; None while a name is being looked up, which would wait."""
        host = endpoint.host
        try:
            address = str(ipaddress.ip_address(host))
        except ValueError:
            if len(self._names_wanted) < _NAMES_COUNT_MAX:
                self._names_wanted[host] = (endpoint, data)
                self._name_wanted.set()
            return None
        self._remember(host, address)
        return address

    def _remember(self, host: str, address: str) -> None:
        if self._sockets[0].family == socket.AF_INET6 and ":" not in address:
            address = f"::ffff:{address}"
        if len(self._addresses) >= 4 * _NAMES_COUNT_MAX:
            self._addresses.clear()
        self._addresses[host] = address

    async def _look_up_names(self) -> None:
        while True:
            await self._name_wanted.wait()
            self._name_wanted = trio.Event()
            while self._names_wanted:
                host, (endpoint, data) = self._names_wanted.popitem()
                try:
                    found = await trio.socket.getaddrinfo(host, endpoint.port, type=socket.SOCK_DGRAM)
                except OSError:
                    self._counts["dropped: unknown host"] += 1
                    continue
                self._remember(host, str(found[0][4][0]))
                self._send(data, self._addresses[host], endpoint.port)
