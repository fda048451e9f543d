"""Ends of a stream that do not keep to the protocol."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2pinfer.effects import Message
from p2pinfer.errors import PeerUnreachable
from p2pinfer.ids import Endpoint
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.handshake import Credentials, Established, Greeter, frame_of
from p2pinfer.runtime.tls import TlsContexts, TlsStream, make_tls_contexts
from p2pinfer.wire.codec import decode
from p2pinfer.wire.framing import Assembler, FrameReader

CONTEXTS = make_tls_contexts()
NOWHERE = Endpoint("127.0.0.1", 4711)
"""A member says where it listens; only clients say port 0. Nobody dials it there in these tests."""


async def connect(endpoint: Endpoint) -> socket.socket:
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    return socket.socket(fileno=stream.socket.detach())


class Recording(TlsStream):
    """A TLS stream that remembers what it received."""

    received = b""

    async def receive(self) -> bytes:
        data = await super().receive()
        self.received += data
        return data


async def dial_tls(endpoint: Endpoint) -> TlsStream:
    """Open TLS and nothing more."""
    tls = TlsStream(await connect(endpoint), CONTEXTS.client, server_side=False)
    await tls.handshake()
    return tls


async def dial_as(credentials: Credentials, endpoint: Endpoint) -> tuple[TlsStream, Established]:
    """Open a stream that both ends hold for good, to write into it what one likes."""
    tls = TlsStream(await connect(endpoint), CONTEXTS.client, server_side=False)
    greeter = Greeter(credentials, NOWHERE, CONTEXTS.binding, deadline_s=2.0)
    return tls, await greeter.dial(tls, endpoint, Clock().now(), expected=None)


async def messages_of(tls: TlsStream) -> list[Message]:
    """Everything that the other end still says, to its end."""
    reader, assembler = FrameReader(), Assembler()
    messages: list[Message] = []
    with trio.fail_after(5):
        while data := await tls.receive():
            for frame in reader.feed(data):
                whole = assembler.add(frame)
                if whole is not None:
                    messages.append(decode(whole.data))
    tls.close()
    return messages


async def next_message(tls: TlsStream) -> Message:
    """The next message, where it comes alone."""
    reader, assembler = FrameReader(), Assembler()
    with trio.fail_after(5):
        while True:
            for frame in reader.feed(await tls.receive()):
                whole = assembler.add(frame)
                if whole is not None:
                    return decode(whole.data)


def write(tls: TlsStream, *messages: Message) -> None:
    tls.write_nowait(b"".join(frame_of(message) for message in messages))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[socket.socket, Endpoint]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener, Endpoint("127.0.0.1", listener.getsockname()[1])


async def accept(listener: socket.socket) -> socket.socket:
    await trio.lowlevel.wait_readable(listener)
    return listener.accept()[0]


@asynccontextmanager
async def man_in_the_middle(target: Endpoint) -> AsyncIterator[Endpoint]:
    """A proxy that ends TLS with a certificate of its own and passes on all that it reads."""
    contexts: TlsContexts = make_tls_contexts()

    async def pump(source: TlsStream, sink: TlsStream) -> None:
        try:
            while data := await source.receive():
                sink.write_nowait(data)
        except PeerUnreachable:
            pass  # the other direction has closed both
        sink.close()
        source.close()

    async def serve(listener: socket.socket) -> None:
        near = TlsStream(await accept(listener), contexts.server, server_side=True)
        far = TlsStream(await connect(target), contexts.client, server_side=False)
        await near.handshake()
        await far.handshake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)

    async with listening() as (listener, endpoint), trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        yield endpoint
        nursery.cancel_scope.cancel()
