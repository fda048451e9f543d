"""Keeps a peer where the swarm needs it: a peer that may choose its layers moves when others lack more.

Which peer moves, and where to, follows from the holdings alone (`inference/placement.py`), so peers with
equal views name the same one. Views are not always equal: a move is made only where two looks, some seconds
apart, advise the same. A peer says what it will hold before it loads, so that nobody else fills the same gap,
and serves what it has until then.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import trio

from p2pinfer.errors import P2PInferError
from p2pinfer.ids import Span
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.held_span import HeldSpan
from p2pinfer.runtime.progress import Activity, Phase
from p2pinfer.runtime.serving import LocalModel, load_span, served_span

__all__ = ["Placer"]

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 5.0
"""Mean time between two looks: some rounds of gossip, so that a view is not the one before."""
_HAND_OVER_TIMEOUT_S = 10.0
"""How long open sessions may take to go elsewhere before the layers that they use are given up."""


@dataclass(frozen=True, slots=True)
class Placer:
    """Moves one peer's span."""

    parts: Parts
    held: HeldSpan
    activity: Activity
    model: LocalModel
    look_interval_s: float = LOOK_INTERVAL_S

    async def run(self) -> None:
        """Look, and move where that is advised, until cancelled."""
        before: Span | None = None
        while True:
            await trio.sleep(self.look_interval_s * random.uniform(0.5, 1.5))
            advised = self.parts.core.advised_span()
            if advised is not None and advised == before:
                await self.move_to(advised)
                advised = None
            before = advised

    async def move_to(self, span: Span) -> None:
        """Load another span and serve it instead; what cannot be loaded leaves everything as it was."""
        driver, config = self.parts.driver, self.parts.config
        _log.info("the swarm lacks layers %s of %s: loading them", span, self.model.name)
        await driver.call(lambda core, now: (None, core.prepare(span, now)))
        self.activity.enter(Phase.LOADING)
        try:
            engine = await trio.to_thread.run_sync(load_span, self.model, span, config, self.activity.report)
            served = await trio.to_thread.run_sync(served_span, self.model, engine)
        except (P2PInferError, MemoryError) as error:
            _log.warning("layers %s cannot be loaded, so this peer stays: %s", span, error)
            await driver.call(lambda core, now: (None, core.stay(now)))
            self.held.enter_phase()
            return
        await driver.call(lambda core, now: (None, core.hand_over(now)))
        with trio.move_on_after(_HAND_OVER_TIMEOUT_S):
            while self.parts.core.hop.session_count:  # noqa: ASYNC110 -- a pure core has no event to wait for
                await trio.sleep(0.05)
        await self.held.serve(engine, served, self.model.name, movable=True)
