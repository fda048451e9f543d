from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2pinfer.effects import Compute, DropCache, OpenCache
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import SessionId, Span
from p2pinfer.runtime.worker import Worker
from p2pinfer.work import EngineInput, EngineOutput

SESSION = SessionId(bytes(16))


class RecordingEngine:
    """Notes what is asked and on which thread; fails where it is told to."""

    span = Span(0, 4)
    hidden_size = 8

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def cache_size_bytes(self, positions_max: int) -> int:
        return positions_max

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self._note(f"open {positions_max}")
        if positions_max == 13:
            raise LocalProtocolError("the session has a cache already")
        if positions_max == 14:
            raise OSError(12, "Cannot allocate memory")

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        self._note(f"extend {positions_max}")

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        self.gate.wait(5)
        self._note(f"run {[each.base for each in batch]}")
        if batch[0].base == 13:
            raise FloatingPointError("a number too large")
        if batch[0].base == 14:
            return []
        return [EngineOutput(token=each.base) for each in batch]

    def drop_cache(self, session: SessionId) -> None:
        self._note("drop")

    def close(self) -> None:
        self._note("close")

    def _note(self, what: str) -> None:
        self.asked.append(what)
        self.threads.add(threading.get_ident())


class Run:
    def __init__(self) -> None:
        self.engine = RecordingEngine()
        self.results: list[tuple[EngineOutput, ...]] = []
        self._changed = trio.Event()
        self.worker = Worker(self.engine, self._on_computed)

    def _on_computed(self, outputs: tuple[EngineOutput, ...]) -> None:
        self.results.append(outputs)
        self._changed.set()

    async def wait(self, count: int) -> None:
        with trio.fail_after(5):
            while len(self.results) < count:
                self._changed = trio.Event()
                await self._changed.wait()


@asynccontextmanager
async def running() -> AsyncIterator[Run]:
    run = Run()
    async with trio.open_nursery() as nursery:
        await nursery.start(run.worker.run)
        yield run
        nursery.cancel_scope.cancel()


def batch(*bases: int) -> Compute:
    return Compute(tuple(EngineInput(session=SESSION, base=base) for base in bases))


async def test_everything_runs_in_order_on_one_thread_that_is_not_the_loops() -> None:
    async with running() as run:
        for effect in (OpenCache(SESSION, 64), batch(0), batch(1, 2), DropCache(SESSION), batch(3)):
            run.worker.submit(effect)
        await run.wait(3)
    assert run.engine.asked == ["open 64", "run [0]", "run [1, 2]", "drop", "run [3]", "close"]
    assert len(run.engine.threads) == 1
    assert threading.get_ident() not in run.engine.threads
    assert [[each.token for each in outputs] for outputs in run.results] == [[0], [1, 2], [3]]


@pytest.mark.parametrize(("base", "text"), [(13, "FloatingPointError: a number"), (14, "0 outputs for 2")])
async def test_an_engine_that_fails_gives_every_input_of_the_batch_its_error(base: int, text: str) -> None:
    async with running() as run:
        run.worker.submit(batch(base, 5))
        run.worker.submit(batch(6))
        await run.wait(2)
    failed, good = run.results
    assert len(failed) == 2
    assert all(each.error is not None and text in each.error for each in failed)
    assert good == (EngineOutput(token=6),)
    assert run.worker.statistics()["errors"] == 1


@pytest.mark.parametrize("positions_max", [13, 14])
async def test_a_cache_that_cannot_be_opened_does_not_end_the_worker(positions_max: int) -> None:
    async with running() as run:
        run.worker.submit(OpenCache(SESSION, positions_max))
        run.worker.submit(batch(1))
        await run.wait(1)
        assert run.worker.statistics() == {"batches": 1, "inputs": 1, "errors": 1, "waiting": 0}


async def test_closing_waits_for_the_batch_under_way_and_drops_the_rest() -> None:
    run = Run()
    run.engine.gate.clear()
    async with trio.open_nursery() as nursery:
        await nursery.start(run.worker.run)
        run.worker.submit(OpenCache(SESSION, 1))
        for base in range(3):
            run.worker.submit(batch(base))
        with trio.fail_after(5):
            while not run.engine.asked:
                await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        threading.Timer(0.02, run.engine.gate.set).start()
    assert run.engine.asked == ["open 1", "run [0]", "close"]
