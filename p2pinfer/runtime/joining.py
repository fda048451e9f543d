"""How a peer that starts enters its swarm.

The search (`discovery/`) begins here and runs as long as the peer: whatever it finds ends the wait as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from p2pinfer.errors import PeerUnreachable, RemoteProtocolError
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.composition import Parts

__all__ = ["join_swarm"]

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
"""How long the start waits for a first member of the swarm to answer."""
SEARCH_TIMEOUT_S = 4.0
"""How long it waits for the local network, where no known address answers: two announcements."""
STAGGER_S = 0.25
"""Between the first tries of two addresses (RFC 8305, section 8): the first that answers is taken."""
REMEMBERED_COUNT_MAX = 16
"""Members tried of those that are remembered; the search asks the others."""
FOUND_COUNT_MAX = 4
"""Members asked for all they know, of those that the search has found meanwhile."""


async def join_swarm(parts: Parts, joined: trio.Event, tasks: trio.Nursery) -> None:
    """Enter the swarm through any of the known addresses; a founder has none and is done.

    SWIM goes on trying by itself, so a node that comes back to a swarm asleep only warns. Who was told to
    join hears why it did not work.

    Args:
        parts: The peer's.
        joined: Set once SWIM has spoken with a member.
        tasks: Holds the search for as long as the peer runs.

    Raises:
        RemoteProtocolError: A kind of it: who answers is of another swarm, or refuses us.
        PeerUnreachable: Nobody answers, and this start was told to join.
    """
    await trio.to_thread.run_sync(parts.search.cache.load)
    tasks.start_soon(parts.search.finder.run)
    tasks.start_soon(parts.own_address.run)
    own = parts.core.contact.endpoint
    given = [each for each in dict.fromkeys(parts.home.addresses) if each != own]
    remembered = [
        each.endpoint for each in parts.search.cache.contacts if each.endpoint not in (own, *given)
    ][:REMEMBERED_COUNT_MAX]
    addresses = [*given, *remembered]
    if not addresses:
        return
    met = parts.search.met
    errors = await _try_addresses(parts, addresses)
    if len(errors) == len(addresses) and not met.is_set():
        with trio.move_on_after(SEARCH_TIMEOUT_S if parts.search.is_wide else 0.0):
            await met.wait()
        if not met.is_set():
            _explain(parts, {each: errors[each] for each in given})
    # Who found us is asked as well: it may not have told us of all others.
    addresses = [*addresses, *(each.endpoint for each in parts.search.live()[:FOUND_COUNT_MAX])]
    await parts.driver.call(lambda core, now: (None, core.join(addresses, now)))
    if met.is_set() or len(errors) < len(addresses):
        with trio.move_on_after(JOIN_TIMEOUT_S):
            await joined.wait()


def _explain(parts: Parts, errors: dict[Endpoint, Exception]) -> None:
    """Say that nobody answers: as an error to who was told to join, else as a warning.

    Raises:
        RemoteProtocolError: A kind of it: who answers at an address given is of another swarm, or refuses us.
        PeerUnreachable: Nobody answers, and this start was told to join.
    """
    for error in errors.values():
        if isinstance(error, RemoteProtocolError):
            raise error
    if parts.config.join and errors:
        listed = ", ".join(map(str, errors))
        elsewhere = ", nor is one found elsewhere" if parts.search.is_wide else ""
        raise PeerUnreachable(
            f"no peer answers at {listed}{elsewhere}: check that one runs and no firewall is between"
        )
    _log.warning("no known peer of the swarm answers; they are tried again from time to time")


async def _try_addresses(parts: Parts, addresses: Sequence[Endpoint]) -> dict[Endpoint, Exception]:
    """Dial all, staggered, until one answers or the search finds a member; returns what went wrong before."""
    errors: dict[Endpoint, Exception] = {}

    async def dial(address: Endpoint, delay_s: float) -> None:
        await trio.sleep(delay_s)
        try:
            with trio.fail_after(JOIN_TIMEOUT_S):
                await parts.streams.connect(Contact(None, address))
        except (PeerUnreachable, RemoteProtocolError, trio.TooSlowError) as error:
            _log.warning("%s: %s", address, str(error) or "no answer")
            errors[address] = error
            if len(errors) < len(addresses):
                return
        nursery.cancel_scope.cancel()

    async def stop_when_met() -> None:
        await parts.search.met.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_met)
        for index, address in enumerate(addresses):
            nursery.start_soon(dial, address, index * STAGGER_S)
    return errors
