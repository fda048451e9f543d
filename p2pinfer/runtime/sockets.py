"""The sockets that a peer listens on: one port number for datagrams and streams alike."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from p2pinfer.errors import ConfigError
from p2pinfer.ids import Endpoint

__all__ = ["Sockets", "open_sockets", "split_address"]

_BACKLOG_COUNT = 128
_DATAGRAM_BUFFER_SIZE_BYTES = 1 << 20
"""About 700 full datagrams: rides out a pause of the loop of some tens of milliseconds at full gossip."""
_PORT_TRIES_COUNT = 16


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound, non-blocking sockets, one pair for each address family in use."""

    endpoint: Endpoint
    """The host asked for and the port really bound."""
    listeners: tuple[socket.socket, ...]
    datagrams: tuple[socket.socket, ...]

    def close(self) -> None:
        """Close them all."""
        for sock in (*self.listeners, *self.datagrams):
            sock.close()


def open_sockets(endpoint: Endpoint) -> Sockets:
    """Bind UDP and TCP on one port of one host; port 0 takes a free one.

    Raises:
        ConfigError: The host is no address of this machine, or the port is taken.
    """
    for attempt in range(_PORT_TRIES_COUNT):
        try:
            return _open_once(endpoint)
        except OSError as error:
            # A free TCP port may be taken for UDP; with port 0 the next try draws another.
            if endpoint.port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _PORT_TRIES_COUNT:
                continue
            raise ConfigError(
                f"cannot listen on {endpoint}: {error.strerror}; "
                "choose an address of this machine and a free port"
            ) from error
    raise ConfigError(f"cannot listen on {endpoint}: no port was free")


def split_address(address: tuple[object, ...]) -> Endpoint:
    """Turn the address that the socket module gives, of either family, into an endpoint."""
    host, port = address[0], address[1]
    return Endpoint(str(host).partition("%")[0].removeprefix("::ffff:"), int(str(port)))


def _open_once(endpoint: Endpoint) -> Sockets:
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listener = _opened(opened, family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG_COUNT)
        port: int = listener.getsockname()[1]
        datagram = _opened(opened, family, socket.SOCK_DGRAM)
        datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DATAGRAM_BUFFER_SIZE_BYTES)
        datagram.bind((address[0], port, *address[2:]))
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return Sockets(Endpoint(endpoint.host, port), (listener,), (datagram,))


def _opened(opened: list[socket.socket], family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    opened.append(sock)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        # "::" serves both families, where the system lets one socket do that.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock
