"""Units of computation: what a hop's core asks of an engine and what it gets back.

They stand below both `inference` and `engine`, which know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.ids import SessionId, Span
from p2pinfer.wire.messages.inference import Sampling, Tensor

__all__ = ["EngineInput", "EngineOutput", "SampleRequest"]


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Asks the last hop for a token from the logits of the step's last position.

    `position` is the token's own position: it and the seed are all that the random number depends on.
    `recent` are the tokens before it, oldest first, for the repeat penalty.
    """

    sampling: Sampling
    position: int
    recent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInput:
    """One step of one session.

    Shapes:
        tokens: T ids, for a span that starts at layer 0, else empty.
        hidden: (T, D) float32, for any other span, else None.
    """

    session: SessionId
    base: int
    """Position of the first row; the cache is cut back to it before the rows are appended."""
    tokens: tuple[int, ...] = ()
    hidden: Tensor | None = None
    sample: SampleRequest | None = None
    """Only for a span that ends with the last layer, and only where a token is wanted."""
    layers: Span | None = None
    """The layers to run where that is not the whole span: a part of it, the same for a session's life."""

    @property
    def row_count(self) -> int:
        """Positions of the step; 0 where it has no input."""
        return self.hidden.shape[0] if self.hidden and self.hidden.shape else len(self.tokens)


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What a step gave: hidden states for the next hop, or a token, or neither (an early prompt chunk).

    An error of one session (bad shape, full cache) is told here and leaves the others of the batch alone.
    """

    hidden: Tensor | None = None
    token: int | None = None
    error: str | None = None
    blames_input: bool = False
    """The error is in what the step's sender gave: a shape, a type or a number that no honest hop sends."""
    duration_s: float = 0.0
