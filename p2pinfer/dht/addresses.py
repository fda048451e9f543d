"""What an address tells: how far it can be reached, and which operator it likely belongs to.

Whoever rents one small network block can fill a table with contacts (eclipse). So contacts of one /24 (IPv4)
or /48 (IPv6) are few in a bucket and in the table, as in discv5 and go-libp2p. Loopback and private addresses
are exempt by default: a whole honest swarm stands in one such block, and nobody can send from one across the
world.
"""

from __future__ import annotations

import enum
import functools
import ipaddress

from p2pinfer.ids import Contact, PeerId
from p2pinfer.puzzle import fits

__all__ = ["Reach", "counted_group", "network_group", "plausible", "reach"]


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


class Reach(enum.IntEnum):
    """From how far away an address can be used; the lowest number is the nearest."""

    NOWHERE = 0
    """No unicast address, or none that can be read."""
    LOOPBACK = 1
    PRIVATE = 2
    GLOBAL = 3


@functools.lru_cache(maxsize=4096)
def reach(host: str) -> Reach:
    """How far `host`, an IP address as text, can be reached; host names reach nowhere."""
    try:
        address = _address(host)
    except ValueError:
        return Reach.NOWHERE
    if address.is_unspecified or address.is_multicast:
        return Reach.NOWHERE
    if isinstance(address, ipaddress.IPv4Address) and (address.is_reserved or address in _THIS_NETWORK):
        return Reach.NOWHERE
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PRIVATE if address.is_private or address.is_link_local else Reach.GLOBAL


@functools.lru_cache(maxsize=4096)
def network_group(host: str) -> str:
    """The /24 (IPv4) or /48 (IPv6) that `host` lies in, as text; the host itself where it is no address."""
    try:
        address = _address(host)
    except ValueError:
        return host
    bits = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, bits), strict=False))


def counted_group(host: str, *, private_exempt: bool) -> str | None:
    """The network block that limits count `host` in; None where it is exempt, as a private one may be."""
    return None if private_exempt and reach(host) is not Reach.GLOBAL else network_group(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; an IPv4 one in IPv6's clothes is the IPv4 one, or it would count as private."""
    address = ipaddress.ip_address(host)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def plausible(told: Contact, teller_reach: Reach, own: PeerId, difficulty: int = 0) -> bool:
    """Whether a contact may be used that a peer told us of, who is itself reached from `teller_reach`.

    A private address is believed only from a peer that is itself at a private one: told by a stranger across
    the world it means nothing here, or points at a printer in our own network. An id without the work that
    the swarm asks for (`difficulty`) is nobody's: S/Kademlia checks its puzzle for every id heard of.
    """
    if told.peer is None or told.peer == own or not 1 <= told.endpoint.port <= 65535:
        return False
    how_far = reach(told.endpoint.host)
    return how_far is not Reach.NOWHERE and how_far >= teller_reach and fits(told.peer, difficulty)
