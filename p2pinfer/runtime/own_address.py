"""Keeps true what the swarm is told of this node's address.

Rules:

1. What was set by hand (`--advertise`, or one address to listen on) stays: a log entry says what others see.
2. While this machine still has the address that was told, it stays as well: a VPN that comes and goes beside
   it is no move.
3. Once it has not, the address towards the internet is told instead, with a new record, while the node runs.
   What others see in its place is told only if this machine has it: else it is a NAT's, and only who runs
   the NAT knows whether it leads here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2pinfer.addresses import is_own_host, outbound_host
from p2pinfer.config import ANY_HOSTS, NodeConfig
from p2pinfer.ids import Endpoint

__all__ = ["OwnAddress"]

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 30.0
"""Between two looks at the routing table; nothing is sent."""

Move = Callable[[Endpoint], object]
"""Told the address that counts from now on; must not wait."""


class OwnAddress:
    """The address that a node tells.

    Args:
        config: The node's settings: whether the address was set by hand.
        told: What is told at the start.
        on_move: Told of another one.
    """

    def __init__(self, config: NodeConfig, told: Endpoint, on_move: Move) -> None:
        self._config = config
        self._told = told
        self._on_move = on_move
        self._warned: Endpoint | None = None

    @property
    def told(self) -> Endpoint:
        """What the swarm is told now."""
        return self._told

    @property
    def _is_set_by_hand(self) -> bool:
        return self._config.advertise is not None or self._config.listen.host not in ANY_HOSTS

    async def run(self) -> None:
        """Look from time to time whether the machine has moved; return where its owner said where it is."""
        if self._is_set_by_hand:
            return
        while True:
            await trio.sleep(LOOK_INTERVAL_S)
            host = outbound_host(self._config.listen.host)
            if host is not None and host != self._told.host and not is_own_host(self._told.host):
                self._move(Endpoint(host, self._told.port))

    def seen(self, endpoint: Endpoint) -> None:
        """Most of those asked see this node at another address than the one told; must not wait."""
        is_ours = endpoint.port == self._told.port and is_own_host(endpoint.host)
        if is_ours and not self._is_set_by_hand:
            if not is_own_host(self._told.host):
                self._move(endpoint)
            return
        if endpoint == self._warned:
            return
        self._warned = endpoint
        _log.warning(
            "others see this node at %s, and the swarm is told %s: if others cannot reach it, let the router "
            "pass UDP and TCP port %d to it, and start it with --advertise %s:%d",
            endpoint,
            self._told,
            self._told.port,
            f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host,
            self._told.port,
        )

    def _move(self, endpoint: Endpoint) -> None:
        _log.warning("this machine has moved from %s to %s: the swarm is told", self._told, endpoint)
        self._told = endpoint
        self._warned = None
        self._on_move(endpoint)
