"""One generation as its entry peer sees it: what is known, who computes it, and what it waits for.

A generation's input is a row of numbered steps: the prompt in chunks, then one step for each token of the
answer. The entry peer knows them all, so it can always replay from the token ids. A generation that goes on
from an earlier one begins with that one's steps, in the shapes that they had.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.wire.messages.inference import ChainHop, OpenSession, Sampling, Step, Token

__all__ = ["Generation", "Hedge", "Origin", "Pace", "Phase", "Request", "StepShape", "chunked"]

_INTERVAL_WEIGHT = 0.2
_KEY_TOKENS = 64
"""Tokens of a prompt that tell conversations apart, and that those with one system prompt share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be generated, of which model."""

    digest: bytes
    layer_count: int
    prompt: tuple[int, ...]
    sampling: Sampling
    key: bytes = b""
    """What a client's requests share: its address. The balancer `client_address` alone goes by it."""
    vocabulary_size: int = 0
    """Tokens that the model knows; 0 where the asker does not, and then any token is believed."""

    @property
    def prompt_key(self) -> bytes:
        """What requests share whose prompts begin alike."""
        return repr(self.prompt[:_KEY_TOKENS]).encode()

    @property
    def layers(self) -> Span:
        """All layers of the model."""
        return Span(0, self.layer_count)

    @property
    def positions_max(self) -> int:
        """Positions that the session can reach: the prompt and the whole answer."""
        return len(self.prompt) + self.sampling.token_count_max


StepShape = tuple[int, int]
"""Where a step begins, and how many positions it has."""


def chunked(start: int, end: int, size: int) -> tuple[StepShape, ...]:
    """Cut the positions from `start` to `end` into steps of at most `size`.

    No step but the only one has a single position: engines compute those with other last bits.
    """
    bases = list(range(start, end, size))
    if len(bases) > 1 and size > 2 and end - bases[-1] == 1:
        bases[-1] -= 1
    return tuple((base, stop - base) for base, stop in zip(bases, [*bases[1:], end], strict=True))


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
    shapes: tuple[StepShape, ...]
    """The steps that the prompt takes."""
    phase: Phase = Phase.OPENING
    epoch: int = -1
    chain: tuple[ChainHop, ...] = ()
    ready: dict[int, int] = field(default_factory=dict)
    """By place in the chain: the step that the hop needs next, as it last said in this epoch."""
    answered: dict[int, bool] = field(default_factory=dict)
    """Who answered the OpenSession or probe under way, and whether it is at work on its next step."""
    origin: Origin = field(default_factory=lambda: Origin())
    is_announced: bool = False
    """Whether the asker knows that the session is open."""
    tokens: list[int] = field(default_factory=list)
    early: dict[int, Token] = field(default_factory=dict)
    deadline: float = 0.0
    pace: Pace = field(default_factory=lambda: Pace())
    trouble: Trouble = field(default_factory=lambda: Trouble())

    @property
    def chunk_count(self) -> int:
        """Steps that the prompt takes."""
        return len(self.shapes)

    @property
    def input_count(self) -> int:
        """Steps whose input is known."""
        return self.chunk_count + len(self.tokens)

    @property
    def steps_max(self) -> int:
        """Steps that the session can ever have."""
        return self.chunk_count + self.request.sampling.token_count_max

    @property
    def awaited_position(self) -> int:
        """The position of the next token of the answer."""
        return len(self.request.prompt) + len(self.tokens)

    @property
    def awaited_step(self) -> int:
        """The step whose logits give the next token."""
        return self.input_count - 1

    def computed(self, *, with_answer: bool) -> tuple[tuple[int, ...], tuple[StepShape, ...]]:
        """The tokens known, and the steps that every hop has done by now: what a later prompt may share."""
        known = (*self.request.prompt, *self.tokens)
        if not with_answer:
            return known, self.shapes if self.tokens else ()
        start = len(self.request.prompt)
        answered = tuple((start + index, 1) for index in range(len(self.tokens) - 1))
        return known, (*self.shapes, *answered) if self.tokens else ()

    def begin_anew(self, chunk_positions: int) -> None:
        """Give up what it went on from: every hop starts from nothing, in the next epoch."""
        self.origin = Origin(fresh_since=self.epoch + 1)
        self.shapes = chunked(0, len(self.request.prompt), chunk_positions)

    def is_final(self, token: Token) -> bool:
        """Whether the answer ends with this token: a rule that no hop is asked about."""
        sampling = self.request.sampling
        count = token.position - len(self.request.prompt) + 1
        return token.token in sampling.stop_tokens or count >= sampling.token_count_max

    def is_nonsense(self, token: Token) -> bool:
        """Whether no honest hop says so: a token that the model has not, or an end where none is."""
        size = self.request.vocabulary_size
        return (token.final and not self.is_final(token)) or 0 < size <= token.token

    def step(self, number: int) -> Step:
        """Return the numbered step as the first hop takes it."""
        if number < self.chunk_count:
            base, count = self.shapes[number]
            tokens = self.request.prompt[base : base + count]
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
            continues=self.origin.session,
            keep_steps=self.origin.step_count,
            fresh_since=self.origin.fresh_since,
        )

    def index_of(self, peer: PeerId | None) -> int | None:
        """The place of a peer in the present chain, if it has one."""
        for index, hop in enumerate(self.chain):
            if hop.contact.peer == peer:
                return index
        return None

    def peers_before(self, peer: PeerId) -> list[PeerId]:
        """The hops before a peer's in the present chain."""
        return [self.peer_at(index) for index in range(self.index_of(peer) or 0)]

    def done_count(self, index: int) -> int:
        """Steps that a hop is known to have done in this epoch: by its own word, or by a token of theirs."""
        said = self.ready.get(index, 0)
        return max(said, self.awaited_step) if self.tokens and self.trouble.began_at is None else said

    def unanswered(self) -> list[PeerId]:
        """The hops that have not answered what they were asked."""
        return [self.peer_at(i) for i in range(len(self.chain)) if i not in self.answered]

    def peer_at(self, index: int) -> PeerId:
        """Who has a place in the present chain."""
        peer = self.chain[index].contact.peer
        if peer is None:
            raise ValueError("a chain names its peers")
        return peer


