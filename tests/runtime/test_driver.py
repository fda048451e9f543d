"""The loop, with a core that returns what it is told to and a performer that writes down what happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from p2pinfer.effects import (
    Compute,
    Deliver,
    Disconnect,
    DropCache,
    Effect,
    EngineEffect,
    Message,
    Misbehaved,
    Notify,
    OpenCache,
    Persist,
    Send,
)
from p2pinfer.errors import Cancelled, InternalError, LocalProtocolError
from p2pinfer.ids import Contact, PeerId, SessionId
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.disk import WriteFailed
from p2pinfer.runtime.driver import Driver
from p2pinfer.wire.messages.handshake import Heartbeat
from tests.runtime.attacker import NOWHERE
from tests.runtime.swarm import let_mock_time_pass

PEER = PeerId(bytes(32))
THERE = Contact(PEER, NOWHERE)
SESSION = SessionId(bytes(16))


class ScriptedCore:
    """Ticks as often as its deadlines say."""

    def __init__(self, deadlines: Sequence[float] = ()) -> None:
        self._deadlines = list(deadlines)
        self.ticks: list[float] = []

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        return [Deliver((sender, message))]

    def tick(self, now: float) -> list[Effect]:
        self.ticks.append(now)
        self._deadlines.pop(0)
        return [Notify("tick")]

    @property
    def deadline(self) -> float | None:
        return self._deadlines[0] if self._deadlines else None

    def statistics(self) -> Mapping[str, Any]:
        return {}


class ForgivingCore(ScriptedCore):
    def disk_failed(self, key: str, now: float) -> list[Effect]:
        return [Deliver(f"failed {key}"), Persist("instead", b"")]


class Recorder:
    """Performs by writing down; the disk waits for `gate` and fails for the keys in `bad`."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = trio.Event()
        self.gate.set()
        self.bad: set[str] = set()

    def send(self, to: Contact, message: Message) -> None:
        self.done.append("send")

    def flush(self) -> None:
        if self.done and self.done[-1] != "flush":
            self.done.append("flush")

    async def persist(self, writes: Sequence[Persist]) -> None:
        await self.gate.wait()
        for write in writes:
            if write.key in self.bad:
                raise WriteFailed("the disk is full", key=write.key)
        self.done.append("persist " + " ".join(write.key for write in writes))

    def disconnect(self, peer: PeerId) -> None:
        self.done.append("disconnect")

    def compute(self, effect: EngineEffect) -> None:
        self.done.append(type(effect).__name__)

    def handle(self, effect: Deliver | Notify | Misbehaved) -> None:
        self.done.append(str(getattr(effect, "item", None) or getattr(effect, "news", None) or "misbehaved"))


@asynccontextmanager
async def running(
    core: ScriptedCore, recorder: Recorder, *, inbox_count_max: int = 4
) -> AsyncIterator[Driver[ScriptedCore]]:
    clock = Clock(steady=trio.current_time, date=lambda: 1000.0)
    driver = Driver(core, clock=clock, performer=recorder, inbox_count_max=inbox_count_max)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


def returning(*effects: Effect) -> Any:
    return lambda core, now: list(effects)


async def test_effects_are_performed_in_order_and_neighbouring_writes_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with running(ScriptedCore(), recorder) as driver:
        driver.put(
            returning(
                Send(THERE, Heartbeat()),
                Persist("a", b""),
                Persist("b", b""),
                Disconnect(PEER),
                OpenCache(SESSION, 1),
                Compute(()),
                DropCache(SESSION),
                Misbehaved(PEER, "why"),
                Persist("c", b""),
                Deliver("last"),
            )
        )
        await trio.testing.wait_all_tasks_blocked()
    assert recorder.done == [
        *("send", "flush", "persist a b", "disconnect", "OpenCache", "Compute", "DropCache", "misbehaved"),
        *("flush", "persist c", "last", "flush"),
    ]


async def test_nothing_after_a_write_happens_before_it_is_on_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    recorder.gate = trio.Event()
    async with running(ScriptedCore(), recorder) as driver:
        driver.put(returning(Deliver("before"), Persist("key", b""), Deliver("after")))
        driver.put(returning(Deliver("next input")))
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.done == ["before", "flush"]
        recorder.gate.set()
        await trio.testing.wait_all_tasks_blocked()
    assert recorder.done == ["before", "flush", "persist key", "after", "flush", "next input", "flush"]


