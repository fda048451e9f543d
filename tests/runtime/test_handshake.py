"""Whoever is not who it says, or does not keep to the handshake, is refused by name; the peer lives on."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from p2pinfer.effects import Message
from p2pinfer.errors import (
    CertificateError,
    CertificateExpired,
    HandshakeError,
    P2PInferError,
    PeerUnreachable,
    UnfitId,
    WrongSwarm,
)
from p2pinfer.ids import Contact, SwarmId
from p2pinfer.membership import SwarmPolicy
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.handshake import VERSIONS, Credentials, Greeter, frame_of
from p2pinfer.runtime.streams import StreamsConfig
from p2pinfer.runtime.tls import TlsStream, make_tls_contexts
from p2pinfer.wire.messages.handshake import Alert, Hello, Proof
from p2pinfer.wire.messages.membership import Membership
from p2pinfer.wire.messages.swim import Nack
from tests.runtime import attacker
from tests.runtime.swarm import SWARM, Peer, credentials_of, identity_of, running
from tests.runtime.test_streams import step

IMPATIENT = replace(StreamsConfig.for_tests(), stage_deadline_s=0.15)


@asynccontextmanager
async def surviving(peer: Peer, *others: Peer) -> AsyncIterator[None]:
    """After the block, an honest peer still exchanges a message with `peer`."""
    honest = Peer("honest")
    async with running(peer, honest, *others):
        yield
        assert honest.streams.send_nowait(peer.contact, step(99))
        assert (await peer.wait_messages(1))[-1] == step(99)


def hello_of(credentials: Credentials) -> Hello:
    return Hello(
        versions=VERSIONS,
        swarm=credentials.swarm.id,
        public_key=credentials.identity.public_key,
        membership=credentials.membership,
        endpoint=attacker.NOWHERE,
        nonce=secrets.token_bytes(32),
        instance=secrets.token_bytes(16),
    )


def codes(messages: list[Message]) -> list[str]:
    return [message.code for message in messages if isinstance(message, Alert)]


async def refused(dialler: Peer, contact: Contact, kind: type[P2PInferError], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        await dialler.streams.connect(contact)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert [gone.endpoint for gone in dialler.disconnects] == [contact.endpoint]


@pytest.mark.parametrize("is_expected", [True, False])
async def test_a_man_in_the_middle_is_noticed_whether_or_not_the_peer_is_known(is_expected: bool) -> None:
    victim, target = Peer("victim"), Peer("target")
    async with surviving(target, victim), attacker.man_in_the_middle(target.contact.endpoint) as middle:
        contact = Contact(target.id if is_expected else None, middle)
        await refused(victim, contact, HandshakeError, "somebody is between the two peers")
        await target.wait_refused("accept: HandshakeError")


async def test_a_replayed_hello_and_proof_are_worthless() -> None:
    victim, target = Peer("victim"), Peer("target")
    member = credentials_of("member")
    greeter = Greeter(member, attacker.NOWHERE, attacker.CONTEXTS.binding, deadline_s=2.0)
    async with surviving(target, victim), attacker.listening() as (listener, endpoint):
        victim.streams.send_nowait(Contact(None, endpoint), step(1))
        recording = attacker.Recording(
            await attacker.accept(listener), attacker.CONTEXTS.server, server_side=True
        )
        await greeter.listen(recording, endpoint, Clock().now())
        tls = await attacker.dial_tls(target.contact.endpoint)
        tls.write_nowait(recording.received)
        assert codes(await attacker.messages_of(tls)) == ["HandshakeError"]
        assert target.refusals == ["accept: HandshakeError"]
        recording.close()


async def test_a_reflected_hello_is_refused() -> None:
    victim = Peer("victim")
    async with (
        surviving(victim),
        attacker.listening() as (listener, endpoint),
        trio.open_nursery() as nursery,
    ):

        async def mirror() -> None:
            near = TlsStream(await attacker.accept(listener), attacker.CONTEXTS.server, server_side=True)
            await near.handshake()
            while data := await near.receive():
                near.write_nowait(data)
            near.close()

        nursery.start_soon(mirror)
        await refused(victim, Contact(None, endpoint), HandshakeError, "same key")
        victim.disconnects.clear()


async def test_a_proof_by_another_key_is_refused() -> None:
    target = Peer("target")
    async with surviving(target):
        tls = await attacker.dial_tls(target.contact.endpoint)
        attacker.write(tls, hello_of(credentials_of("member")))
        attacker.write(tls, Proof(identity_of("mallory").sign(b"anything")))
        assert codes(await attacker.messages_of(tls)) == ["HandshakeError"]
        await target.wait_refused("accept: HandshakeError")


async def test_another_swarm_is_told_so_on_both_sides() -> None:
    other = SwarmPolicy(SwarmId(identity_of("other owner").public_key))
    stranger, target = Peer("stranger", credentials=credentials_of("stranger", swarm=other)), Peer("target")
    async with surviving(target, stranger):
        await refused(stranger, target.contact, WrongSwarm, "refused by the other peer: a stream of swarm")
        await target.wait_refused("accept: WrongSwarm")


async def test_an_id_without_the_swarms_work_is_told_so_on_both_sides() -> None:
    strict = SwarmPolicy(SWARM.id, difficulty=20)  # nobody here happens to fit
    target = Peer("target", credentials=credentials_of("target", swarm=strict))
    stranger = Peer("stranger")
    async with running(target, stranger):
        await refused(stranger, target.contact, UnfitId, "lacks the work that this swarm asks for")
        await target.wait_refused("accept: UnfitId")
        await refused(target, stranger.contact, UnfitId, "join with an invite")


async def test_an_expired_membership_is_told_so_on_both_sides() -> None:
    old, target = Peer("old", credentials=credentials_of("old", age_s=7200.0)), Peer("target")
    async with surviving(target, old):
        await refused(old, target.contact, CertificateExpired, "needs a new invite")
        await target.wait_refused("accept: CertificateExpired")


async def test_the_listeners_membership_is_checked_as_well() -> None:
    old, dialler = Peer("old", credentials=credentials_of("old", age_s=7200.0)), Peer("dialler")
    async with running(old, dialler):
        await refused(dialler, old.contact, CertificateExpired, "needs a new invite")
        await old.wait_refused("accept: CertificateExpired")


async def test_without_a_membership_nobody_enters_a_closed_swarm() -> None:
    own = credentials_of("uninvited")
    bare = Credentials(own.identity, SWARM, Membership(swarm=SWARM.id), own.verifier)
    uninvited, target = Peer("uninvited", credentials=bare), Peer("target")
    async with surviving(target, uninvited):
        await refused(uninvited, target.contact, CertificateError, "needs an invite")


async def test_who_answers_must_be_who_was_dialled() -> None:
    dialler, target = Peer("dialler"), Peer("target")
    async with surviving(target, dialler):
        wrong = Contact(identity_of("somebody else").peer_id, target.contact.endpoint)
        await refused(dialler, wrong, HandshakeError, "answered at")
        await target.wait_refused("accept: HandshakeError")


async def test_a_peer_of_another_version_is_told_so() -> None:
    target = Peer("target")
    async with surviving(target):
        tls = await attacker.dial_tls(target.contact.endpoint)
        attacker.write(tls, replace(hello_of(credentials_of("member")), versions=(99,)))
        assert codes(await attacker.messages_of(tls)) == ["VersionMismatch"]
        assert target.refusals == ["accept: VersionMismatch"]


async def test_a_client_of_tls_1_2_is_refused() -> None:
    target = Peer("target")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with surviving(target):
        tls = TlsStream(await attacker.connect(target.contact.endpoint), old, server_side=False)
        with pytest.raises(HandshakeError, match="PROTOCOL_VERSION"):
            await tls.handshake()
        tls.close()
        await target.wait_refused("accept: HandshakeError")


async def test_a_server_of_tls_1_2_is_refused() -> None:
    dialler = Peer("dialler")
    contexts = make_tls_contexts()
    contexts.server.minimum_version = ssl.TLSVersion.TLSv1_2
    contexts.server.maximum_version = ssl.TLSVersion.TLSv1_2
    async with (
        running(dialler),
        attacker.listening() as (listener, endpoint),
        trio.open_nursery() as nursery,
    ):

        async def serve() -> None:
            near = TlsStream(await attacker.accept(listener), contexts.server, server_side=True)
            with pytest.raises(HandshakeError):
                await near.handshake()
            near.close()

        nursery.start_soon(serve)
        await refused(dialler, Contact(None, endpoint), HandshakeError, "TLS handshake failed")


async def test_another_cipher_than_the_one_required_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    client = TlsStream(left, attacker.CONTEXTS.client, server_side=False)
    server = TlsStream(right, attacker.CONTEXTS.server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handshake)
        await client.handshake()
    assert client.peer_binding() == attacker.CONTEXTS.binding
    monkeypatch.setattr("p2pinfer.runtime.tls._CIPHER", "TLS_SOMETHING_BETTER")
    with pytest.raises(HandshakeError, match="TLS_AES_256_GCM_SHA384; TLS_SOMETHING_BETTER is required"):
        await client.handshake()
    with pytest.raises(HandshakeError, match="showed no certificate"):
        server.peer_binding()
    client.close()
    server.close()


@pytest.mark.parametrize("has_tls", [False, True])
async def test_one_who_connects_and_says_nothing_is_dropped_at_the_deadline(has_tls: bool) -> None:
    target = Peer("target", config=IMPATIENT)
    async with surviving(target):
        if has_tls:
            tls = await attacker.dial_tls(target.contact.endpoint)
            assert codes(await attacker.messages_of(tls)) == ["HandshakeError"]
        else:
            with await attacker.connect(target.contact.endpoint):
                await target.wait_refused("accept: HandshakeError")
        assert target.refusals == ["accept: HandshakeError"]


async def test_a_listener_that_says_nothing_is_given_up_at_the_deadline() -> None:
    dialler = Peer("dialler", config=IMPATIENT)
    async with running(dialler), attacker.listening() as (_, endpoint):
        await refused(dialler, Contact(None, endpoint), PeerUnreachable, "did not finish the TLS handshake")


async def test_the_number_of_handshakes_under_way_is_limited_for_each_host() -> None:
    config = replace(StreamsConfig.for_tests(), half_open_per_host_count_max=2)
    target = Peer("target", config=config)
    async with surviving(target):
        silent = [await attacker.connect(target.contact.endpoint) for _ in range(3)]
        await target.wait_refused("accept: too many half-open from one host")
        for sock in silent:
            sock.close()
        await target.wait_refused("accept: PeerUnreachable")


async def test_garbage_instead_of_tls_is_refused() -> None:
    target = Peer("target")
    async with surviving(target):
        with await attacker.connect(target.contact.endpoint) as sock:
            sock.send(b"GET / HTTP/1.1\r\n\r\n")
            await target.wait_refused("accept: HandshakeError")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff" * 64, "FrameTooLarge"),
        (b"\x00\x00\x00\x04\x00\x01\x00\x00\x00\x00abcd", "DecodeError"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00abcd", "HandshakeError"),
        (frame_of(Proof(bytes(64))), "HandshakeError"),
    ],
)
async def test_garbage_instead_of_a_hello_is_refused_by_name(data: bytes, code: str) -> None:
    target = Peer("target")
    async with surviving(target):
        tls = await attacker.dial_tls(target.contact.endpoint)
        tls.write_nowait(data)
        assert codes(await attacker.messages_of(tls)) == [code]
        assert target.refusals == [f"accept: {code}"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff" * 64, "FrameTooLarge"),
        (b"\x00\x00\x00\x04\x00\x01\x00\x00\x00\x00abcd", "DecodeError"),
        (frame_of(Nack(sequence=1)), "RemoteProtocolError"),
    ],
)
async def test_garbage_after_the_handshake_ends_that_connection_alone(data: bytes, code: str) -> None:
    target = Peer("target")
    async with surviving(target):
        tls, _ = await attacker.dial_as(credentials_of("member"), target.contact.endpoint)
        tls.write_nowait(data)
        assert codes(await attacker.messages_of(tls)) == [code]
        await target.wait_disconnects(1)
        assert target.count(f"ended: {code}") == 1
