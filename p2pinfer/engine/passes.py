"""How the steps of a batch are grouped: a pass is one session's steps that go through the layers together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput
from p2pinfer.engine.kv_cache import KVCache
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.errors import InternalError
from p2pinfer.ids import Span

__all__ = ["Pass", "runs_of_steps"]


class Pass:
    """A run of steps of one session on its way through the layers.

    Attributes:
        steps: In order; several only if each has one position and follows the one before.
        layers: What they go through.
        cache: The session's.
        hidden: For each step its rows, (T, D) float32, changed in place from layer to layer.
        turns: For each step the rotations of its positions, (T, 1, n/2), the same in every layer.
        refusal: Why nothing of it can be kept, once that is known.
    """

    def __init__(self, steps: Sequence[EngineInput]) -> None:
        self.steps = tuple(steps)
        self.layers = Span(0, 1)
        self.cache: KVCache | None = None
        self.hidden: list[NDArray[np.float32]] = []
        self.turns: list[NDArray[np.complex64]] = []
        self.refusal: StepRefused | None = None

    def cache_of_pass(self) -> KVCache:
        """The session's cache, of a pass that was not refused."""
        if self.cache is None:
            raise InternalError("a pass without a cache was not refused")
        return self.cache

    def keep(self) -> int:
        """Count the sound steps' positions in; returns how many steps these are."""
        if self.refusal is not None:
            return 0
        for index, rows in enumerate(self.hidden):
            if not np.isfinite(rows).all():
                self.refusal = StepRefused(f"layers {self.layers} gave numbers that are not finite")
                return index
            self.cache_of_pass().keep(len(rows))
        return len(self.steps)


def runs_of_steps(batch: Sequence[EngineInput]) -> Iterator[tuple[EngineInput, ...]]:
    """Cut a batch into runs, in its order: neighbours of one session, of one position each, in a row."""
    run: list[EngineInput] = []
    for step in batch:
        if run and not _follows(run[-1], step):
            yield tuple(run)
            run = []
        run.append(step)
    if run:
        yield tuple(run)


def _follows(before: EngineInput, step: EngineInput) -> bool:
    return (
        before.session == step.session
        and before.layers == step.layers
        and before.base + 1 == step.base
        and before.row_count == step.row_count == 1
    )
