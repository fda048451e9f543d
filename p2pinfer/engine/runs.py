"""Which inputs of a batch are computed as one step.

A replay brings many single positions of one session at once. An engine whose bits do not depend on how rows
are cut into steps computes them as one step of many rows, which fetches the weights once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput
from p2pinfer.ids import SessionId, Span

__all__ = ["Part", "Run", "first_of_each", "runs_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """An input that was found sound.

    Shapes:
        hidden: (T, D), what its rows bring into the first layer.
    """

    index: int
    """Its place in the batch."""
    step: EngineInput
    layers: Span
    hidden: NDArray[np.float32]

    @property
    def end(self) -> int:
        """The position behind its last row."""
        return self.step.base + len(self.hidden)


Run = tuple[Part, ...]
"""Inputs of one session that follow each other; never empty."""


def runs_of(parts: Iterable[Part], *, is_joining: bool) -> list[Run]:
    """Join the inputs that follow each other, in the order in which they begin; or leave each alone."""
    runs: list[Run] = []
    latest: dict[SessionId, int] = {}
    for part in parts:
        place = latest.get(part.step.session)
        last = None if place is None else runs[place][-1]
        follows = last is not None and part.step.base == last.end and part.layers == last.layers
        if is_joining and follows and place is not None:
            runs[place] = (*runs[place], part)
        else:
            latest[part.step.session] = len(runs)
            runs.append((part,))
    return runs


def first_of_each(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the first run of each session, and the others, which must wait for it."""
    seen: set[SessionId] = set()
    first: list[Run] = []
    later: list[Run] = []
    for run in runs:
        session = run[0].step.session
        (later if session in seen else first).append(run)
        seen.add(session)
    return first, later
