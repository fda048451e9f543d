"""Continuous batching: which waiting steps a hop computes next.

All waiting decode steps go first, for each is small and somebody reads its token; prompts fill the rest up
to a bound, so that the next decode step waits no longer than that. Within a kind the longest waiting wins,
which is fair between sessions because a session has one step in a batch at most. Where decode steps alone
fill the batch, the last place goes to whoever has waited longest, so that no prompt waits for ever.
Source: iteration-level scheduling of Orca, section 3; chunked prefill of Sarathi-Serve, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2pinfer.ids import SessionId

__all__ = ["Waiting", "choose_batch"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session whose next step is at hand."""

    session: SessionId
    position_count: int
    since: float


def choose_batch(
    waiting: Iterable[Waiting], *, batch_count_max: int, prefill_positions_max: int
) -> tuple[SessionId, ...]:
    """Return the sessions of the next batch; never empty where somebody waits."""
    ordered = sorted(waiting, key=lambda w: (w.position_count > 1, w.since, w.session))
    chosen, rest = ordered[:batch_count_max], ordered[batch_count_max:]
    if rest:
        chosen[-1] = min(chosen[-1], *rest, key=lambda w: (w.since, w.session))
    batch: list[SessionId] = []
    prefill_positions = 0
    for candidate in chosen:
        if candidate.position_count > 1:
            if prefill_positions and prefill_positions + candidate.position_count > prefill_positions_max:
                break
            prefill_positions += candidate.position_count
        batch.append(candidate.session)
    return tuple(batch)
