"""Both ends of the calls on one connection; the messages are in `wire/messages/calls.py`.

Rules:

1. `receive` never waits: a slow reader of one call stops that call's handler (credit), nothing else.
2. A call ends once: with its end, an error, a cancellation from either side, or the connection.
3. All messages of a call travel in one priority, its request's, so that they keep their order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import trio

from p2pinfer.effects import Message, Priority
from p2pinfer.errors import (
    Cancelled,
    LocalProtocolError,
    Overloaded,
    P2PInferError,
    RemoteProtocolError,
)
from p2pinfer.ids import Contact
from p2pinfer.runtime.remote_errors import code_of, error_of, retry_after_ms_of, text_of
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.calls import (
    CallCancel,
    CallCredit,
    CallEnd,
    CallFailed,
    CallItem,
    CallOpen,
)

__all__ = ["CALLS_COUNT_MAX", "CREDIT_SIZE_BYTES", "CallMessage", "Calls", "Handler", "Responses"]

CREDIT_SIZE_BYTES = 1 << 20
"""Bytes on their way for each call: 10 Gbit/s at 0.8 ms, and 80 Mbit/s across the world at 100 ms."""
CALLS_COUNT_MAX = 256
"""Calls at a time for each connection and direction, so at most 256 MiB of unread answers."""

CallMessage = CallOpen | CallItem | CallCredit | CallEnd | CallFailed | CallCancel
Handler = Callable[[Contact, Message], AsyncGenerator[Message, None]]
"""Answers one kind of request: an async generator, `async def handler(contact, request): yield ...`."""

_log = logging.getLogger(__name__)


class Link(Protocol):
    """What calls need of their connection."""

    @property
    def contact(self) -> Contact:
        """Who is at the other end."""
        ...

    def put(self, message: Message, priority: Priority) -> None:
        """Queue a message that is small and bounded in number, whatever else waits."""
        ...

    async def send(self, message: Message, priority: Priority) -> None:
        """Queue a message, waiting for room.

        Raises:
            PeerUnreachable: The connection broke.
        """
        ...

    def calls_ended(self) -> None:
        """No call is open any more."""
        ...


class Calls:
    """The calls of one connection, in both directions."""

    def __init__(self, link: Link, handlers: Mapping[type[Message], Handler], nursery: trio.Nursery) -> None:
        self._link = link
        self._handlers = handlers
        self._nursery = nursery
        self._next_number = 0
        self._asked: dict[int, Responses] = {}
        self._served: dict[int, _Serving] = {}
        self._broken: P2PInferError | None = None

    @property
    def count(self) -> int:
        """Calls open now, in both directions."""
        return len(self._asked) + len(self._served)

    @asynccontextmanager
    async def open(self, request: Message) -> AsyncIterator[Responses]:
        """Make a call; leaving the block before its end cancels it at the other peer.

        Raises:
            Overloaded: Too many calls are open on this connection.
            PeerUnreachable: The connection broke.
        """
        if len(self._asked) >= CALLS_COUNT_MAX:
            raise Overloaded(f"{CALLS_COUNT_MAX} calls are open to {self._link.contact}; retry when some end")
        if self._broken is not None:
            raise self._broken
        number, self._next_number = self._next_number, self._next_number + 1
        responses = Responses(self._link, number)
        self._asked[number] = responses
        try:
            opening = CallOpen(number, CREDIT_SIZE_BYTES, encode(request))
            await self._link.send(opening, request.priority)
            yield responses
        finally:
            self._asked.pop(number, None)
            if not responses.has_ended:
                # The same priority as the request: a cancellation must not arrive before it.
                self._link.put(CallCancel(number), request.priority)
            self._tell_if_idle()

    def receive(self, message: CallMessage) -> None:
        """Take one message of the other peer.

        Raises:
            RemoteProtocolError: It broke the rules of calls; the connection is of no use any more.
        """
        match message:
            case CallOpen():
                self._on_open(message)
            case CallItem() | CallEnd() | CallFailed():
                responses = self._asked.get(message.call)
                if responses is not None:
                    responses.receive(message)
            case CallCredit():
                serving = self._served.get(message.call)
                if serving is not None:
                    serving.add_credit(message.credit)
            case CallCancel():
                serving = self._served.get(message.call)
                if serving is not None:
                    serving.scope.cancel()

    def disconnected(self, error: P2PInferError) -> None:
        """The connection is gone: every call made ends with the error, every handler is cancelled."""
        self._broken = error
        for responses in self._asked.values():
            responses.fail(error)
        for serving in self._served.values():
            serving.scope.cancel()

    def _on_open(self, message: CallOpen) -> None:
        if message.call in self._served:
            raise RemoteProtocolError(f"call {message.call} was opened twice")
        if len(self._served) >= CALLS_COUNT_MAX:
            refusal = Overloaded(f"{CALLS_COUNT_MAX} calls are open; retry when some end", retry_after_s=1.0)
            self._link.put(_failure(message.call, refusal), Priority.CONTROL)
            return
        serving = _Serving(message.call, message.credit)
        self._served[message.call] = serving
        self._nursery.start_soon(self._serve, serving, message.request)

    async def _serve(self, serving: _Serving, encoded: bytes) -> None:
        priority = Priority.CONTROL
        last: Message = CallEnd(serving.call)
        try:
            with serving.scope:
                request = decode(encoded)
                priority = request.priority
                handler = self._handlers.get(type(request))
                if handler is None:
                    raise RemoteProtocolError(f"{type(request).__name__} is not answered by this peer")
                async with aclosing(handler(self._link.contact, request)) as answers:
                    async for answer in answers:
                        await serving.send(self._link, answer, priority)
        except P2PInferError as error:
            last = _failure(serving.call, error)
        except trio.Cancelled:
            last = _failure(serving.call, Cancelled("the peer is shutting down; retry elsewhere"))
            raise
        except Exception as error:  # noqa: BLE001 -- a handler is foreign code: one call fails, not the peer
            last = _failure(serving.call, _only(error))
            if not isinstance(_only(error), P2PInferError):
                _log.exception("the handler of a call from %s failed", self._link.contact)
        finally:
            self._served.pop(serving.call, None)
            if not serving.scope.cancelled_caught:
                self._link.put(last, priority)
            self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if not self.count:
            self._link.calls_ended()


class Responses:
    """The answers to one call: iterate with `async for`.

    The iteration ends with the handler, or raises the error that ended it: the handler's, by its class, or
    `PeerUnreachable` where the connection broke.
    """

    def __init__(self, link: Link, call: int) -> None:
        self._link = link
        self._call = call
        self._items: deque[bytes] = deque()
        self._credit = CREDIT_SIZE_BYTES
        self._read_size = 0
        self._error: P2PInferError | None = None
        self.has_ended = False
        """Whether the handler is through; its answers may still wait here."""
        self._parked = trio.lowlevel.ParkingLot()

    def receive(self, message: CallItem | CallEnd | CallFailed) -> None:
        """Take the next message of this call."""
        if isinstance(message, CallItem):
            if self._credit <= 0:
                raise RemoteProtocolError(f"call {self._call} was answered beyond its credit")
            self._credit -= max(1, len(message.item))
            self._items.append(message.item)
        else:
            if isinstance(message, CallFailed):
                self._error = error_of(message.code, message.detail, message.retry_after_ms)
            self.has_ended = True
        self._parked.unpark_all()

    def fail(self, error: P2PInferError) -> None:
        """End with an error, after what has arrived."""
        if not self.has_ended:
            self._error, self.has_ended = error, True
        self._parked.unpark_all()

    def __aiter__(self) -> Responses:
        return self

    async def __anext__(self) -> Message:
        while not self._items:
            if self._error is not None:
                raise self._error
            if self.has_ended:
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            await self._parked.park()
        item = self._items.popleft()
        self._read_size += max(1, len(item))
        if self._read_size >= CREDIT_SIZE_BYTES // 2 and not self.has_ended:
            self._credit += self._read_size
            self._link.put(CallCredit(self._call, self._read_size), Priority.CONTROL)
            self._read_size = 0
        return decode(item)

    async def one(self) -> Message:
        """Return the only answer.

        Raises:
            RemoteProtocolError: The handler ended without one.
        """
        async for message in self:
            return message
        raise RemoteProtocolError("the peer ended the call without an answer")


class _Serving:
    """One call being answered."""

    def __init__(self, call: int, credit: int) -> None:
        self.call = call
        self.scope = trio.CancelScope()
        self._credit = credit
        self._parked = trio.lowlevel.ParkingLot()

    def add_credit(self, credit: int) -> None:
        """The caller has read so many bytes."""
        self._credit += credit
        self._parked.unpark_all()

    async def send(self, link: Link, answer: Message, priority: Priority) -> None:
        """Send one answer, as soon as there is credit and room in the outbox."""
        await trio.lowlevel.checkpoint()  # a handler that never waits must not keep the loop
        while self._credit <= 0:
            await self._parked.park()
        item = encode(answer)
        self._credit -= max(1, len(item))
        await link.send(CallItem(self.call, item), priority)


def _only(error: Exception) -> Exception:
    """What a handler's own nursery wrapped, where that is one error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _failure(call: int, error: Exception) -> CallFailed:
    if isinstance(error, LocalProtocolError):
        # Our own handler misused something: to the caller that is our fault, whatever the text says.
        _log.error("a call failed by a fault of this peer: %s", error)
    return CallFailed(call, code_of(error), text_of(error, 1024), retry_after_ms_of(error))
