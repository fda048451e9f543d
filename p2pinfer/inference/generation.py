"""One generation as its entry peer sees it: what is known, who computes it, and what it waits for.

A generation's input is a row of numbered steps: the prompt in chunks, then one step for each token of the
answer. The entry peer knows them all, so it can always replay from the token ids.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.wire.messages.inference import ChainHop, OpenSession, Sampling, Step, Token

__all__ = ["Generation", "Phase", "Request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be generated, of which model."""

    digest: bytes
    layer_count: int
    prompt: tuple[int, ...]
    sampling: Sampling

    @property
    def layers(self) -> Span:
        """All layers of the model."""
        return Span(0, self.layer_count)

    @property
    def positions_max(self) -> int:
        """Positions that the session can reach: the prompt and the whole answer."""
        return len(self.prompt) + self.sampling.token_count_max


class Phase(enum.Enum):
    """What a generation waits for."""

    OPENING = "opening"
    """The hops' word that they are ready, at the start or in a recovery."""
    RUNNING = "running"
    """The next token."""
    PROBING = "probing"
    """The hops' word that they live, because a token is late."""


@dataclass(slots=True)
class Generation:
    """The state of one generation at its entry peer."""

    id: SessionId
    request: Request
    chunk_positions: int
    started_at: float
    phase: Phase = Phase.OPENING
    epoch: int = -1
    chain: tuple[ChainHop, ...] = ()
    ready: dict[int, int] = field(default_factory=dict)
    """By place in the chain: the step that the hop needs next, as said in this epoch or probe."""
    tokens: list[int] = field(default_factory=list)
    early: dict[int, Token] = field(default_factory=dict)
    deadline: float = 0.0
    token_at: float = 0.0
    token_interval_s: float = 0.0
    trouble: Trouble = field(default_factory=lambda: Trouble())

    @property
    def chunk_count(self) -> int:
        """Steps that the prompt takes."""
        return -(-len(self.request.prompt) // self.chunk_positions)

    @property
    def input_count(self) -> int:
        """Steps whose input is known."""
        return self.chunk_count + len(self.tokens)

    @property
    def awaited_position(self) -> int:
        """The position of the next token of the answer."""
        return len(self.request.prompt) + len(self.tokens)

    @property
    def awaited_step(self) -> int:
        """The step whose logits give the next token."""
        return self.input_count - 1

    def step(self, number: int) -> Step:
        """Return the numbered step as the first hop takes it."""
        if number < self.chunk_count:
            base = number * self.chunk_positions
            tokens = self.request.prompt[base : base + self.chunk_positions]
        else:
            index = number - self.chunk_count
            base, tokens = len(self.request.prompt) + index, (self.tokens[index],)
        return Step(
            session=self.id, step=number, base=base, tokens=tokens, sample=number >= self.chunk_count - 1
        )

    def open_message(self, index: int, me: Contact) -> OpenSession:
        """Return what the hop at `index` is told of its place in the present chain."""
        recent: tuple[int, ...] = ()
        last_n = self.request.sampling.repeat_last_n
        if index == len(self.chain) - 1 and last_n:
            recent = (*self.request.prompt, *self.tokens)[-last_n:]
        return OpenSession(
            session=self.id,
            epoch=self.epoch,
            digest=self.request.digest,
            chain=self.chain,
            index=index,
            entry=me,
            positions_max=self.request.positions_max,
            sampling=self.request.sampling,
            prompt_count=len(self.request.prompt),
            sample_from=self.awaited_position,
            recent=recent,
        )

    def index_of(self, peer: PeerId | None) -> int | None:
        """The place of a peer in the present chain, if it has one."""
        for index, hop in enumerate(self.chain):
            if hop.contact.peer == peer:
                return index
        return None

    def peer_at(self, index: int) -> PeerId:
        """Who has a place in the present chain."""
        peer = self.chain[index].contact.peer
        if peer is None:
            raise ValueError("a chain names its peers")
        return peer


@dataclass(slots=True)
class Trouble:
    """What went wrong since the last token, and who is avoided for it."""

    began_at: float | None = None
    lost: list[PeerId] = field(default_factory=list)
    avoided: dict[PeerId, float] = field(default_factory=dict)
    """Until when a peer is not planned with."""
    link_failures: Counter[tuple[PeerId, PeerId]] = field(default_factory=Counter)
    rounds: int = 0
    stuck: int = 0
    """Probes in a row that all hops answered although nothing moved."""
    progress: tuple[int, ...] = ()
    """What the hops said in the probe before."""
    retry_after_s: float | None = None
    """The wait that an overloaded hop asked for."""

    def clear(self) -> None:
        """A token came: what was wrong is mended. Who failed stays avoided."""
        self.began_at = None
        self.lost.clear()
        self.link_failures.clear()
        self.rounds = self.stuck = 0
        self.progress = ()
