"""Notices that this machine has another address than the one that the swarm was told.

A record's address is decided when the node starts. After that others reach the node there or not at all, so
who runs it must hear of a change.
"""

from __future__ import annotations

import logging

import trio

from p2pinfer.addresses import outbound_host
from p2pinfer.config import ANY_HOSTS, NodeConfig
from p2pinfer.ids import Endpoint

__all__ = ["watch_own_address"]

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 30.0
"""Between two looks at the routing table; nothing is sent."""


async def watch_own_address(config: NodeConfig, told: Endpoint) -> None:
    """Warn once of each address that is not the one told; where that was set by hand, return."""
    if config.advertise is not None or config.listen.host not in ANY_HOSTS:
        return
    known = told.host
    while True:
        await trio.sleep(LOOK_INTERVAL_S)
        host = outbound_host(config.listen.host)
        if host is not None and host != known:
            known = host
            if host != told.host:
                _log.warning(
                    "this machine has the address %s now, and the swarm was told %s: restart the node, so "
                    "that others reach it again",
                    host,
                    told.host,
                )
