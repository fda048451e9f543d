"""How a connection notices that its link is dead, and how it ends; over socket pairs, with a mock clock.

The raw end is not run as a connection: what it does not say is not said.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from p2pinfer.effects import Message, Priority
from p2pinfer.errors import PeerUnreachable
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact, PeerId
from p2pinfer.runtime.connection import Connection, Receiver, Timing
from p2pinfer.runtime.handshake import Established
from p2pinfer.runtime.routes import choose_kept
from p2pinfer.runtime.tls import TlsStream
from p2pinfer.wire.framing import FrameReader
from p2pinfer.wire.messages.handshake import Alert, Goodbye, Heartbeat
from tests.runtime import attacker
from tests.runtime.swarm import let_mock_time_pass
from tests.runtime.test_streams import URGENT, step

TIMING = Timing(heartbeat_interval_s=5.0, silence_timeout_s=15.0, retirement_s=10.0)
SMALL, LARGE = PeerId(bytes(32)), PeerId(b"\xff" * 32)


def established(peer: PeerId = LARGE, *, dialler: PeerId = SMALL, name: bytes = b"a") -> Established:
    return Established(
        peer=peer,
        contact=Contact(peer, attacker.NOWHERE),
        id=name * 32,
        dialler=dialler,
        instance=b"i" * 16,
        lost=b"",
        reader=FrameReader(),
        frames=(),
    )


class End:
    """A running connection and the raw end of its socket."""

    def __init__(self, tls: TlsStream, raw: TlsStream) -> None:
        self.raw = raw
        self.received: list[Message] = []
        self.together: list[int] = []
        self.left = 0
        receiver = Receiver(self._on_messages, self._on_leaving, {}, Verifier())
        self.connection = Connection(
            tls, established(), receiver=receiver, outbox_size_bytes_max=1 << 20, timing=TIMING
        )

    async def _on_messages(self, contact: Contact, messages: Sequence[Message]) -> None:
        self.received += messages
        self.together.append(len(messages))

    def _on_leaving(self, connection: Connection) -> None:
        self.left += 1


@asynccontextmanager
async def running() -> AsyncIterator[End]:
    left, right = socket.socketpair()
    tls = TlsStream(left, attacker.CONTEXTS.client, server_side=False)
    raw = TlsStream(right, attacker.CONTEXTS.server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.handshake)
        await tls.handshake()
    end = End(tls, raw)
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.run, ready.set)
        await ready.wait()
        yield end
        nursery.cancel_scope.cancel()
    raw.close()


async def test_one_that_hears_nothing_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as end:
        await end.connection.ended.wait()
        assert 15.0 <= trio.current_time() < 21.0
    assert isinstance(end.connection.error, PeerUnreachable)
    assert "nothing was heard" in str(end.connection.error)
    assert end.left == 1


async def test_both_ends_send_something_while_they_have_nothing_to_say(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as end:
        for _ in range(10):
            await let_mock_time_pass(6.0)
            attacker.write(end.raw, Heartbeat())
        assert not end.connection.ended.is_set()
        end.connection.end(None)
        heard = await attacker.messages_of(end.raw)
    assert 9 <= len(heard) <= 12
    assert set(heard) == {Heartbeat()}
    assert not end.received


async def test_a_receiver_that_takes_its_time_is_not_the_other_ends_silence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as end:

        async def think(contact: Contact, messages: Sequence[Message]) -> None:
            await let_mock_time_pass(100.0)

        end.connection._receiver = replace(end.connection._receiver, on_messages=think)
        attacker.write(end.raw, URGENT)
        await let_mock_time_pass(90.0)
        assert not end.connection.ended.is_set()


async def test_what_came_in_one_read_is_handed_over_together_and_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as end:
        attacker.write(end.raw, step(1), step(2), Heartbeat(), step(3))
        await trio.testing.wait_all_tasks_blocked()
        attacker.write(end.raw, step(4))
        await trio.testing.wait_all_tasks_blocked()
    assert end.received == [step(1), step(2), step(3), step(4)]
    assert end.together == [2, 1, 1], "what ends at the connection keeps its place between the others"


async def test_retiring_ends_once_both_have_said_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as end:
        end.connection.send_nowait(step(1))
        end.connection.retire()
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.ended.is_set()
        attacker.write(end.raw, URGENT, Goodbye())
        assert await attacker.messages_of(end.raw) == [step(1), Goodbye()]
        await end.connection.ended.wait()
    assert end.connection.error is None
    assert end.received == [URGENT]


async def test_one_that_does_not_say_goodbye_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as end:
        end.connection.retire()
        for _ in range(2):
            attacker.write(end.raw, Heartbeat())
            await let_mock_time_pass(4.0)
        await end.connection.ended.wait()
        assert 10.0 <= trio.current_time() < 16.0
        assert "did not say goodbye" in str(end.connection.error)


async def test_an_alert_of_the_other_end_is_why_it_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as end:
        attacker.write(end.raw, Alert("Overloaded", "come back\nlater"), URGENT)
        await end.connection.ended.wait()
        with pytest.raises(Exception, match="come back later"):
            await end.connection.send(URGENT)
        assert not end.connection.send_nowait(URGENT)
        end.connection.put(URGENT, Priority.CONTROL)
    assert type(end.connection.error).__name__ == "Overloaded"
    assert not end.received


def connection_of(known: Established) -> Connection:
    connection = object.__new__(Connection)
    connection.established = known
    return connection


def test_both_ends_keep_the_same_of_two_connections() -> None:
    for dialler, other in ((SMALL, LARGE), (LARGE, SMALL)):
        for seen_by, peer in ((SMALL, LARGE), (LARGE, SMALL)):
            one = connection_of(established(peer, dialler=dialler, name=b"a"))
            two = connection_of(established(peer, dialler=other, name=b"b"))
            kept, is_broken = choose_kept(one, two, seen_by)
            assert kept.established.dialler == SMALL
            assert not is_broken


def test_of_two_connections_by_one_dialler_both_ends_keep_the_same() -> None:
    one, two = connection_of(established(name=b"a")), connection_of(established(name=b"b"))
    assert choose_kept(one, two, SMALL) == (one, False)
    assert choose_kept(two, one, SMALL) == (one, False)


def test_one_that_lost_the_old_connection_or_its_memory_gets_the_new() -> None:
    old = connection_of(established(LARGE, dialler=SMALL, name=b"a"))
    knows = connection_of(replace(established(LARGE, dialler=LARGE, name=b"b"), lost=b"a" * 32))
    restarted = connection_of(replace(established(LARGE, dialler=LARGE, name=b"b"), instance=b"j" * 16))
    assert choose_kept(old, knows, SMALL) == (knows, True)
    assert choose_kept(old, restarted, SMALL) == (restarted, True)
