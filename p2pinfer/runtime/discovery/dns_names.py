"""Host names that stand for one peer or for many, as a headless service of Kubernetes does.

Rules:

1. Every address of an answer is a hint; what a name meant before is forgotten. An answer that has not changed
   is no news for a while: a member may tell others another address than its name has.
2. A name that does not resolve is asked again with doubling waits, and logged once until it resolves again.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.discovery.api import OnFound

__all__ = ["DnsNames", "Resolve", "resolve"]

_log = logging.getLogger(__name__)

INTERVAL_S = 30.0
"""Between two questions for a name that resolves; the TTL that Kubernetes gives its names."""
MENTION_INTERVAL_S = 300.0
"""Between two mentions of the same answer."""
RETRY_S_MIN = 1.0
RETRY_S_MAX = 300.0
ANSWERS_COUNT_MAX = 64
"""Addresses of one name that are taken."""
TIMEOUT_S = 20.0
"""For one question: the system's resolver gives up before that, as a rule."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, as numbers.

Raises:
    OSError: There are none, or nobody could be asked.
"""


async def resolve(host: str) -> list[str]:
    """Ask the system for all addresses of a name, A and AAAA alike.

    Raises:
        OSError: There are none, or nobody could be asked.
    """
    answers = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in answers))


class DnsNames:
    """Names that are looked up again and again.

    Args:
        names: Each a host name with the port at which its peers listen.
        rng: Spreads the questions of many peers that were started at once.
        resolve: Asks for a name.
    """

    def __init__(self, names: Sequence[Endpoint], *, rng: random.Random, resolve: Resolve = resolve) -> None:
        self._names = tuple(names)
        self._rng = rng
        self._resolve = resolve

    async def run(self, found: OnFound) -> None:
        """Look up every name until cancelled, each at its own pace."""
        async with trio.open_nursery() as nursery:
            for name in self._names:
                nursery.start_soon(self._watch, name, found)

    async def _watch(self, name: Endpoint, found: OnFound) -> None:
        failure_count = 0
        said: set[str] = set()
        say_at = 0.0
        while True:
            try:
                with trio.fail_after(TIMEOUT_S):
                    hosts = await self._resolve(name.host)
            # A label that is empty or too long for DNS is a UnicodeError, not an OSError.
            except (OSError, UnicodeError, trio.TooSlowError) as error:
                if not failure_count:
                    _log.warning("the name %s does not resolve: %s", name.host, str(error) or "no answer")
                wait_s = min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(failure_count, 16))
                failure_count += 1
            else:
                if failure_count:
                    _log.info("the name %s resolves again", name.host)
                failure_count, wait_s = 0, INTERVAL_S
                now, chosen = trio.current_time(), hosts[:ANSWERS_COUNT_MAX]
                if set(chosen) != said or now >= say_at:
                    said, say_at = set(chosen), now + MENTION_INTERVAL_S
                    found([Contact(None, Endpoint(host, name.port)) for host in chosen])
            await trio.sleep(wait_s * self._rng.uniform(0.75, 1.25))
