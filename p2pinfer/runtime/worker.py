"""The one thread that runs the engine.

Rules:

1. Every call of the engine happens on this thread, in the order in which it was asked for: numpy and
   onnxruntime keep per-thread state, and a cache must exist before a batch uses it.
2. Every `Compute` gets exactly one answer, with one output for each input, whatever the engine does.
3. Closing waits for the batch under way, drops what was not begun, and closes the engine.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import trio

from p2pinfer.effects import Compute, DropCache, EngineEffect, ExtendCache, OpenCache
from p2pinfer.engine.api import Engine
from p2pinfer.work import EngineInput, EngineOutput

__all__ = ["Worker"]

_log = logging.getLogger(__name__)


class Worker:
    """Runs an engine on a thread of its own, for as long as `run` runs.

    Args:
        engine: The loaded span; closed when `run` ends.
        on_computed: Called on the event loop with the outputs of each `Compute`, in order; never waits.

    Attributes:
        on_batch: Called on the event loop after that, with what was computed and the seconds it took.
    """

    def __init__(self, engine: Engine, on_computed: Callable[[tuple[EngineOutput, ...]], None]) -> None:
        self._engine = engine
        self._on_computed = on_computed
        self.on_batch: Callable[[Sequence[EngineInput], float], None] = lambda batch, duration_s: None
        self._asked: queue.SimpleQueue[EngineEffect | None] = queue.SimpleQueue()
        self._is_closing = False
        self._scope = trio.CancelScope()
        self._counts = {"batches": 0, "inputs": 0, "errors": 0}

    def submit(self, effect: EngineEffect) -> None:
        """Queue an effect. Never waits; the core bounds how much it asks for at a time."""
        self._asked.put(effect)

    def stop(self) -> None:
        """End `run`; what is still computed is for nobody, and what was asked for is dropped."""
        self._is_closing = True
        self._scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the thread until cancelled."""
        token = trio.lowlevel.current_trio_token()
        ended = trio.Event()

        def body() -> None:
            try:
                self._work(token)
            finally:
                token.run_sync_soon(ended.set)

        thread = threading.Thread(target=body, name="engine", daemon=True)
        thread.start()
        try:
            task_status.started()
            with self._scope:
                await trio.sleep_forever()
        finally:
            self._is_closing = True
            self._asked.put(None)
            with trio.CancelScope(shield=True):
                await ended.wait()

    def statistics(self) -> dict[str, int]:
        """Counters since the start; a copy."""
        return {**self._counts, "waiting": self._asked.qsize()}

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while not self._is_closing:
            effect = self._asked.get()
            if effect is None:
                break
            if isinstance(effect, Compute):
                started_s = time.perf_counter()
                outputs = self._compute(effect)
                # One call: each wakes the loop, and the second would fight the first for the interpreter.
                token.run_sync_soon(self._deliver, effect, outputs, time.perf_counter() - started_s)
            else:
                self._change_cache(effect)
        self._engine.close()

    def _deliver(self, effect: Compute, outputs: tuple[EngineOutput, ...], duration_s: float) -> None:
        if not self._is_closing:
            self._on_computed(outputs)
        self.on_batch(effect.batch, duration_s)

    def _compute(self, effect: Compute) -> tuple[EngineOutput, ...]:
        self._counts["batches"] += 1
        self._counts["inputs"] += len(effect.batch)
        try:
            outputs = tuple(self._engine.run(effect.batch))
            if len(outputs) == len(effect.batch):
                return outputs
            problem = f"the engine gave {len(outputs)} outputs for {len(effect.batch)} inputs"
        except Exception as error:  # noqa: BLE001 -- an engine is foreign code: one batch fails, not the peer
            _log.exception("the engine failed on a batch of %d", len(effect.batch))
            problem = f"{type(error).__name__}: {error}"
        self._counts["errors"] += 1
        return tuple(EngineOutput(error=problem) for _ in effect.batch)

    def _change_cache(self, effect: OpenCache | ExtendCache | DropCache) -> None:
        """Change a cache. A failure is told by the engine again for every step that needs the cache."""
        try:
            if isinstance(effect, OpenCache):
                self._engine.open_cache(effect.session, effect.positions_max)
            elif isinstance(effect, ExtendCache):
                self._engine.extend_cache(effect.session, effect.positions_max)
            else:
                self._engine.drop_cache(effect.session)
        except Exception:  # noqa: BLE001 -- as for a batch: this thread is the only one, and must live on
            self._counts["errors"] += 1
            _log.exception("the engine refused %s", effect)
