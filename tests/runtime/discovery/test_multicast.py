"""Announcements over multicast on the loopback: who hears whom, and what is ignored."""

from __future__ import annotations

import functools
import logging
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p2pinfer.errors import SignatureError
from p2pinfer.ids import Contact, Endpoint, SwarmId
from p2pinfer.membership import SwarmPolicy
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.discovery.links import GROUP_V4, GROUP_V6, Links
from p2pinfer.runtime.discovery.multicast import INTERVAL_S, JUDGED_COUNT_MAX, Multicast
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.messages.discovery import Announcement
from p2pinfer.wire.messages.swim import Nack
from tests.runtime.discovery.ways import (
    LOOPBACK,
    Found,
    announcing,
    contact_of,
    free_port,
    rng,
    skip_without_multicast,
)
from tests.runtime.swarm import credentials_of, let_mock_time_pass
from tests.wire.mutation import mutate

OTHER = SwarmPolicy(SwarmId(b"x" * 32))
SOURCE = Endpoint("127.0.0.1", 9)


@pytest.fixture
def port() -> int:
    """A port for the group, where multicast works."""
    number = free_port()
    skip_without_multicast(LOOPBACK, number)
    return number


class Silent(Links):
    """No sockets: what is sent is kept."""

    def __init__(self, *, fails: bool = False, socket_count: int = 1) -> None:
        self.receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(socket_count)]
        self.sent: list[tuple[float, bytes]] = []
        self.fails = fails
        self.are_now = True
        self.join_count = 0

    @property
    def are_current(self) -> bool:
        return self.are_now

    def join(self) -> None:
        self.join_count += 1

    def send(self, data: bytes) -> int:
        self.sent.append((trio.current_time(), data))
        return 0 if self.fails else 1

    def close(self) -> None:
        for sock in self.receivers:
            sock.close()


@dataclass
class Announcer:
    """One member's multicast and what it found."""

    multicast: Multicast
    links: list[Links]
    live: list[Contact]
    found: Found

    @property
    def counts(self) -> dict[str, int]:
        return self.multicast.statistics()


def announcer(
    name: str, links: Iterator[Links], *, envelopes: Envelopes | None = None, port: int = 7946
) -> Announcer:
    opened: list[Links] = []
    live: list[Contact] = []

    def open_links() -> Links:
        opened.append(next(links))
        return opened[-1]

    multicast = Multicast(
        envelopes or announcing(name),
        own=contact_of(name, port),
        open_links=open_links,
        live=lambda: live,
        now=Clock().now,
        rng=rng(),
    )
    return Announcer(multicast, opened, live, Found())


def real_links(port: int) -> Iterator[Links]:
    while True:
        yield Links(LOOPBACK, port=port)


