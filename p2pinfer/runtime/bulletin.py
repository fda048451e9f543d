"""What applications tell and ask each other through their peers.

await peer.bulletin.broadcast("deploy", b"v2")
with peer.bulletin.events("deploy") as events:
    async for event in events:
        print(event.sender, event.payload)

answers = await peer.bulletin.ask("load")
async for answer in answers:
    print(answer.peer, answer.payload)

with peer.bulletin.questions("load") as questions:
    async for question in questions:
        await peer.bulletin.answer(question, b"0.7")

What a swarm promises of them is said in `swim/bulletin.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

from p2pinfer.effects import Deliver, Effect, Misbehaved, Notify
from p2pinfer.errors import Cancelled, Overloaded, UnavailableError
from p2pinfer.ids import PeerId
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.composition import Parts
from p2pinfer.swim.bulletin import EVERYBODY
from p2pinfer.swim.news import EventHeard, QueryAcked, QueryAnswered, QueryAsked, QueryEnded, QueryId
from p2pinfer.wire.messages.events import QueryFilter

__all__ = ["Answers", "Bulletin", "Subscription"]

WAITING_COUNT_MAX = 1024
"""Events or questions that wait for a reader."""

N = TypeVar("N", bound=EventHeard | QueryAsked)
Told = Deliver | Notify | Misbehaved


class Subscription(Generic[N]):
    """An async iterator over events, or over questions; it ends with the peer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._sender, self._receiver = trio.open_memory_channel[N](WAITING_COUNT_MAX)
        self._error: UnavailableError | None = None

    def put(self, item: N) -> None:
        """Give what was heard; a reader that is too slow hears of that instead of missing some."""
        if self._names and item.name not in self._names:
            return
        try:
            self._sender.send_nowait(item)
        except trio.WouldBlock:
            self._error = Overloaded(f"{WAITING_COUNT_MAX} were not read in time: subscribe again")
            self._sender.close()
        except trio.ClosedResourceError:
            pass  # it has been told

    def close(self) -> None:
        """End the iteration after what was heard so far."""
        self._sender.close()

    def __aiter__(self) -> Subscription[N]:
        return self

    async def __anext__(self) -> N:
        """Return the next one.

        Raises:
            Overloaded: Too many were not read; those before are right.
        """
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None


class Answers:
    """An async iterator over the answers to one query, as they come, until all or the time have come.

    Attributes:
        query: Its name.
        acked: Who said so far that it was asked, if that was wanted.
        silent: After the end: who was asked, lives, and did not answer.
    """

    def __init__(self, query: QueryId) -> None:
        self.query = query
        self.acked: set[PeerId] = set()
        self.silent: tuple[PeerId, ...] = ()
        # Not bounded here: each member answers once.
        self._sender, self._receiver = trio.open_memory_channel[QueryAnswered](math.inf)
        self._is_cut_short = False

    def put(self, answer: QueryAnswered) -> None:
        """Give an answer that came."""
        self._sender.send_nowait(answer)

    def end(self, silent: tuple[PeerId, ...]) -> None:
        """No more answers come."""
        self.silent = silent
        self._sender.close()

    def cut_short(self) -> None:
        """The peer closes before the query has ended."""
        self._is_cut_short = True
        self._sender.close()

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> QueryAnswered:
        """Return the next answer.

        Raises:
            Cancelled: The peer closed before the query had ended; the answers so far are right.
        """
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            if self._is_cut_short:
                raise Cancelled("the peer is closing: ask again with another") from None
            raise StopAsyncIteration from None


class Bulletin:
    """A peer's part in what applications tell and ask; `peer.bulletin`."""

    def __init__(self, parts: Parts, nursery: trio.Nursery, rest: Callable[[Told], None]) -> None:
        """Take what the core says of events and queries, and leave what else it says to `rest`."""
        self._parts = parts
        self._rest = rest
        self._events: set[Subscription[EventHeard]] = set()
        self._questions: set[Subscription[QueryAsked]] = set()
        self._answers: dict[QueryId, Answers] = {}
        parts.planes.on_effect = self._handle
        nursery.start_soon(self._hold)

    async def broadcast(self, name: str, payload: bytes = b"") -> None:
        """Tell the applications of all members, this one included.

        Args:
            name: The kind of event, 1 to 64 bytes.
            payload: Its content, at most 512 bytes.

        Raises:
            LocalProtocolError: The name or the payload has not the right size.
            Overloaded: More than 5 a second, or 32 at once; it says when to come back.
        """
        await self._parts.driver.call(lambda core, now: (None, core.broadcast(name, payload, now)))

    @contextmanager
    def events(self, *names: str) -> Iterator[Subscription[EventHeard]]:
        """Hear events from now on, of these names alone if any are given; those of a sender in its order."""
        subscription = Subscription[EventHeard](names)
        self._events.add(subscription)
        try:
            yield subscription
        finally:
            self._events.discard(subscription)
            subscription.close()

    async def ask(
        self,
        name: str,
        payload: bytes = b"",
        *,
        to: QueryFilter = EVERYBODY,
        timeout_s: float | None = None,
        wants_ack: bool = False,
    ) -> Answers:
        """Ask the applications of other members; iterate over the result for the answers.

        Args:
            name: The kind of question, 1 to 64 bytes.
            payload: Its content, at most 512 bytes, or less beside a large filter.
            to: Whom it is for.
            timeout_s: How long answers are wanted; None takes what word needs to get around and back.
            wants_ack: Whether those who are asked say so at once.

        Raises:
            LocalProtocolError: Something of it has not the right size.
            Overloaded: Too many broadcasts at a time, or 64 queries are open.
        """

        def command(core: PeerCore, now: float) -> tuple[Answers, list[Effect]]:
            query, effects = core.ask(name, payload, now, to=to, timeout_s=timeout_s, wants_ack=wants_ack)
            # Before the effects are performed: the end may come with them.
            answers = self._answers[query] = Answers(query)
            return answers, effects

        return await self._parts.driver.call(command)

    @contextmanager
    def questions(self, *names: str) -> Iterator[Subscription[QueryAsked]]:
        """Hear questions of other members from now on, of these names alone if any are given."""
        subscription = Subscription[QueryAsked](names)
        self._questions.add(subscription)
        try:
            yield subscription
        finally:
            self._questions.discard(subscription)
            subscription.close()

    async def answer(self, question: QueryAsked, payload: bytes = b"") -> None:
        """Answer a question; too late, or a second time, nothing happens.

        Raises:
            LocalProtocolError: The answer has more bytes than a datagram carries: some 980.
        """
        await self._parts.driver.call(lambda core, now: (None, core.answer(question.query, payload, now)))

    def _handle(self, effect: Told) -> None:
        match effect:
            case Notify(news=EventHeard() as event):
                for heard in self._events:
                    heard.put(event)
            case Notify(news=QueryAsked() as question):
                for asked in self._questions:
                    asked.put(question)
            case Notify(news=QueryAnswered() as answer):
                if answer.query in self._answers:
                    self._answers[answer.query].put(answer)
            case Notify(news=QueryAcked(query=query, peer=peer)):
                if query in self._answers:
                    self._answers[query].acked.add(peer)
            case Notify(news=QueryEnded(query=query, silent=silent)):
                if query in self._answers:
                    self._answers.pop(query).end(silent)
            case _:
                self._rest(effect)

    async def _hold(self) -> None:
        """Let nobody wait for ever when the peer ends."""
        try:
            await trio.sleep_forever()
        finally:
            for heard in self._events:
                heard.close()
            for asked in self._questions:
                asked.close()
            for answers in self._answers.values():
                answers.cut_short()
            self._answers.clear()
