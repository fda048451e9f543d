"""What a peer is doing, and how far long work is.

Long work (pulling a model, loading layers) runs on threads; what it reports comes to the event loop, and a
report is also where such work learns that nobody wants it any more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import trio

from p2pinfer.ids import SessionId

__all__ = ["Activity", "OnProgress", "Phase", "Progress"]

Unit = Literal["bytes", "tensors", "positions"]


class Phase(enum.Enum):
    """What a peer does on the whole."""

    JOINING = "joining"
    """Looks for its swarm."""
    PULLING = "pulling"
    """Fetches the model that it is to serve."""
    LOADING = "loading"
    """Reads its layers into memory."""
    SERVING = "serving"
    """Computes its layers for whoever asks."""
    READY = "ready"
    """Holds no layers, and takes requests."""
    DRAINING = "draining"
    """Takes no new sessions and is about to leave."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of long work is."""

    work: str
    """What it is, for people; another text is another piece of work."""
    done: int
    total: int
    """0 while it is not known."""
    unit: Unit

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data; `percent` is null while the total is not known."""
        percent = round(100 * self.done / self.total, 1) if self.total else None
        return {
            "work": self.work,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "percent": percent,
        }


OnProgress = Callable[[Progress], None]
"""Told how far a peer's start is, on the event loop; must not wait."""


class Activity:
    """What one peer is doing now.

    Args:
        on_progress: Told of every report.

    Attributes:
        phase: What the peer does on the whole.
        progress: How far the work of this phase is; None where there is none.
        prompts: Prompts of answers asked for here whose first token is awaited: positions computed, and all.
    """

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.phase = Phase.JOINING
        self.progress: Progress | None = None
        self.prompts: dict[SessionId, tuple[int, int]] = {}
        self._on_progress = on_progress

    def enter(self, phase: Phase) -> None:
        """Begin another phase; how far the one before was is forgotten."""
        self.phase = phase
        self.progress = None

    def report(self, progress: Progress) -> None:
        """Tell how far the work is, from the thread of `trio.to_thread` that does it.

        Raises:
            trio.Cancelled: The work is not wanted any more.
        """
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(self._take, progress)

    def as_data(self) -> dict[str, Any]:
        """Return the keys `phase`, `progress` and `prompts` of a status."""
        return {
            "phase": self.phase.value,
            "progress": self.progress.as_data() if self.progress else None,
            "prompts": [{"done": done, "total": total} for done, total in self.prompts.values()],
        }

    def _take(self, progress: Progress) -> None:
        self.progress = progress
        if self._on_progress is not None:
            self._on_progress(progress)