async def test_a_core_that_can_go_on_without_its_disk_is_asked_how(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    recorder.bad = {"bad"}
    async with running(ForgivingCore(), recorder) as driver:
        with pytest.raises(WriteFailed):
            await driver.call(lambda core, now: (1, [Persist("bad", b""), Deliver("never")]))
        assert recorder.done == ["failed bad", "flush", "persist instead", "flush"]
        assert driver.statistics()["disk_failures"] == 1
        assert await driver.call(lambda core, now: (2, [])) == 2


async def test_another_core_ends_with_the_disks_error(autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    recorder.bad = {"bad"}
    with pytest.RaisesGroup(WriteFailed):
        async with running(ScriptedCore(), recorder) as driver:
            driver.put(returning(Persist("bad", b"")))
            await trio.sleep_forever()


async def test_the_core_ticks_at_its_deadlines(autojump_clock: trio.testing.MockClock) -> None:
    core, recorder = ScriptedCore([1000.5, 1000.5, 1003.0]), Recorder()
    async with running(core, recorder):
        await let_mock_time_pass(10)
    assert core.ticks == [pytest.approx(1000.5), pytest.approx(1000.5), pytest.approx(1003.0)]


async def test_a_datagram_is_taken_in_its_readers_turn_where_the_loop_waits_and_in_order_where_it_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    recorder.gate = trio.Event()
    async with running(ScriptedCore(), recorder) as driver:
        await trio.testing.wait_all_tasks_blocked()
        assert driver.offer(returning(Deliver("at once")))
        assert recorder.done == ["at once", "flush"]
        assert driver.offer(returning(Persist("slow", b""), Deliver("after it")))
        assert driver.offer(returning(Deliver("waits")))
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.done == ["at once", "flush"]
        recorder.gate.set()
        await trio.testing.wait_all_tasks_blocked()
    assert recorder.done[2:] == ["persist slow", "after it", "flush", "waits", "flush"]


async def test_a_full_inbox_refuses_datagrams_makes_streams_wait_and_takes_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    recorder.gate = trio.Event()
    async with running(ScriptedCore(), recorder, inbox_count_max=2) as driver:
        driver.put(returning(Persist("slow", b"")))
        await trio.testing.wait_all_tasks_blocked()
        assert driver.offer(returning(Deliver("1")))
        assert driver.offer(returning(Deliver("2")))
        assert not driver.offer(returning(Deliver("lost")))
        assert driver.statistics()["dropped"] == 1
        driver.put(returning(Deliver("3")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.submit, returning(Deliver("4")))
            await trio.testing.wait_all_tasks_blocked()
            assert driver.statistics()["waiting"] == 3
            recorder.gate.set()
        await trio.testing.wait_all_tasks_blocked()
    assert [each for each in recorder.done if each != "flush"] == ["persist slow", "1", "2", "3", "4"]


async def test_a_call_returns_its_result_once_its_effects_are_performed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with running(ScriptedCore(), recorder) as driver:
        result = await driver.call(lambda core, now: (now, [Persist("key", b""), Deliver("x")]))
        assert result == pytest.approx(1000.0)
        assert recorder.done == ["persist key", "x", "flush"]


def refuse(core: ScriptedCore, now: float) -> tuple[None, list[Effect]]:
    raise LocalProtocolError("the session is open already")


async def test_a_command_that_the_core_refuses_is_the_callers_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(ScriptedCore(), Recorder()) as driver:
        with pytest.raises(LocalProtocolError, match="open already"):
            await driver.call(refuse)
        assert await driver.call(lambda core, now: ("alive", [])) == "alive"


async def test_an_exception_out_of_the_core_ends_the_peer_loudly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(InternalError, match="ZeroDivisionError")):
        async with running(ScriptedCore(), Recorder()) as driver:
            driver.put(lambda core, now: [Deliver(1 // 0)])
            await trio.sleep_forever()


async def test_who_waits_for_a_call_is_told_that_the_peer_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    recorder.gate = trio.Event()
    errors: list[Cancelled] = []

    async def ask(driver: Driver[ScriptedCore]) -> None:
        with pytest.raises(Cancelled, match="closing") as caught:
            await driver.call(lambda core, now: (1, [Persist("key", b"")]))
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        async with running(ScriptedCore(), recorder, inbox_count_max=1) as driver:
            for _ in range(4):
                nursery.start_soon(ask, driver)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, driver)
    assert len(errors) == 5


async def test_a_busy_inbox_leaves_other_tasks_their_turns(autojump_clock: trio.testing.MockClock) -> None:
    async with running(ScriptedCore(), Recorder()) as driver:
        remaining = 10_000

        def again(core: ScriptedCore, now: float) -> list[Effect]:
            nonlocal remaining
            remaining -= 1
            if remaining:
                driver.put(again)
            return []

        driver.put(again)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert remaining > 9_000


async def test_an_input_is_taken_in_its_givers_turn_while_the_loop_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    async with running(ScriptedCore(), recorder) as driver:
        await trio.testing.wait_all_tasks_blocked()
        driver.put(returning(Deliver("a"), Deliver("b")))
        assert recorder.done == ["a", "b", "flush"]
        # What must wait for the disk is left to the loop, and what comes meanwhile keeps its place.
        driver.put(returning(Deliver("c"), Persist("k", b""), Deliver("d")))
        driver.put(returning(Deliver("e")))
        assert recorder.done[3:] == ["c"]
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.done[3:] == ["c", "flush", "persist k", "d", "flush", "e", "flush"]


async def test_an_input_given_by_an_effect_waits_for_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    async with running(ScriptedCore(), recorder) as driver:
        await trio.testing.wait_all_tasks_blocked()

        def give_more(core: Any, now: float) -> list[Effect]:
            driver.put(returning(Deliver("later")))
            return [Deliver("first")]

        driver.put(give_more)
        assert recorder.done == ["first", "flush"]
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.done == ["first", "flush", "later", "flush"]


async def test_a_deadline_that_an_input_brings_forward_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    core = ScriptedCore([1100.0])
    async with running(core, Recorder()) as driver:
        await trio.testing.wait_all_tasks_blocked()

        def hurry(core: Any, now: float) -> list[Effect]:
            core._deadlines = [now + 1.0]
            return []

        driver.put(hurry)
        await let_mock_time_pass(2.0)
        assert core.ticks == [1001.0]


async def test_a_core_that_fails_in_its_givers_turn_ends_the_loop_and_not_the_giver(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def fail(core: Any, now: float) -> list[Effect]:
        raise ZeroDivisionError

    async def run() -> None:
        async with running(ScriptedCore(), Recorder()) as driver:
            await trio.testing.wait_all_tasks_blocked()
            driver.put(fail)
            await trio.sleep_forever()

    with pytest.RaisesGroup(InternalError):
        await run()
