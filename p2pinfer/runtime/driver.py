"""The one loop that runs a core in a real process; `testing/world.py` is its twin in the simulator.

Rules:

1. One input at a time: all effects of an input are performed, in order, before the next input is taken.
2. What stands after a `Persist` happens once that is on disk; neighbouring ones are written together.
3. The loop waits for the disk alone. The planes and the worker take an effect at once or drop it.
4. An exception out of a core is a bug: `InternalError` ends the peer, loudly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import trio

from p2pinfer.effects import (
    Compute,
    Core,
    Deliver,
    Disconnect,
    DropCache,
    Effect,
    HearsDisk,
    Message,
    Misbehaved,
    Notify,
    OpenCache,
    Persist,
    Send,
)
from p2pinfer.errors import Cancelled, InternalError, P2PInferError
from p2pinfer.ids import Contact, PeerId
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.disk import WriteFailed

__all__ = ["INBOX_COUNT_MAX", "Driver", "Input", "Performer"]

INBOX_COUNT_MAX = 1024
"""Inputs that may wait, for 10 to 50 ms of work at 10 to 50 us each: longer queues only add delay."""
_TURN_COUNT_MAX = 32
"""Inputs taken before other tasks get a turn."""

C = TypeVar("C", bound=Core[Any])
T = TypeVar("T")

Input = Callable[[C, float], list[Effect]]
"""One call of a core, as in `lambda core, now: core.receive(sender, message, now)`."""


class Performer(Protocol):
    """What carries effects out. Only `persist` may wait."""

    def send(self, to: Contact, message: Message) -> None:
        """Hand a message to its plane, or drop and count it."""
        ...

    def flush(self) -> None:
        """Every `send` of this turn was made: what was held back to go in one write goes now."""
        ...

    async def persist(self, writes: Sequence[Persist]) -> None:
        """Make the writes durable.

        Raises:
            WriteFailed: Naming the key that was not written.
        """
        ...

    def disconnect(self, peer: PeerId) -> None:
        """Close the stream to a peer, if there is one."""
        ...

    def compute(self, effect: OpenCache | Compute | DropCache) -> None:
        """Hand an effect to the engine's worker."""
        ...

    def handle(self, effect: Deliver | Notify | Misbehaved) -> None:
        """Tell the application."""
        ...


