"""What the tests of discovery share: contacts, and a place for what is found."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

import pytest
import trio

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.discovery.links import Links
from p2pinfer.wire.envelope import ANNOUNCEMENT, Envelopes
from tests.runtime.swarm import credentials_of, identity_of

NOW = 1_800_000_000.0
RNG_SEED = 1
LOOPBACK = ("127.0.0.1",)


def contact_of(name: str, port: int = 7946, host: str = "127.0.0.1") -> Contact:
    return Contact(identity_of(name).peer_id, Endpoint(host, port))


def nameless(host: str, port: int = 7946) -> Contact:
    return Contact(None, Endpoint(host, port))


def rng() -> random.Random:
    return random.Random(RNG_SEED)


def announcing(name: str, **settings: object) -> Envelopes:
    """A member's envelopes for announcements."""
    own = credentials_of(name, **settings)  # type: ignore[arg-type]
    return Envelopes(own.identity, own.swarm, own.membership, own.verifier, prefix=ANNOUNCEMENT)


class Found:
    """Takes what strategies find."""

    def __init__(self) -> None:
        self.contacts: list[Contact] = []
        self.calls: list[tuple[float, tuple[Contact, ...]]] = []
        self._changed = trio.Event()

    def __call__(self, contacts: Sequence[Contact]) -> None:
        self.contacts += contacts
        self.calls.append((trio.current_time(), tuple(contacts)))
        self._changed.set()

    async def wait_for(self, contact: Contact, timeout_s: float = 5.0) -> None:
        with trio.fail_after(timeout_s):
            while contact not in self.contacts:
                self._changed = trio.Event()
                await self._changed.wait()

    async def wait_calls(self, count: int, timeout_s: float = 5.0) -> None:
        with trio.fail_after(timeout_s):
            while len(self.calls) < count:
                self._changed = trio.Event()
                await self._changed.wait()


def free_port() -> int:
    """A port for the group that no other test uses: swarms of tests that run side by side hear each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def skip_without_multicast(hosts: tuple[str, ...], port: int) -> None:
    """Skip the test where a datagram to the group does not come back on the loopback."""
    links = Links(hosts, port=port)
    try:
        if not links.receivers or not links.send(b"p2pinfer test"):
            pytest.skip(f"this machine has no multicast route on {hosts[0]}")
        links.receivers[0].setblocking(True)
        links.receivers[0].settimeout(1.0)
        try:
            links.receivers[0].recv(100)
        except TimeoutError:
            pytest.skip(f"multicast does not come back on {hosts[0]} of this machine")
    finally:
        links.close()
