"""The engine protocol: what a hop asks of whatever computes its layers.

An engine is used by one thread at a time, the worker's. It never sees a peer, a session's chain or a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pinfer.ids import SessionId, Span
from p2pinfer.wire.messages.inference import Sampling, Tensor

__all__ = ["Engine", "EngineInput", "EngineOutput", "SampleRequest"]


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


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What a step gave: hidden states for the next hop, or a token, or neither (an early prompt chunk).

    An error of one session (bad shape, full cache) is told here and leaves the others of the batch alone.
    """

    hidden: Tensor | None = None
    token: int | None = None
    error: str | None = None
    duration_s: float = 0.0


class Engine(Protocol):
    """A loaded span. Methods are called from one thread; none keeps a reference to its arguments."""

    @property
    def span(self) -> Span:
        """The layers loaded."""
        ...

    @property
    def hidden_size(self) -> int:
        """D: numbers in the hidden state of one position."""
        ...

    def cache_size_bytes(self, positions_max: int) -> int:
        """What `open_cache` will take of memory for a session of that many positions."""
        ...

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        """Make room for a session.

        Raises:
            LocalProtocolError: The session has a cache already.
        """
        ...

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        """Compute one step of each session in the batch; results are in the batch's order.

        Whatever else is in the batch does not change a session's bits in the deterministic setting.
        """
        ...

    def drop_cache(self, session: SessionId) -> None:
        """Give the room back; an unknown session is ignored."""
        ...

    def close(self) -> None:
        """Give everything back; the engine is not used again."""
        ...
