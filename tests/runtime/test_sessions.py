"""The readers of sessions: a request waits for holders that the DHT names, as long as they may take."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from p2pinfer.errors import NoChain
from p2pinfer.holdings import HoldersFound
from p2pinfer.ids import SessionId, Span
from p2pinfer.inference.generation import Request
from p2pinfer.runtime import sessions
from p2pinfer.runtime.load import Load
from p2pinfer.runtime.progress import Activity
from p2pinfer.runtime.sessions import Sessions
from p2pinfer.swim.news import MemberJoined
from p2pinfer.wire.messages.inference import Sampling

DIGEST = b"\x01" * 32
REQUEST = Request(digest=DIGEST, layer_count=4, prompt=(1,), sampling=Sampling())
SESSION = SessionId(bytes(16))


class Core:
    """A peer's core as far as sessions see it."""

    def __init__(self) -> None:
        self.missing: tuple[Span, ...] = (Span(0, 4),)
        self.is_asking = True
        self.opened = 0
        self.cancelled: list[SessionId] = []
        self.holdings = SimpleNamespace(is_seeking=lambda digest, now: self.is_asking)

    def unheld(self, digest: bytes, layer_count: int) -> tuple[Span, ...]:
        assert (digest, layer_count) == (DIGEST, 4)
        return self.missing

    def open(self, request: Request, now: float) -> tuple[SessionId, list[Any]]:
        if self.missing:
            raise NoChain("nobody holds them", missing=self.missing)
        self.opened += 1
        return SESSION, []

    def cancel(self, session: SessionId, now: float) -> list[Any]:
        self.cancelled.append(session)
        return []


class Driver:
    """Runs commands at once, or keeps them for later."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.is_busy = False
        self.kept: list[Callable[[Any, float], Any]] = []

    async def call(self, command: Callable[[Any, float], Any]) -> Any:
        if self.is_busy:
            self.kept.append(command)
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return command(self.core, trio.current_time())[0]

    def put(self, given: Callable[[Any, float], Any]) -> None:
        given(self.core, trio.current_time())


def make() -> tuple[Core, Driver, Sessions]:
    core = Core()
    driver = Driver(core)
    parts: Any = SimpleNamespace(core=core, driver=driver, clock=SimpleNamespace(now=trio.current_time))
    return core, driver, Sessions(parts, Activity(), Load(0.0))


async def test_a_request_goes_on_when_the_holders_come(autojump_clock: trio.abc.Clock) -> None:
    core, _, reader = make()
    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.open, REQUEST)
        nursery.start_soon(reader.open, REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        reader.noted(HoldersFound((DIGEST,), 1))
        await trio.testing.wait_all_tasks_blocked()
        assert core.opened == 0, "found is not yet known to serve"
        core.missing = ()
        record: Any = None
        reader.noted(MemberJoined(record))
    assert core.opened == 2, "one waiter takes nothing from another"
    assert trio.current_time() == started_at


async def test_a_request_that_nobody_can_serve_fails_as_soon_as_that_is_known(
    autojump_clock: trio.abc.Clock,
) -> None:
    core, _, reader = make()
    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(NoChain):
                await reader.open(REQUEST)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        core.is_asking = False
        reader.noted(HoldersFound((DIGEST,), 0))
    assert trio.current_time() == started_at
    with pytest.raises(NoChain):
        await reader.open(REQUEST)
    assert trio.current_time() == started_at, "nor is it waited for where the DHT was asked a moment ago"


async def test_a_request_waits_so_long_and_no_longer(autojump_clock: trio.abc.Clock) -> None:
    _, _, reader = make()
    started_at = trio.current_time()
    with pytest.raises(NoChain):
        await reader.open(REQUEST)
    assert trio.current_time() - started_at == pytest.approx(sessions.HOLDERS_TIMEOUT_S)


async def test_a_request_that_was_cancelled_before_its_turn_opens_nothing() -> None:
    core, driver, reader = make()
    core.missing = ()
    driver.is_busy = True
    with trio.move_on_after(0) as scope:
        await reader.open(REQUEST)
    assert scope.cancelled_caught
    (late,) = driver.kept
    with pytest.raises(Exception, match="nobody wants the answer"):
        late(core, 0.0)
    assert core.opened == 0