class Driver(Generic[C]):
    """Feeds one core and performs its effects, for as long as `run` runs.

    Args:
        core: Called from this loop alone.
        clock: Gives every call its `now`.
        performer: Carries the effects out.
        inbox_count_max: Inputs that may wait before `offer` refuses and `submit` waits.
    """

    def __init__(
        self, core: C, *, clock: Clock, performer: Performer, inbox_count_max: int = INBOX_COUNT_MAX
    ) -> None:
        self._core = core
        self._clock = clock
        self._performer = performer
        self._inbox_count_max = inbox_count_max
        self._inbox: deque[Input[C]] = deque()
        self._given = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._calls: set[_Call[C, Any]] = set()
        self._has_ended = False
        self._counts = {"inputs": 0, "effects": 0, "dropped": 0, "disk_failures": 0}

    async def run(self) -> None:
        """Run the core until cancelled.

        Raises:
            InternalError: The core raised, which is a bug.
            StorageError: The disk failed and the core cannot go on without it.
        """
        try:
            while True:
                for _ in range(_TURN_COUNT_MAX):
                    await self._take(await self._next())
                await trio.lowlevel.checkpoint()
        finally:
            self._has_ended = True
            self._room.unpark_all()
            for call in self._calls:
                call.finish(Cancelled("the peer is closing; start it again, then retry"))

    def put(self, given: Input[C]) -> None:
        """Give an input that must not be lost and is bounded by nature, such as an engine's answer."""
        self._inbox.append(given)
        self._given.set()

    def offer(self, given: Input[C]) -> bool:
        """Give an input that may be lost, such as a datagram; False (and counted) where there is no room."""
        if len(self._inbox) >= self._inbox_count_max:
            self._counts["dropped"] += 1
            return False
        self.put(given)
        return True

    async def submit(self, given: Input[C]) -> None:
        """Give an input, waiting for room first: the wait is what slows a sender down."""
        while len(self._inbox) >= self._inbox_count_max and not self._has_ended:
            await self._room.park()
        self.put(given)

    async def call(self, command: Callable[[C, float], tuple[T, list[Effect]]]) -> T:
        """Run a command and return its result, once all of its effects were performed.

        Raises:
            P2PInferError: Whatever the core refused the command with; its state is unchanged.
            Cancelled: The peer closed first.
        """
        call: _Call[C, T] = _Call(command)
        if self._has_ended:
            raise Cancelled("the peer is closing; start it again, then retry")
        self._calls.add(call)
        try:
            await self.submit(call)
            await call.done.wait()
        finally:
            self._calls.discard(call)
        return call.result()

    def statistics(self) -> dict[str, int]:
        """Counters since the start and what waits now; a copy."""
        return {**self._counts, "waiting": len(self._inbox)}

    async def _next(self) -> Input[C]:
        """Wait for an input or the core's deadline. A deadline that has passed goes first."""
        deadline = self._core.deadline
        if deadline is not None and deadline <= self._clock.now():
            return _tick
        if not self._inbox:
            delay_s = float("inf") if deadline is None else deadline - self._clock.now()
            self._given = trio.Event()
            with trio.move_on_after(max(0.0, delay_s)):
                await self._given.wait()
        if not self._inbox:
            return _tick
        given = self._inbox.popleft()
        if self._room:
            self._room.unpark()
        return given

    async def _take(self, given: Input[C]) -> None:
        self._counts["inputs"] += 1
        try:
            effects = given(self._core, self._clock.now())
        except Exception as error:
            raise InternalError(f"the core failed on {given}: {error!r}; please report this") from error
        failure = await self._perform(effects)
        if isinstance(given, _Call):
            given.finish(failure)

    async def _perform(self, effects: list[Effect]) -> WriteFailed | None:
        """Perform the effects in order; returns the disk's failure, if the core goes on without it."""
        failure: WriteFailed | None = None
        self._counts["effects"] += len(effects)
        index = 0
        while index < len(effects):
            effect = effects[index]
            if not isinstance(effect, Persist):
                self._perform_one(effect)
                index += 1
                continue
            writes = [effect]
            while index + len(writes) < len(effects):
                following = effects[index + len(writes)]
                if not isinstance(following, Persist):
                    break
                writes.append(following)
            self._performer.flush()
            try:
                await self._performer.persist(writes)
            except WriteFailed as error:
                # What stands after a failed write must not happen: the core is asked what to do instead.
                self._counts["disk_failures"] += 1
                core: object = self._core
                if not isinstance(core, HearsDisk):
                    raise
                failure = error
                effects, index = core.disk_failed(error.key, self._clock.now()), 0
                continue
            index += len(writes)
        self._performer.flush()
        return failure

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._performer.send(effect.to, effect.message)
            case Disconnect():
                self._performer.disconnect(effect.peer)
            case OpenCache() | Compute() | DropCache():
                self._performer.compute(effect)
            case Deliver() | Notify() | Misbehaved():
                self._performer.handle(effect)
            case Persist():
                raise InternalError("a Persist is written by _perform alone")


def _tick(core: Core[Any], now: float) -> list[Effect]:
    return core.tick(now)


class _Call(Generic[C, T]):
    """A command under way: an input whose result somebody waits for."""

    def __init__(self, command: Callable[[C, float], tuple[T, list[Effect]]]) -> None:
        self.done = trio.Event()
        self._command = command
        self._results: list[T] = []
        self._error: P2PInferError | None = None

    def __call__(self, core: C, now: float) -> list[Effect]:
        try:
            result, effects = self._command(core, now)
        except P2PInferError as error:
            self._error = error
            return []
        self._results.append(result)
        return effects

    def finish(self, error: P2PInferError | None) -> None:
        """End the wait, with an error if there is one; the core's own refusal stands."""
        self._error = self._error or error
        self.done.set()

    def result(self) -> T:
        """What the command returned.

        Raises:
            P2PInferError: What it was refused with.
        """
        if self._error is not None:
            raise self._error
        return self._results[0]
