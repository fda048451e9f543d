"""The links that announcements go out on and come in from: sockets in one multicast group of each family.

Rules:

1. Nothing leaves the local network: the groups are of link or site scope, and the TTL is 1.
2. A node that listens on one address uses that address' link, and one that listens on the loopback stays
   there; one that listens everywhere uses every link, the loopback too, for its neighbours on this machine.
3. Several processes share the port: a datagram to a group reaches them all.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
import sys
from dataclasses import dataclass

__all__ = ["GROUP_V4", "GROUP_V6", "PORT", "Links"]

_log = logging.getLogger(__name__)

GROUP_V4 = "239.255.79.46"
"""Administratively scoped, for one site (RFC 2365, section 6.1)."""
GROUP_V6 = "ff12::7032:7069:6e66"
"""Of link scope, and not assigned by anybody for ever (RFC 4291, section 2.7)."""
PORT = 7947
"""Beside the port that nodes listen on."""
_LINKS_COUNT_MAX = 16
"""Links used: hosts of containers have hundreds."""
_LOOPBACK_NAMES = ("lo", "lo0")
_MULTICAST_ALL_V4, _MULTICAST_ALL_V6 = 49, 29
"""Linux' IP_MULTICAST_ALL and IPV6_MULTICAST_ALL, which Python does not name."""
_BUFFER_SIZE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Link:
    """One interface as it was when looked at: by its index, or by an address of it."""

    index: int
    address: str = ""

    @property
    def request_v4(self) -> bytes:
        """As `struct ip_mreqn` has it, after the group."""
        address = socket.inet_aton(self.address) if self.address else bytes(4)
        return address + struct.pack("=i", self.index)


class Links:
    """Sockets for all links, as the machine has them now; where a family or link does not work, without it.

    Args:
        hosts: The numeric addresses that the node listens on.
        port: The groups' port.
    """

    def __init__(self, hosts: tuple[str, ...], *, port: int = PORT) -> None:
        self._hosts = hosts
        self._port = port
        self._seen = _interfaces()
        self._links: dict[int, tuple[_Link, ...]] = {
            socket.AF_INET: _links_v4(hosts, self._seen),
            socket.AF_INET6: _links_v6(hosts, self._seen),
        }
        self._senders: dict[int, socket.socket] = {}
        self.receivers: list[socket.socket] = []
        """Bound and non-blocking, one for each family in use."""
        self._not_joined: list[tuple[socket.socket, int, _Link]] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            if self._links[family]:
                self._open(family)
        self.join()

    @property
    def are_current(self) -> bool:
        """Whether the machine still has the links that it had when this was made."""
        return _interfaces() == self._seen

    def join(self) -> None:
        """Join the group on links where that has not worked yet: they may have had no address then."""
        self._not_joined = [each for each in self._not_joined if not _join(*each)]

    def send(self, data: bytes) -> int:
        """Send to the group on every link; returns on how many it went out."""
        return sum(
            self._send_on(sender, family, link, data)
            for family, sender in self._senders.items()
            for link in self._links[family]
        )

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self.receivers, *self._senders.values()):
            sock.close()

    def _open(self, family: int) -> None:
        opened: list[socket.socket] = []
        try:
            opened.append(receiver := socket.socket(family, socket.SOCK_DGRAM))
            opened.append(sender := socket.socket(family, socket.SOCK_DGRAM))
            self._prepare(receiver, sender, family)
        except OSError as error:
            _log.debug("no multicast for family %s: %s", family, error)
            for sock in opened:
                sock.close()
            return
        self.receivers.append(receiver)
        self._senders[family] = sender
        self._not_joined += [(receiver, family, link) for link in self._links[family]]

    def _prepare(self, receiver: socket.socket, sender: socket.socket, family: int) -> None:
        """Set both sockets up.

        Raises:
            OSError: The family does not work.
        """
        for sock in (receiver, sender):
            sock.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform not in ("linux", "win32"):  # on Linux that would exclude processes of other users
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_SIZE_BYTES)
        if family == socket.AF_INET:
            if sys.platform == "linux":  # else what others of this machine joined comes here as well
                receiver.setsockopt(socket.IPPROTO_IP, _MULTICAST_ALL_V4, 0)
            receiver.bind(("" if sys.platform == "win32" else GROUP_V4, self._port))
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if sys.platform == "linux":
                receiver.setsockopt(socket.IPPROTO_IPV6, _MULTICAST_ALL_V6, 0)
            receiver.bind(("::", self._port))
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)

    def _send_on(self, sender: socket.socket, family: int, link: _Link, data: bytes) -> bool:
        try:
            if family == socket.AF_INET:
                option = bytes(4) + link.request_v4
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, option)
                sender.sendto(data, (GROUP_V4, self._port))
            else:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link.index)
                sender.sendto(data, (GROUP_V6, self._port, 0, link.index))
        except OSError:  # down, without an address, or gone since: the next one may come back
            return False
        return True


def _join(receiver: socket.socket, family: int, link: _Link) -> bool:
    try:
        if family == socket.AF_INET:
            request = socket.inet_aton(GROUP_V4) + link.request_v4
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            request = socket.inet_pton(socket.AF_INET6, GROUP_V6) + struct.pack("=I", link.index)
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    except OSError:  # it does no multicast, or is gone
        return False
    return True


def _interfaces() -> tuple[tuple[int, str], ...]:
    """The machine's interfaces by index and name, in order; none where the system does not tell."""
    try:
        return tuple(sorted(socket.if_nameindex())[:_LINKS_COUNT_MAX])
    except OSError:
        return ()


def _links_v4(hosts: tuple[str, ...], interfaces: tuple[tuple[int, str], ...]) -> tuple[_Link, ...]:
    if any(host in ("0.0.0.0", "::") for host in hosts):
        outside = [_Link(index) for index, name in interfaces if name not in _LOOPBACK_NAMES]
        return (_Link(0, "127.0.0.1"), *outside)
    addresses = [host for host in hosts if ":" not in host]
    # All of 127.0.0.0/8 is one link, and only its first address is an interface's own.
    return tuple(
        _Link(0, "127.0.0.1" if ipaddress.ip_address(each).is_loopback else each) for each in addresses
    )


def _links_v6(hosts: tuple[str, ...], interfaces: tuple[tuple[int, str], ...]) -> tuple[_Link, ...]:
    """Which interface has an IPv6 address the system does not tell: the loopback, or all others."""
    hosts = tuple(host for host in hosts if ":" in host)
    if not hosts:
        return ()
    stays_here = all(ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts)
    may_stay = stays_here or "::" in hosts
    return tuple(
        _Link(index)
        for index, name in interfaces
        if (may_stay if name in _LOOPBACK_NAMES else not stays_here)
    )
