"""The engine protocol: what a hop asks of whatever computes its layers.

An engine is used by one thread at a time, the worker's. It never sees a peer, a session's chain or a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2pinfer.ids import SessionId, Span
from p2pinfer.work import EngineInput, EngineOutput, SampleRequest

__all__ = ["Engine", "EngineInput", "EngineOutput", "SampleRequest"]


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

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        """Let a session reach more positions than it was opened for; what it holds stays as it is.

        Raises:
            LocalProtocolError: The session has no cache, or one for more positions already.
        """
        ...

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        """Compute the steps of a batch; results are in the batch's order.

        Several steps of one session stand together, in order, and have one position each: what a replay
        brings. Each gives the bits that it gives alone, and the one after a failed one fails, too.

        Whatever else is in the batch does not change a session's bits in the deterministic setting.
        """
        ...

    def drop_cache(self, session: SessionId) -> None:
        """Give the room back; an unknown session is ignored."""
        ...

    def close(self) -> None:
        """Give everything back; the engine is not used again."""
        ...
