"""Calls: one request, a stream of answers, over a real connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from p2pinfer.effects import Message
from p2pinfer.errors import (
    Cancelled,
    LocalProtocolError,
    ModelNotFound,
    Overloaded,
    P2PInferError,
    PeerUnreachable,
    RemoteProtocolError,
    UnavailableError,
)
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.calls import CREDIT_SIZE_BYTES, Handler
from p2pinfer.wire.codec import encode
from p2pinfer.wire.framing import cut
from p2pinfer.wire.messages.calls import CallCancel, CallCredit, CallEnd, CallFailed, CallItem, CallOpen
from p2pinfer.wire.messages.client import GenerateRequest, StatusReply, StatusRequest, TextPiece
from p2pinfer.wire.messages.handshake import Alert
from tests.runtime import attacker
from tests.runtime.swarm import Peer, credentials_of, running
from tests.runtime.test_streams import step


async def status(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
    yield StatusReply(json="{}")


async def count_up(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
    """As many pieces as the prompt says."""
    assert isinstance(request, GenerateRequest)
    for number in range(int(request.prompt)):
        yield TextPiece(text=request.model, token=number)


def failing(error: Exception) -> Handler:
    async def fail(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        yield TextPiece(text="before", token=0)
        raise error

    return fail


def pair() -> tuple[Peer, Peer]:
    caller, handler = Peer("caller"), Peer("handler")
    handler.streams.handlers[StatusRequest] = status
    handler.streams.handlers[GenerateRequest] = count_up
    return caller, handler


async def ask(caller: Peer, handler: Peer, request: Message) -> list[Message]:
    async with caller.streams.call(handler.contact, request) as responses:
        return [message async for message in responses]


async def test_a_call_gives_its_answers_in_order_and_ends() -> None:
    caller, handler = pair()
    async with running(caller, handler):
        got = await ask(caller, handler, GenerateRequest(prompt="100"))
    assert got == [TextPiece(text="", token=number) for number in range(100)]


async def test_a_call_with_one_answer() -> None:
    caller, handler = pair()
    async with running(caller, handler):
        async with caller.streams.call(handler.nameless, StatusRequest()) as responses:
            assert await responses.one() == StatusReply(json="{}")
        with pytest.raises(RemoteProtocolError, match="without an answer"):
            async with caller.streams.call(handler.contact, GenerateRequest(prompt="0")) as responses:
                await responses.one()


async def test_programs_that_share_a_key_and_only_ask_do_not_end_each_others_calls() -> None:
    going_on = trio.Event()
    handler = Peer("handler")
    first, second = (Peer("client", advertised=Endpoint("0.0.0.0", 0)) for _ in range(2))

    async def take_time(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        yield TextPiece(text="before", token=0)
        await going_on.wait()
        yield TextPiece(text="after", token=1)

    handler.streams.handlers |= {GenerateRequest: take_time, StatusRequest: status}
    async with (
        running(handler, first, second),
        first.streams.call(handler.contact, GenerateRequest(prompt="")) as responses,
    ):
        assert (await anext(responses)) == TextPiece(text="before", token=0)
        assert await ask(second, handler, StatusRequest()) == [StatusReply(json="{}")]
        going_on.set()
        assert [message async for message in responses] == [TextPiece(text="after", token=1)]


async def test_two_hundred_calls_in_parallel_keep_their_answers_apart() -> None:
    caller, handler = pair()
    results: dict[str, list[Message]] = {}

    async def ask(name: str) -> None:
        request = GenerateRequest(prompt="5", model=name)
        async with caller.streams.call(handler.contact, request) as responses:
            results[name] = [message async for message in responses]

    async with running(caller, handler), trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, str(number))
    assert results == {
        str(each): [TextPiece(text=str(each), token=number) for number in range(5)] for each in range(200)
    }


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ModelNotFound("no such model: x; pull it"), ModelNotFound, "no such model: x; pull it"),
        (Overloaded("full", retry_after_s=2.5), Overloaded, "full"),
        (RuntimeError("the secret path /home/x"), UnavailableError, "internal error at the peer"),
        (ExceptionGroup("", [Overloaded("inside")]), Overloaded, "inside"),
        (ExceptionGroup("", [ValueError("secret"), KeyError()]), UnavailableError, "internal error"),
    ],
)
async def test_an_error_of_the_handler_is_raised_at_the_caller_by_its_class(
    error: Exception, kind: type[P2PInferError], text: str
) -> None:
    caller, handler = pair()
    handler.streams.handlers[StatusRequest] = failing(error)
    got: list[Message] = []

    async def collect() -> None:
        async with caller.streams.call(handler.contact, StatusRequest()) as responses:
            async for message in responses:
                got.append(message)

    async with running(caller, handler):
        with pytest.raises(kind, match=text) as caught:
            await collect()
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
        async with caller.streams.call(handler.contact, GenerateRequest(prompt="1")) as responses:
            assert len([message async for message in responses]) == 1, "the connection goes on"
    assert got == [TextPiece(text="before", token=0)]
    if isinstance(caught.value, Overloaded) and text == "full":
        assert caught.value.retry_after_s == 2.5


async def test_a_request_that_nobody_answers_is_refused() -> None:
    caller, handler = pair()
    async with running(caller, handler):
        with pytest.raises(RemoteProtocolError, match="TextPiece is not answered by this peer"):
            async with caller.streams.call(handler.contact, TextPiece(text="", token=0)) as responses:
                await responses.one()


async def test_a_caller_that_leaves_cancels_the_handler() -> None:
    caller, handler = pair()
    cancelled = trio.Event()

    async def endless(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        try:
            while True:
                yield TextPiece(text="x", token=0)
        finally:
            cancelled.set()

    handler.streams.handlers[StatusRequest] = endless
    async with running(caller, handler):
        async with caller.streams.call(handler.contact, StatusRequest()) as responses:
            async for _ in responses:
                break
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_caller_that_is_cancelled_while_it_waits_cancels_the_handler() -> None:
    caller, handler = pair()
    began, cancelled = trio.Event(), trio.Event()

    async def silent(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        began.set()
        try:
            await trio.Event().wait()
        finally:
            cancelled.set()
        yield StatusReply(json="never")

    handler.streams.handlers[StatusRequest] = silent

    async def ask() -> None:
        async with caller.streams.call(handler.contact, StatusRequest()) as responses:
            await responses.one()

    async with running(caller, handler), trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await began.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(5):
            await cancelled.wait()


async def test_the_handlers_peer_shutting_down_ends_the_call() -> None:
    caller, handler = pair()
    began = trio.Event()

    async def silent(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        began.set()
        await trio.Event().wait()
        yield StatusReply(json="never")

    handler.streams.handlers[StatusRequest] = silent
    errors: list[P2PInferError] = []

    async def ask() -> None:
        with pytest.raises(Cancelled, match="shutting down") as caught:
            async with caller.streams.call(handler.contact, StatusRequest()) as responses:
                await responses.one()
        errors.append(caught.value)

    async with running(caller), trio.open_nursery() as nursery, running(handler):
        nursery.start_soon(ask)
        await began.wait()
    assert len(errors) == 1


async def test_a_broken_connection_ends_its_calls() -> None:
    caller = Peer("caller")
    member = credentials_of("member")
    async with running(caller):
        tls, _ = await attacker.dial_as(member, caller.contact.endpoint)
        await caller.wait_connects(1)
        contact = Contact(member.identity.peer_id, attacker.NOWHERE)
        async with caller.streams.call(contact, StatusRequest()) as responses:
            tls.close()
            with pytest.raises(PeerUnreachable, match="closed the connection"):
                await responses.one()


async def test_a_slow_reader_stops_its_own_call_and_nothing_else() -> None:
    caller, handler = pair()
    given = 0

    async def flood(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        nonlocal given
        for number in range(200):
            yield TextPiece(text="x" * 60000, token=number)
            given += 1

    handler.streams.handlers[StatusRequest] = flood
    async with running(caller, handler), caller.streams.call(handler.contact, StatusRequest()) as slow:
        assert await slow.__anext__() == TextPiece(text="x" * 60000, token=0)
        for _ in range(3):
            async with caller.streams.call(handler.contact, GenerateRequest(prompt="50")) as quick:
                assert len([message async for message in quick]) == 50
        caller.streams.send_nowait(handler.contact, step(1))
        await handler.wait_messages(1)
        assert given <= CREDIT_SIZE_BYTES // 60000 + 2
        assert len([message async for message in slow]) == 199


async def test_too_many_calls_at_a_time_are_refused_and_the_next_ones_are_not() -> None:
    caller, handler = pair()
    gate = trio.Event()

    async def wait(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        await gate.wait()
        yield StatusReply(json="{}")

    handler.streams.handlers[StatusRequest] = wait

    async def ask() -> None:
        async with caller.streams.call(handler.contact, StatusRequest()) as responses:
            await responses.one()

    async with running(caller, handler):
        async with trio.open_nursery() as nursery:
            for _ in range(256):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.02)
            with pytest.raises(Overloaded, match="256 calls are open"):
                await ask()
            gate.set()
        await ask()


async def test_a_call_that_is_opened_twice_ends_the_connection() -> None:
    caller, handler = pair()
    handler.streams.handlers[StatusRequest] = _silent
    async with running(caller, handler):
        tls, _ = await attacker.dial_as(credentials_of("member"), handler.contact.endpoint)
        attacker.write(tls, *[CallOpen(1, 10, encode(StatusRequest()))] * 2)
        alerts = [message for message in await attacker.messages_of(tls) if isinstance(message, Alert)]
        assert alerts == [Alert("RemoteProtocolError", "call 1 was opened twice")]
        assert len(await ask(caller, handler, GenerateRequest(prompt="1"))) == 1


async def test_a_request_of_garbage_fails_alone_and_strays_are_ignored() -> None:
    handler = Peer("handler")
    handler.streams.handlers[StatusRequest] = status
    async with running(handler):
        tls, _ = await attacker.dial_as(credentials_of("member"), handler.contact.endpoint)
        attacker.write(tls, CallItem(77, b""), CallEnd(78), CallCredit(79, 1), CallCancel(80))
        attacker.write(tls, CallOpen(1, 10, b"garbage"))
        failed = await attacker.next_message(tls)
        assert isinstance(failed, CallFailed)
        assert (failed.call, failed.code) == (1, "DecodeError")
        attacker.write(tls, CallOpen(2, 10, encode(StatusRequest())))
        assert await attacker.next_message(tls) == CallItem(2, encode(StatusReply(json="{}")))
        tls.close()


async def test_a_handler_that_goes_beyond_its_credit_loses_the_connection() -> None:
    caller, member = Peer("caller"), credentials_of("member")
    async with running(caller):
        tls, _ = await attacker.dial_as(member, caller.contact.endpoint)
        await caller.wait_connects(1)
        contact = Contact(member.identity.peer_id, attacker.NOWHERE)
        item = CallItem(0, bytes(CREDIT_SIZE_BYTES // 20))
        async with caller.streams.call(contact, StatusRequest()) as responses:
            for _ in range(22):
                tls.write_nowait(b"".join(cut(1, 0, encode(item))))
                await tls.drain()
            with trio.fail_after(5):
                while not responses.has_ended:
                    await trio.testing.wait_all_tasks_blocked()
            assert len(responses._items) == 21, "the last one may exceed the credit"
        assert caller.count("ended: RemoteProtocolError") == 1
        tls.close()


async def test_a_connection_that_is_retired_lets_its_calls_end_first() -> None:
    caller, handler = pair()
    gate = trio.Event()

    async def halves(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        yield TextPiece(text="before", token=0)
        await gate.wait()
        yield TextPiece(text="after", token=1)

    handler.streams.handlers[StatusRequest] = halves
    async with running(caller, handler):
        async with caller.streams.call(handler.contact, StatusRequest()) as responses:
            assert await responses.__anext__() == TextPiece(text="before", token=0)
            caller.streams.disconnect(handler.id)
            assert not caller.streams.is_connected(handler.id)
            assert len(await ask(caller, handler, GenerateRequest(prompt="3"))) == 3, "over a new connection"
            gate.set()
            assert [message async for message in responses] == [TextPiece(text="after", token=1)]
        with trio.fail_after(5):
            while caller.count("ended: goodbye") + handler.count("ended: goodbye") < 2:
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert caller.count("connections") == handler.count("connections") == 1


async def test_a_request_that_cannot_be_encoded_is_the_callers_bug() -> None:
    caller, handler = pair()
    async with running(caller, handler):
        with pytest.raises(LocalProtocolError):
            async with caller.streams.call(handler.contact, TextPiece(text="", token=-1)) as responses:
                await responses.one()


async def _silent(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
    await trio.Event().wait()
    yield StatusReply(json="never")
