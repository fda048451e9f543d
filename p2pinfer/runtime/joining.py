"""How a peer that starts enters its swarm."""

from __future__ import annotations

import logging

import trio

from p2pinfer.errors import PeerUnreachable, RemoteProtocolError
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.composition import Parts

__all__ = ["join_swarm"]

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
"""How long the start waits for a first member of the swarm to answer."""


async def join_swarm(parts: Parts, joined: trio.Event) -> None:
    """Enter the swarm through any of the known addresses; a founder has none and is done.

    SWIM goes on trying by itself, so a node that comes back to a swarm asleep only warns. Who was told to
    join hears why it did not work.

    Args:
        parts: The peer's.
        joined: Set once SWIM has spoken with a member.

    Raises:
        RemoteProtocolError: A kind of it: who answers is of another swarm, or refuses us.
        PeerUnreachable: Nobody answers, and this start was told to join.
    """
    addresses = [address for address in parts.home.addresses if address != parts.core.contact.endpoint]
    if not addresses:
        return
    errors = await _try_addresses(parts, addresses)
    if len(errors) == len(addresses):
        refusals = [error for error in errors if isinstance(error, RemoteProtocolError)]
        if refusals:
            raise refusals[0]
        if parts.config.join:
            listed = ", ".join(map(str, addresses))
            raise PeerUnreachable(
                f"no peer answers at {listed}: check that one runs there and that no firewall is between"
            )
        _log.warning("no known peer of the swarm answers; they are tried again from time to time")
    await parts.driver.call(lambda core, now: (None, core.join(addresses, now)))
    if len(errors) < len(addresses):
        with trio.move_on_after(JOIN_TIMEOUT_S):
            await joined.wait()


async def _try_addresses(parts: Parts, addresses: list[Endpoint]) -> list[Exception]:
    """Dial until somebody answers; returns what went wrong before that."""
    errors: list[Exception] = []
    for address in addresses:
        try:
            with trio.fail_after(JOIN_TIMEOUT_S):
                await parts.streams.connect(Contact(None, address))
            return errors
        except (PeerUnreachable, RemoteProtocolError, trio.TooSlowError) as error:
            _log.warning("%s: %s", address, error or "no answer")
            errors.append(error)
    return errors
