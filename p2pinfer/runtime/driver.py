"""The one loop that runs a core in a real process; `testing/world.py` is its twin in the simulator.

Rules:

1. One input at a time: all effects of an input are performed, in order, before the next input is taken.
2. What stands after a `Persist` happens once that is on disk; neighbouring ones are written together.
3. The loop waits for the disk alone. The planes and the worker take an effect at once or drop it.
4. An exception out of a core is a bug: `InternalError` ends the peer, loudly.
5. While the loop only waits, an input is taken in its giver's own turn: a message that has just been read, or
   a batch that was just computed, does not wait for the scheduler. What must wait is left to the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar, cast

import trio

from p2pinfer.effects import (
    Core,
    Deliver,
    Disconnect,
    Effect,
    EngineEffect,
    HearsDisk,
    Message,
    Misbehaved,
    Notify,
    Persist,
    Save,
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

    def compute(self, effect: EngineEffect) -> None:
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
        self._waits_until: float | None = None
        self._left: _Left[C] | None = None
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
                    await self._wait()
                    if self._left is not None:
                        await self._finish_left()
                    elif (given := self._next()) is not None:
                        await self._take(given)
                await trio.lowlevel.checkpoint()
        finally:
            self._has_ended = True
            self._waits_until = None
            self._room.unpark_all()
            for call in self._calls:
                call.finish(Cancelled("the peer is closing; start it again, then retry"))

    @property
    def core(self) -> C:
        """The core, to be read on the event loop; what changes it goes through the inbox."""
        return self._core

    def put(self, given: Input[C]) -> None:
        """Give an input that must not be lost and is bounded by nature, such as an engine's answer."""
        if self._waits_until is not None and not self._inbox:
            self._take_at_once(given, self._waits_until)
        else:
            self._queue(given)

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

    def _queue(self, given: Input[C]) -> None:
        self._inbox.append(given)
        self._given.set()

    async def _wait(self) -> None:
        """Wait for an input, the core's deadline, or something left to do."""
        deadline = self._core.deadline
        if self._inbox or self._left or (deadline is not None and deadline <= self._clock.now()):
            return
        self._given = trio.Event()
        self._waits_until = float("inf") if deadline is None else deadline
        with trio.move_on_after(max(0.0, self._waits_until - self._clock.now())):
            await self._given.wait()
        self._waits_until = None

    def _next(self) -> Input[C] | None:
        """What to do now: a deadline that has passed goes first. None where only the deadline was moved."""
        deadline = self._core.deadline
        if deadline is not None and deadline <= self._clock.now():
            return _tick
        if not self._inbox:
            return None
        given = self._inbox.popleft()
        if self._room:
            self._room.unpark()
        return given

    def _take_at_once(self, given: Input[C], waits_until: float) -> None:
        """Take an input while the loop waits; wake it for what has to wait, and for an earlier deadline."""
        self._waits_until = None
        try:
            effects = self._apply(given)
            index = self._perform_until_write(effects, 0)
            if index < len(effects):
                self._left = _Left(given, effects, index)
            else:
                self._performer.flush()
                self._finish(given, None)
        except Exception as error:  # noqa: BLE001 -- whoever gave the input is not to blame: the loop raises it
            self._left = _Left(given, [], 0, error)
        deadline = self._core.deadline
        if self._left or self._inbox or (deadline is not None and deadline < waits_until):
            self._given.set()
        else:
            self._waits_until = waits_until

    async def _finish_left(self) -> None:
        left, self._left = self._left, None
        if left is None:
            return
        if left.error is not None:
            raise left.error
        self._finish(left.given, await self._perform(left.effects, left.index))

    async def _take(self, given: Input[C]) -> None:
        self._finish(given, await self._perform(self._apply(given), 0))

    def _apply(self, given: Input[C]) -> list[Effect]:
        self._counts["inputs"] += 1
        try:
            effects = given(self._core, self._clock.now())
        except Exception as error:
            raise InternalError(f"the core failed on {given}: {error!r}; please report this") from error
        self._counts["effects"] += len(effects)
        return effects

    def _finish(self, given: Input[C], failure: WriteFailed | None) -> None:
        if isinstance(given, _Call):
            given.finish(failure)

    async def _perform(self, effects: list[Effect], index: int) -> WriteFailed | None:
        """Perform the effects in order; returns the disk's failure, if the core goes on without it."""
        failure: WriteFailed | None = None
        while (index := self._perform_until_write(effects, index)) < len(effects):
            writes = list(takewhile(lambda effect: isinstance(effect, Persist), effects[index:]))
            self._performer.flush()
            try:
                await self._performer.persist(cast("list[Persist]", writes))
            except WriteFailed as error:
                # What stands after a failed write must not happen: the core is asked what to do instead.
                self._counts["disk_failures"] += 1
                core: object = self._core
                if not isinstance(core, HearsDisk):
                    raise
                failure = error
                effects, index = core.disk_failed(error.key, self._clock.now()), 0
                self._counts["effects"] += len(effects)
            else:
                index += len(writes)
        self._performer.flush()
        return failure

    def _perform_until_write(self, effects: list[Effect], index: int) -> int:
        """Perform from `index` on what needs no waiting; returns where the first `Persist` stands."""
        while index < len(effects) and not isinstance(effects[index], Persist):
            self._perform_one(effects[index])
            index += 1
        return index

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._performer.send(effect.to, effect.message)
            case Disconnect():
                self._performer.disconnect(effect.peer)
            case Deliver() | Notify() | Misbehaved():
                self._performer.handle(effect)
            case Persist() | Save():
                raise InternalError(f"a {type(effect).__name__} is no effect that can be performed at once")
            case _:
                self._performer.compute(effect)


@dataclass(frozen=True, slots=True)
class _Left(Generic[C]):
    """An input that was taken at once and needs the loop to end it."""

    given: Input[C]
    effects: list[Effect]
    index: int
    error: Exception | None = None


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
