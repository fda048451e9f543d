"""The span that a peer serves now: it may be exchanged for another, and drained before the peer goes.

An exchange begins with the new engine, which is loaded already: in one turn of the driver the core serves the
new span, its effects go to the new worker, and what the old one still computes is for nobody. Sessions of the
old span fail over, as they do when a peer dies.
"""

from __future__ import annotations

import trio

from p2pinfer.effects import Effect
from p2pinfer.engine.api import Engine
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.load import Load
from p2pinfer.runtime.planes import Inputs
from p2pinfer.runtime.progress import Activity, Phase
from p2pinfer.runtime.worker import Worker

__all__ = ["HeldSpan"]

_DRAINED_CHECK_S = 0.05
"""How often a pure core, which has no event to wait for, is asked whether it is drained."""


class HeldSpan:
    """What a peer serves, for as long as its nursery is open."""

    def __init__(self, parts: Parts, nursery: trio.Nursery, activity: Activity, load: Load) -> None:
        self._parts = parts
        self._nursery = nursery
        self._activity = activity
        self._load = load
        self._worker: Worker | None = None

    async def serve(self, engine: Engine, served: ServedSpan, model: str, *, movable: bool = False) -> None:
        """Serve a span from now on, instead of the one before if there is one, and tell the swarm.

        Args:
            engine: The loaded span.
            served: What it is.
            model: The model's name.
            movable: Whether the peer would as well hold other layers of the model.
        """
        parts, old = self._parts, self._worker
        worker = self._worker = Worker(engine, Inputs(parts.driver).on_computed)
        worker.on_batch = lambda batch, took_s: self._load.batch_done(batch, took_s, parts.clock.now())
        await self._nursery.start(worker.run)

        def exchange(core: PeerCore, now: float) -> tuple[None, list[Effect]]:
            if old is not None:
                old.stop()
            parts.planes.worker = worker
            return None, core.serve(served, model, now, movable=movable)

        await parts.driver.call(exchange)
        self.enter_phase()

    def enter_phase(self) -> None:
        """Say what the peer does now that nothing is being loaded."""
        self._activity.enter(Phase.DRAINING if self._parts.core.is_draining else Phase.SERVING)

    async def drain(self, timeout_s: float) -> bool:
        """Hand the sessions over to others; whether the peer may go without anybody noticing.

        False after the timeout: nobody else holds some of the layers, or a session has not moved. The peer
        drains on; `resume` takes it back.
        """
        driver, core = self._parts.driver, self._parts.core
        self._activity.enter(Phase.DRAINING)
        await driver.call(lambda core, now: (None, core.drain(now)))
        with trio.move_on_after(timeout_s):
            while not core.is_drained:  # noqa: ASYNC110 -- a pure core has no event to wait for
                await trio.sleep(_DRAINED_CHECK_S)
        return core.is_drained

    async def resume(self) -> None:
        """Take `drain` back."""
        await self._parts.driver.call(lambda core, now: (None, core.resume(now)))
        self.enter_phase()