@dataclass(frozen=True, slots=True)
class Origin:
    """What a generation goes on from, if it does not begin from nothing."""

    session: SessionId | None = None
    """The parked session."""
    step_count: int = 0
    """How many of that one's steps are its own first ones."""
    fresh_since: int = 0
    """The epoch in which it gave that up and began anew."""


@dataclass(slots=True)
class Pace:
    """When tokens came, and how fast they usually do."""

    last_at: float = 0.0
    interval_s: float = 0.0
    """Moving average; 0 before the second token."""
    best_s: float = 0.0
    """The least that the average has been: what is late is judged by it, lest slowness become usual."""
    read_count: int = 0
    """Positions of the prompt that the asker was told to be computed."""

    def take(self, now: float) -> None:
        """Count the time since the last token in."""
        weight = _INTERVAL_WEIGHT if self.interval_s else 1.0
        self.interval_s += (now - self.last_at - self.interval_s) * weight
        self.best_s = min(self.best_s or self.interval_s, self.interval_s)


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second holder that was asked to take the place of one that does not answer."""

    contact: Contact
    chain: tuple[ChainHop, ...]
    """The chain with the second in it."""


@dataclass(slots=True)
class Trouble:
    """What went wrong since the last token, and who is avoided for it."""

    began_at: float | None = None
    lost: list[PeerId] = field(default_factory=list)
    avoided: dict[PeerId, float] = field(default_factory=dict)
    """Until when a peer is not planned with."""
    excused: set[PeerId] = field(default_factory=set)
    """Who is not tried once more when nobody else is left: it was, or said no, or is known to be dead."""
    link_failures: Counter[tuple[PeerId, PeerId]] = field(default_factory=Counter)
    """By who complained and of whom."""
    accused_by: dict[PeerId, set[PeerId]] = field(default_factory=dict)
    """Of whom a hop said that they send nonsense: remembered to the generation's end."""
    slow_marks: Counter[PeerId] = field(default_factory=Counter)
    """How often a late token was found waiting for this hop alone; kept like the accusations."""
    rounds: int = 0
    stuck: int = 0
    """Probes in a row that all hops answered although nothing moved."""
    progress: tuple[int, ...] = ()
    """What the hops said in the probe before."""
    slow_since: float | None = None
    """Since when the hops that are at work got no step done."""
    was_late: bool = False
    """Whether this peer itself stood still during the present opening or probe."""
    hedge_at: float = float("inf")
    """When a second holder is asked for a place that is not answered."""
    hedge: Hedge | None = None
    retry_after_s: float | None = None
    """The wait that an overloaded hop asked for."""

    def judge_link(self, reporter: PeerId, accused: PeerId) -> PeerId | None:
        """Count a complaint, and return who is to be replaced for it, if anybody.

        The first is forgiven, for a connection may break between the healthy. Who complains of one
        neighbour after the other is what these have in common.
        """
        self.link_failures[reporter, accused] += 1
        if self.link_failures[reporter, accused] < 2:
            return None
        others = [who for (by, who), count in self.link_failures.items() if by == reporter and count > 1]
        return accused if others == [accused] else reporter

    def judge_nonsense(self, reporter: PeerId, accused: PeerId) -> PeerId:
        """Return who is replaced where one says that the other sent what no honest hop sends.

        Sending it again would not help, so the first complaint counts. Who complains of one hop after the
        other is what these have in common.
        """
        self.accused_by.setdefault(reporter, set()).add(accused)
        return accused if len(self.accused_by[reporter]) == 1 else reporter

    def clear(self) -> None:
        """A token came: what was wrong is mended. Who failed stays avoided."""
        self.began_at = None
        self.lost.clear()
        self.excused.clear()
        self.link_failures.clear()
        self.rounds = self.stuck = 0
        self.progress = ()
        self.slow_since = self.retry_after_s = None
