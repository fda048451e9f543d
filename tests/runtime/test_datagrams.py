"""The datagram plane on the loopback."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from p2pinfer.effects import Message
from p2pinfer.errors import LocalProtocolError
from p2pinfer.identity import Verifier
from p2pinfer.ids import Contact, Endpoint, SwarmId
from p2pinfer.membership import SwarmPolicy
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.datagrams import Datagrams
from p2pinfer.runtime.handshake import Credentials
from p2pinfer.runtime.sockets import open_sockets
from p2pinfer.swim.rotation import first_keyring
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.messages.handshake import Heartbeat
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.messages.swim import Nack
from tests.runtime.swarm import LOOPBACK, OWNER, SWARM, credentials_of, identity_of

MESSAGE = Nack(sequence=7)


class Post:
    """One end of the datagram plane that records what arrives."""

    def __init__(self, name: str, *, credentials: Credentials | None = None, room: int = 1000) -> None:
        own = credentials or credentials_of(name)
        self.sockets = open_sockets(LOOPBACK)
        self.received: list[tuple[Contact, Message]] = []
        self.unopened: list[Contact] = []
        self._room = room
        self._changed = trio.Event()
        self.datagrams = Datagrams(
            self.sockets.datagrams,
            Envelopes(own.identity, own.swarm, own.membership, own.verifier),
            Clock(),
            self._on_message,
            lambda contact: self.unopened.append(contact),
        )
        self.contact = Contact(own.identity.peer_id, self.sockets.endpoint)

    def _on_message(self, contact: Contact, message: Message) -> bool:
        self.received.append((contact, message))
        self._changed.set()
        return len(self.received) <= self._room

    async def wait(self, count: int) -> list[tuple[Contact, Message]]:
        with trio.fail_after(5):
            while len(self.received) < count:
                self._changed = trio.Event()
                await self._changed.wait()
        return self.received


@asynccontextmanager
async def running(*posts: Post) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for post in posts:
            await nursery.start(post.datagrams.run)
        yield
        nursery.cancel_scope.cancel()
    for post in posts:
        post.sockets.close()


async def test_a_datagram_arrives_with_its_sender_and_address() -> None:
    first, second = Post("first"), Post("second")
    async with running(first, second):
        assert first.datagrams.send_nowait(second.contact, MESSAGE)
        assert await second.wait(1) == [(first.contact, MESSAGE)]


async def test_two_peers_talk_in_both_directions_over_one_socket_each() -> None:
    first, second = Post("first"), Post("second")
    async with running(first, second):
        for number in range(20):
            first.datagrams.send_nowait(second.contact, Nack(sequence=number))
            second.datagrams.send_nowait(first.contact, Nack(sequence=number))
        await first.wait(20)
        await second.wait(20)
    assert sorted(m.sequence for _, m in first.received if isinstance(m, Nack)) == list(range(20))


async def test_a_host_name_is_looked_up_without_making_the_sender_wait() -> None:
    first, second = Post("first"), Post("second")
    named = Contact(second.contact.peer, Endpoint("localhost", second.contact.endpoint.port))
    async with running(first, second):
        first.datagrams.send_nowait(named, MESSAGE)
        await second.wait(1)
        assert first.datagrams.send_nowait(named, MESSAGE), "the name is known now"


async def test_what_is_refused_is_counted_by_name_and_the_peer_lives_on() -> None:
    first, second = Post("first"), Post("second")
    stranger = Post("first", credentials=credentials_of("first", swarm=SwarmPolicy(SwarmId(b"x" * 32))))
    expired = Post("old", credentials=credentials_of("old", age_s=7200.0))
    plain = Credentials(identity_of("uninvited"), SWARM, Membership(swarm=SWARM.id), Verifier())
    uninvited = Post("uninvited", credentials=plain)
    async with running(first, second, stranger, expired, uninvited):
        for sender in (stranger, expired, uninvited):
            sender.datagrams.send_nowait(second.contact, MESSAGE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            to = (second.contact.endpoint.host, second.contact.endpoint.port)
            attacker.sendto(b"", to)
            attacker.sendto(b"garbage", to)
            attacker.sendto(b"x" * 4000, to)
            own = credentials_of("first")
            sealed = Envelopes(own.identity, own.swarm, own.membership, own.verifier).seal(
                MESSAGE, Clock().now()
            )
            attacker.sendto(sealed[:-1] + bytes([sealed[-1] ^ 1]), to)
            attacker.sendto(sealed, to)
            attacker.sendto(sealed, to)
        first.datagrams.send_nowait(second.contact, MESSAGE)
        await second.wait(2)
    counts = second.datagrams.statistics()
    assert len(second.received) == 2
    assert counts["dropped: WrongSwarm"] == 1
    assert counts["dropped: CertificateExpired"] == 1
    assert counts["dropped: CertificateError"] == 1
    assert counts["dropped: SignatureError"] == 1
    assert counts["dropped: ReplayError"] == 1
    assert counts["dropped: DecodeError"] == 3


async def test_a_member_with_another_key_is_told_apart_from_an_attacker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    rings = [first_keyring(OWNER.public_key, letter * 32, OWNER.sign_statement) for letter in (b"a", b"b")]
    member, plain, second = Post("member"), Post("plain"), Post("second")
    member.datagrams.use_keyring(rings[0])
    second.datagrams.use_keyring(rings[1])
    async with running(member, plain, second):
        for _ in range(5):
            member.datagrams.send_nowait(second.contact, MESSAGE)
            plain.datagrams.send_nowait(second.contact, MESSAGE)
        own = credentials_of("member")
        envelopes = Envelopes(own.identity, own.swarm, own.membership, own.verifier)
        envelopes.use_keyring(rings[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for _ in range(5):
                forged = bytearray(envelopes.seal(MESSAGE, Clock().now()))
                forged[-1] ^= 1
                attacker.sendto(forged, (second.contact.endpoint.host, second.contact.endpoint.port))
        member.datagrams.use_keyring(rings[1])
        member.datagrams.send_nowait(second.contact, MESSAGE)
        await second.wait(1)
    counts = second.datagrams.statistics()
    kinds = ("UnknownKey", "Unsealed", "SignatureError")
    assert {kind: counts[f"dropped: {kind}"] for kind in kinds} == dict.fromkeys(kinds, 5)
    assert sorted(second.unopened, key=str) == sorted([member.contact, plain.contact] * 5, key=str)
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert len(lines) == 3, "one for each kind, whatever their number"
    assert [level for level, text in lines if "seals with key" in text] == ["INFO"]
    assert [level for level, text in lines if "does not seal" in text] == ["INFO"]
    assert [level for level, text in lines if "signature does not match" in text] == ["WARNING"]


async def test_a_full_inbox_drops_and_counts() -> None:
    first, second = Post("first"), Post("second", room=1)
    async with running(first, second):
        for _ in range(3):
            first.datagrams.send_nowait(second.contact, MESSAGE)
        await second.wait(3)
    assert second.datagrams.statistics()["dropped: inbox full"] == 2


async def test_a_stream_message_is_refused_as_a_bug_of_the_caller() -> None:
    first = Post("first")
    async with running(first):
        with pytest.raises(LocalProtocolError, match="does not travel as a datagram"):
            first.datagrams.send_nowait(first.contact, Heartbeat())


async def test_sending_where_nothing_can_go_is_a_loss_like_any_other() -> None:
    first = Post("first")
    async with running(first):
        nowhere = Contact(first.contact.peer, Endpoint("127.0.0.1", 0))
        assert not first.datagrams.send_nowait(nowhere, MESSAGE)
    assert first.datagrams.statistics() == {"dropped: unreachable": 1}


async def test_a_flood_of_garbage_leaves_other_tasks_their_turns() -> None:
    """A flood waits in the socket: others run after each bounded batch of it."""
    second = Post("second")
    flood = 300
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        for _ in range(flood):
            attacker.sendto(b"garbage", (second.contact.endpoint.host, second.contact.endpoint.port))
    seen: list[int] = []
    async with running(second):
        with trio.fail_after(5):
            while not seen or seen[-1] < flood:
                seen.append(second.datagrams.statistics().get("received", 0))
                await trio.lowlevel.checkpoint()
    batches = [after - before for before, after in pairwise(seen)]
    assert max(batches) <= 2 * 64, "one batch, or two where the scheduler turned the order around"
