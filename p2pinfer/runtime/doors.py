"""Where streams begin: dialling and accepting, TLS and handshake, with a limit on every wait and number."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2pinfer.errors import P2PInferError, PeerUnreachable
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.handshake import Credentials, Established, Greeter
from p2pinfer.runtime.sockets import split_address
from p2pinfer.runtime.tls import TlsStream, make_tls_contexts

__all__ = ["DoorLimits", "Doors"]

_ACCEPT_PAUSE_S = 0.1
"""Wait after the system has no more file descriptors: some will be closed meanwhile."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """See `StreamsConfig`."""

    stage_deadline_s: float
    half_open_count_max: int
    half_open_per_host_count_max: int


class Doors:
    """Opens connections in either direction.

    Args:
        credentials: What this peer proves and how it checks others.
        endpoint: Where others reach us.
        clock: For the expiry of memberships.
        limits: Deadlines and numbers.
        on_refused: Told the reason, in few words, of each connection that was not accepted.
    """

    def __init__(
        self,
        credentials: Credentials,
        endpoint: Endpoint,
        *,
        clock: Clock,
        limits: DoorLimits,
        on_refused: Callable[[str], None],
    ) -> None:
        self._contexts = make_tls_contexts()
        self._greeter = Greeter(
            credentials, endpoint, self._contexts.binding, deadline_s=limits.stage_deadline_s
        )
        self._clock = clock
        self._limits = limits
        self._on_refused = on_refused
        self._half_open: Counter[str] = Counter()

    def set_endpoint(self, endpoint: Endpoint) -> None:
        """Others reach us there from now on."""
        self._greeter.set_endpoint(endpoint)

    async def dial(self, contact: Contact, lost: bytes) -> tuple[TlsStream, Established]:
        """Open a connection to a contact.

        Raises:
            PeerUnreachable: Nobody answers there.
            RemoteProtocolError: A kind of it: who answered is not who should, or refused us.
        """
        sock = await self._connect(contact.endpoint)
        tls = TlsStream(sock, self._contexts.client, server_side=False)
        try:
            established = await self._greeter.dial(
                tls, contact.endpoint, self._clock.now(), expected=contact.peer, lost=lost
            )
        except BaseException:
            tls.close()
            raise
        return tls, established

    async def accept_all(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        """Accept until cancelled; each socket taken must be given to `welcome`."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # it was gone before we came
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error.strerror)
                self._on_refused("accept: failed")
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            host = split_address(address).host
            if self._half_open.total() >= self._limits.half_open_count_max:
                self._refuse(sock, "accept: too many half-open")
            elif self._half_open[host] >= self._limits.half_open_per_host_count_max:
                self._refuse(sock, "accept: too many half-open from one host")
            else:
                take(sock)

    async def welcome(self, sock: socket.socket) -> tuple[TlsStream, Established] | None:
        """Run the handshake with whoever dialled us; None (and counted) where it failed."""
        try:
            source = split_address(sock.getpeername())
        except OSError:
            self._refuse(sock, "accept: PeerUnreachable")
            return None
        self._half_open[source.host] += 1
        tls = TlsStream(sock, self._contexts.server, server_side=True)
        try:
            return tls, await self._greeter.listen(tls, source, self._clock.now())
        except P2PInferError as error:
            self._on_refused(f"accept: {type(error).__name__}")
            _log.info("refused a stream from %s: %s", source, error)
            tls.close()
            return None
        except BaseException:
            tls.close()
            raise
        finally:
            self._half_open[source.host] -= 1
            if not self._half_open[source.host]:
                del self._half_open[source.host]

    async def _connect(self, endpoint: Endpoint) -> socket.socket:
        try:
            with trio.fail_after(self._limits.stage_deadline_s):
                stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except trio.TooSlowError as error:
            raise PeerUnreachable(f"{endpoint} does not answer; check the address and firewalls") from error
        except (OSError, ValueError) as error:
            raise PeerUnreachable(f"{endpoint} cannot be reached: {_reason_of(error)}") from error
        return socket.socket(fileno=stream.socket.detach())

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self._on_refused(reason)
        sock.close()


def _reason_of(error: BaseException) -> str:
    """What the system said; trio puts one attempt's error behind its own, and several into a group."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return getattr(cause, "strerror", None) or str(error)
