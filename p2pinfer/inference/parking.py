"""What an entry peer remembers of answers that have ended, so that a chat's next turn need not begin anew.

A hop parks the cache of an ended session. The next turn's prompt repeats the whole conversation: as many of
the parked session's steps as lie within the tokens that both share are not computed again. Steps are taken
whole, because a replay must repeat their shapes, and the prompt's last position is always computed, because
its logits are wanted; with one before it, for a prompt's step of a single position has other last bits.

A parked session is taken once: two answers cannot grow in one cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pinfer.ids import PeerId, SessionId, Span
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Generation, Request, StepShape
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["Parked", "ParkingLot"]


@dataclass(frozen=True, slots=True)
class Parked:
    """A session that is over, as far as another prompt shares it."""

    session: SessionId
    digest: bytes
    chain: tuple[ChainHop, ...]
    tokens: tuple[int, ...]
    shapes: tuple[StepShape, ...]
    """The steps that every hop has done."""
    until: float

    @property
    def position_count(self) -> int:
        """Positions that the steps cover."""
        return sum(self.shapes[-1]) if self.shapes else 0

    def shared_with(self, prompt: tuple[int, ...]) -> Parked:
        """Return it with the steps alone that lie within what the prompt shares, but its last two tokens."""
        limit = min(len(self.tokens), max(0, len(prompt) - 2))
        shared = next((i for i in range(limit) if self.tokens[i] != prompt[i]), limit)
        shapes = self.shapes
        if shapes and sum(shapes[-1]) > shared:
            shapes = tuple(shape for shape in shapes if sum(shape) <= shared)
        return Parked(self.session, self.digest, self.chain, self.tokens, shapes, self.until)


class ParkingLot:
    """The ended sessions of an entry peer, the oldest first.

    Invariant: at most `parked_count_max` of them.
    """

    def __init__(self, config: EntryConfig) -> None:
        self._config = config
        self._parked: dict[SessionId, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def put(self, generation: Generation, now: float) -> bool:
        """Remember a generation that ends; False where nothing is worth keeping."""
        tokens, shapes = generation.computed(with_answer=self._config.reuse_answers)
        if not shapes or not self._config.parked_count_max:
            return False
        while len(self._parked) >= self._config.parked_count_max:
            del self._parked[next(iter(self._parked))]
        until = now + self._config.parked_timeout_s
        self._parked[generation.id] = Parked(
            generation.id, generation.request.digest, generation.chain, tokens, shapes, until
        )
        return True

    def take(self, request: Request, holders: Mapping[PeerId, Span], now: float) -> Parked | None:
        """Take out the session that shares most with a prompt, if one does that is worth the asking.

        Args:
            request: What is asked for.
            holders: Who holds which layers of its model now: a chain with a peer that is gone is no use.
            now: The time.
        """
        for name in [name for name, parked in self._parked.items() if now >= parked.until]:
            del self._parked[name]
        usable = [
            parked.shared_with(request.prompt)
            for parked in self._parked.values()
            if parked.digest == request.digest and _is_held(parked.chain, holders)
        ]
        best = max(usable, key=lambda parked: parked.position_count, default=None)
        if best is None or best.position_count < self._config.reuse_positions_min:
            return None
        del self._parked[best.session]
        return best


def _is_held(chain: tuple[ChainHop, ...], holders: Mapping[PeerId, Span]) -> bool:
    for hop in chain:
        held = holders.get(hop.contact.peer) if hop.contact.peer is not None else None
        if held is None or not held.covers(hop.span):
            return False
    return True
