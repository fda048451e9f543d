"""Which address a node tells others, where nobody set one.

Only the system's routing table is asked: nothing is sent, neither here nor outside.
"""

from __future__ import annotations

import ipaddress
import logging
import socket

from p2pinfer.config import ANY_HOSTS, NodeConfig
from p2pinfer.ids import Endpoint

__all__ = ["advertised_endpoint", "is_numeric", "is_own_host", "outbound_host"]

_logger = logging.getLogger(__name__)


def advertised_endpoint(config: NodeConfig, port: int) -> Endpoint:
    """Return where other peers reach a node that listens on `port`.

    Where nothing was set and every interface is listened on, it is the address that this machine uses towards
    the internet. The system is only asked for its route: nothing is sent.
    """
    wanted = config.advertise or config.listen
    if wanted.host not in ANY_HOSTS:
        return Endpoint(wanted.host, wanted.port or port)
    host = outbound_host(wanted.host)
    if host is None:
        host = "127.0.0.1" if wanted.host == "0.0.0.0" else "::1"
        _logger.warning(
            "this machine has no route outwards, so other machines cannot join at %s: set --advertise", host
        )
    return Endpoint(host, port)


def outbound_host(any_host: str) -> str | None:
    """Return the address of the interface with the default route; None where there is none.

    Connecting a UDP socket sends nothing. The addresses are the ones for documentation (RFC 5737, RFC 3849),
    so that not even a mistake here would reach anybody.
    """
    family, nobody = (
        (socket.AF_INET, "192.0.2.1") if any_host == "0.0.0.0" else (socket.AF_INET6, "2001:db8::1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((nobody, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def is_own_host(host: str) -> bool:
    """Whether one of this machine's interfaces has that address now; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
            return True
    except OSError:
        return False


def is_numeric(endpoint: Endpoint) -> bool:
    """Whether the host is an IP address and no name."""
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        return False
    return True