@asynccontextmanager
async def running(*announcers: Announcer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for each in announcers:
            nursery.start_soon(each.multicast.run, each.found)
        yield
        nursery.cancel_scope.cancel()


def silent(*, fails: bool = False) -> Iterator[Silent]:
    while True:
        yield Silent(fails=fails)


async def test_two_peers_of_one_machine_hear_each_other(port: int) -> None:
    a, b = announcer("a", real_links(port), port=1), announcer("b", real_links(port), port=2)
    async with running(a, b):
        await a.found.wait_for(contact_of("b", 2))
        await b.found.wait_for(contact_of("a", 1))
    assert contact_of("a", 1) not in a.found.contacts, "and not themselves"


async def test_other_swarms_and_forgeries_are_ignored(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Another swarm, a key that was never admitted, a plain datagram of the swarm, and noise."""
    hearer = announcer("hearer", real_links(port), port=1)
    stranger = announcing("stranger", swarm=OTHER)
    own = credentials_of("plain")
    plain = Envelopes(own.identity, own.swarm, own.membership, own.verifier)
    expired = announcing("old", age_s=7200.0)
    good, now = announcing("good"), Clock().now()
    message = Announcement(endpoint=contact_of("good", 5).endpoint)
    sealed = good.seal(message, now)
    links = Links(LOOPBACK, port=port)
    with caplog.at_level(logging.INFO):
        async with running(hearer):
            while not hearer.links:
                await trio.lowlevel.checkpoint()
            for data in (
                stranger.seal(message, now),
                stranger.seal(message, now),
                plain.seal(message, now),
                expired.seal(message, now),
                good.seal(Nack(sequence=1), now),
                sealed[:-1] + bytes([sealed[-1] ^ 1]),
                b"",
                b"noise" * 1000,
                sealed,
                sealed,
            ):
                assert links.send(data) == 1
            with trio.fail_after(5):
                while hearer.counts.get("dropped: ReplayError", 0) < 1:
                    await trio.lowlevel.checkpoint()
    links.close()
    counts = {name: count for name, count in hearer.counts.items() if name.startswith("dropped")}
    assert counts == {
        "dropped: WrongSwarm": 2,
        "dropped: SignatureError": 2,
        "dropped: CertificateExpired": 1,
        "dropped: no announcement": 1,
        "dropped: DecodeError": 2,
        "dropped: ReplayError": 1,
    }
    assert hearer.found.contacts == [contact_of("good", 5)]
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith(f"swarm {OTHER.id.short} announces itself from 127.0.0.1")
    assert "--join" in line


def test_an_announcement_is_no_datagram_of_the_swarm() -> None:
    """Played to a peer's own port it would move that peer's replay window, and silence the sender."""
    own = credentials_of("hearer")
    plain = Envelopes(own.identity, own.swarm, own.membership, own.verifier)
    now = Clock().now()
    sealed = announcing("a").seal(Announcement(endpoint=contact_of("a").endpoint), now)
    with pytest.raises(SignatureError):
        plain.open(sealed, now)


def test_an_announcement_is_small() -> None:
    """One packet on every network, whatever the name of the host: half of what a probe may have."""
    endpoint = Endpoint("x" * 200, 7946)
    assert len(announcing("a").seal(Announcement(endpoint=endpoint), Clock().now())) <= 700


async def test_a_flood_of_forgeries_is_judged_so_often_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hearer = announcer("hearer", iter(()))
    now = Clock().now()
    forged = announcing("a").seal(Announcement(endpoint=contact_of("a").endpoint), now)
    forged = forged[:-1] + bytes([forged[-1] ^ 1])
    for _ in range(10 * JUDGED_COUNT_MAX):
        hearer.multicast.take(forged, SOURCE, hearer.found)
    assert hearer.counts["dropped: SignatureError"] == JUDGED_COUNT_MAX
    assert hearer.counts["dropped: too many"] == 9 * JUDGED_COUNT_MAX
    await let_mock_time_pass(1.0)
    good = announcing("b").seal(Announcement(endpoint=contact_of("b").endpoint), now)
    hearer.multicast.take(good, SOURCE, hearer.found)
    assert hearer.found.contacts == [contact_of("b")]


async def test_noise_that_costs_nothing_does_not_keep_announcements_out() -> None:
    hearer = announcer("hearer", iter(()))
    foreign = announcing("s", swarm=OTHER).seal(Announcement(endpoint=SOURCE), Clock().now())
    for data in (b"", b"noise", foreign):
        for _ in range(2 * JUDGED_COUNT_MAX):
            hearer.multicast.take(data, SOURCE, hearer.found)
    good = announcing("b").seal(Announcement(endpoint=contact_of("b").endpoint), Clock().now())
    hearer.multicast.take(good, SOURCE, hearer.found)
    assert hearer.found.contacts == [contact_of("b")]


@pytest.mark.parametrize(
    ("endpoint", "source", "is_taken"),
    [
        ("127.0.0.1:1", "127.0.0.1", True),
        ("10.0.0.1:1", "127.0.0.1", True),
        ("10.0.0.1:1", "10.0.0.1", True),
        ("peer.example:1", "10.0.0.1", True),
        ("127.0.0.1:1", "10.0.0.1", False),
        ("127.8.0.1:1", "10.0.0.1", False),
        ("localhost:1", "10.0.0.1", False),
        ("[::1]:1", "fe80::1", False),
        ("10.0.0.1:0", "10.0.0.1", False),
    ],
)
async def test_an_address_of_the_speakers_own_machine_is_of_use_there_alone(
    endpoint: str, source: str, is_taken: bool
) -> None:
    hearer = announcer("hearer", iter(()))
    message = Announcement(endpoint=Endpoint.parse(endpoint))
    hearer.multicast.take(announcing("a").seal(message, Clock().now()), Endpoint(source, 9), hearer.found)
    assert bool(hearer.found.contacts) is is_taken


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=200), st.integers(0, 1 << 30).map(lambda seed: mutated(seed))))
@example(b"")
def test_no_datagram_raises_or_is_believed(data: bytes) -> None:
    """Bytes, and announcements with some changed: without the key none of them is an announcement."""

    async def take() -> None:
        hearer = announcer("hearer", iter(()))
        hearer.multicast.take(data, SOURCE, hearer.found)
        assert hearer.found.contacts == []

    trio.run(take)


@functools.cache
def sealed_announcement() -> bytes:
    return announcing("a").seal(Announcement(endpoint=contact_of("a").endpoint), Clock().now())


def mutated(seed: int) -> bytes:
    sealed = sealed_announcement()
    changed = mutate(sealed, [sealed], random.Random(seed))
    return changed if changed != sealed else b""


async def test_a_lonely_peer_announces_itself_often_and_a_swarm_seldom(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lonely = announcer("a", silent())
    with trio.move_on_after(300.0):
        await lonely.multicast.run(lonely.found)
    assert 48 <= lonely.counts["sent"] <= 82, "every five seconds, and quicker at first"
    for member_count, interval_s in ((10, INTERVAL_S), (1000, 500.0)):
        member = announcer("a", silent())
        member.live.extend(contact_of(f"peer {index}") for index in range(member_count - 1))
        with trio.move_on_after(10 * interval_s):
            await member.multicast.run(member.found)
        assert 8 <= member.counts["sent"] <= 16


async def test_peers_started_at_once_do_not_speak_in_step(autojump_clock: trio.testing.MockClock) -> None:
    peer = announcer("a", silent())
    with trio.move_on_after(100.0):
        await peer.multicast.run(peer.found)
    (links,) = peer.links
    assert isinstance(links, Silent)
    waits = [round(at - before, 3) for (before, _), (at, _) in zip(links.sent, links.sent[1:], strict=False)]
    assert len(set(waits)) == len(waits)


async def test_other_links_are_used_as_soon_as_they_are_seen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A laptop that wakes up in another network."""
    peer = announcer("a", silent())
    async with running(peer):
        await let_mock_time_pass(12.0)
        (first,) = peer.links
        assert isinstance(first, Silent)
        first.are_now = False
        await let_mock_time_pass(30.0)
        _, second = peer.links
        assert isinstance(second, Silent)
        assert second.sent
        assert first.receivers[0].fileno() == -1, "closed"
        assert first.join_count, "and links without an address are tried again"


async def test_without_multicast_a_peer_lives_on_and_says_so_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    peer = announcer("a", silent(fails=True))
    with caplog.at_level(logging.INFO), trio.move_on_after(600.0):
        await peer.multicast.run(peer.found)
    assert peer.counts["not sent"] > 10
    assert len(caplog.records) == 1


async def test_a_machine_without_any_socket_for_it_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opened: list[Silent] = []

    def none_at_first() -> Iterator[Links]:
        while True:
            opened.append(Silent(socket_count=1 if opened else 0))
            yield opened[-1]

    peer = announcer("a", none_at_first())
    with trio.move_on_after(60.0):
        await peer.multicast.run(peer.found)
    assert len(opened) == 2


def test_the_loopback_alone_is_used_by_who_listens_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "wlan0")])

    def indexes(*hosts: str) -> dict[int, list[tuple[int, str]]]:
        links = Links(hosts, port=free_port())
        links.close()
        return {
            int(family): [(each.index, each.address) for each in some]
            for family, some in links._links.items()
            if some
        }

    here = (0, "127.0.0.1")
    v4, v6 = int(socket.AF_INET), int(socket.AF_INET6)
    assert indexes("127.0.0.1") == {v4: [here]}
    assert indexes("127.0.0.9") == {v4: [here]}
    assert indexes("::1") == {v6: [(1, "")]}
    assert indexes("192.0.2.77") == {v4: [(0, "192.0.2.77")]}
    assert indexes("0.0.0.0") == {v4: [here, (2, ""), (3, "")]}
    assert indexes("::") == {v4: [here, (2, ""), (3, "")], v6: [(1, ""), (2, ""), (3, "")]}
    assert indexes("fe80::1") == {v6: [(2, ""), (3, "")]}


def test_nothing_is_routed_further(port: int) -> None:
    links = Links(LOOPBACK, port=port)
    sender = links._senders[int(socket.AF_INET)]
    assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
    links.close()
    assert GROUP_V4.startswith("239.")
    assert GROUP_V6.startswith("ff12:"), "transient, of link scope"


def test_a_link_that_went_away_is_a_loss_like_any_other() -> None:
    links = Links(("192.0.2.77",), port=free_port())
    assert links.send(b"x") == 0
    links.join()
    links.close()
