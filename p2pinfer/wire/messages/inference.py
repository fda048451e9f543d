"""The messages of a generation: how a session is opened, runs, breaks, mends and ends.

    entry peer          first hop            middle hop           last hop
        |--OpenSession---->|                     |                    |
        |--OpenSession-------------------------->|                    |
        |--OpenSession----------------------------------------------->|
        |<--SessionReady---|---------------------|--------------------|
        |--Step(tokens)--->|--Step(hidden)------>|--Step(hidden)----->|
        |<--Token-------------------------------------------------- --|   the ring closes:
        |                  |<--Token----------------------------------|   the first hop goes on at once
        |--CloseSession--->| ... (to every hop)

Steps of a session are numbered from 0. A hop takes each number once and in order, so a repeated step is
dropped and an early one waits. When a hop is lost, the entry peer sends every hop of the mended chain an
OpenSession with the next epoch, learns from each SessionReady which step it needs next, and then tells each
with Resume from which step on to send again what it kept. Every step is recomputed with the shape it had,
so a deterministic engine gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.ids import Contact, PeerId, SessionId, Span
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "ChainHop",
    "CloseSession",
    "OpenSession",
    "Prefilled",
    "Resume",
    "Sampling",
    "SessionReady",
    "SessionRefused",
    "Step",
    "StepFailed",
    "Tensor",
    "Token",
]

TENSOR_SIZE_BYTES_MAX = 64 << 20
POSITIONS_MAX = 1 << 20
STEP_POSITIONS_MAX = 4096


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling(Message):
    """How the last hop picks a token from the logits; the meaning and order of Ollama's options.

    The random number is a function of `seed` and the token's position alone, so that a replay, on whichever
    peer, draws the same token.
    """

    TAG: ClassVar[int] = 64

    temperature: Annotated[float, Between(0.0, 100.0)] = 0.0
    """0 takes the most likely token always."""
    top_k: Annotated[int, Between(0, 1 << 20)] = 0
    """Keep the k most likely; 0 keeps all."""
    top_p: Annotated[float, Between(0.0, 1.0)] = 1.0
    """Keep the smallest set whose probability reaches p; 1 keeps all."""
    min_p: Annotated[float, Between(0.0, 1.0)] = 0.0
    """Drop what is less likely than min_p times the most likely; 0 drops none."""
    repeat_penalty: Annotated[float, Between(0.01, 100.0)] = 1.0
    """Divides positive and multiplies negative logits of recent tokens; 1 changes nothing."""
    repeat_last_n: Annotated[int, Between(0, 4096)] = 64
    """How many tokens back `repeat_penalty` looks, the prompt included."""
    seed: int = 0
    stop_tokens: Annotated[tuple[int, ...], Count(64)] = ()
    """Ids that end the answer; the one met is reported, not shown."""
    token_count_max: Annotated[int, Between(1, POSITIONS_MAX)] = 128
    """Tokens of the answer at most."""


@registered
@dataclass(frozen=True, slots=True)
class ChainHop(Message):
    """One hop of a chain: who computes which layers. A holder may serve a part of what it holds."""

    TAG: ClassVar[int] = 65

    contact: Contact
    start: Annotated[int, Between(0, 1023)]
    end: Annotated[int, Between(1, 1024)]

    @property
    def span(self) -> Span:
        """The layers computed here."""
        return Span(self.start, self.end)


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession(Message):
    """Entry peer to each hop: take this place in the chain. Answered by SessionReady or SessionRefused.

    With an epoch above the known one it changes the chain and keeps the hop's cache if its span is the
    same. Repeated with the known epoch it changes nothing and asks whether the hop lives.
    """

    TAG: ClassVar[int] = 66
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    epoch: Annotated[int, Between(0, 1 << 20)]
    digest: Annotated[bytes, Exactly(32)]
    chain: Annotated[tuple[ChainHop, ...], Count(256)]
    index: Annotated[int, Between(0, 255)]
    entry: Contact
    positions_max: Annotated[int, Between(1, POSITIONS_MAX)]
    """Positions that the session can ever reach: what the hop reserves before anything is computed."""
    sampling: Sampling
    prompt_count: Annotated[int, Between(1, POSITIONS_MAX)]
    """Tokens of the prompt: the answer's first token has this position."""
    sample_from: Annotated[int, Between(1, POSITIONS_MAX)]
    """The first position whose token the entry peer does not know: earlier ones are not sampled again."""
    recent: Annotated[tuple[int, ...], Count(4096)] = ()
    """For the last hop: the tokens right before `sample_from`, at most `repeat_last_n`; else empty."""
    continues: SessionId | None = None
    """A parked session of the same entry peer whose cache this one takes over, where it is still here."""
    keep_steps: Annotated[int, Between(0, POSITIONS_MAX)] = 0
    """How many of the parked session's first steps are this session's too; the others are void."""
    fresh_since: Annotated[int, Between(0, 1 << 20)] = 0
    """A cache from an epoch before this one is void: the session began anew."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReady(Message):
    """Hop to entry peer: the place is taken; `next_step` is the first step this hop has not computed.

    `working` says that this step is at hand and queued or in the engine: silence is no loss then.
    """

    TAG: ClassVar[int] = 67
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    epoch: Annotated[int, Between(0, 1 << 20)]
    next_step: Annotated[int, Between(0, POSITIONS_MAX)]
    working: bool = False


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRefused(Message):
    """Hop to entry peer: no. Nothing was computed and nothing is kept.

    `code` is one of `overloaded` (come back after `retry_after_ms`), `span` (these layers of this model are
    not held here) and `closing` (the hop is shutting down).
    """

    TAG: ClassVar[int] = 68
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    epoch: Annotated[int, Between(0, 1 << 20)]
    code: Annotated[str, Size(32)]
    retry_after_ms: Annotated[int, Between(0, 1 << 31)] = 0


@registered
@dataclass(frozen=True, slots=True)
class Tensor(Message):
    """Opaque numbers with their header: cores carry it, engines alone look inside.

    Shapes: (T, D) for the hidden states of T positions, in row-major order.
    """

    TAG: ClassVar[int] = 69

    dtype: Annotated[str, Size(8)]
    """`f4` (little-endian float32) or `f2`."""
    shape: Annotated[tuple[Annotated[int, Between(1, 1 << 24)], ...], Count(4)]
    data: Annotated[bytes, Size(TENSOR_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Message):
    """Entry peer to the first hop with `tokens`, hop to hop with `hidden`: compute these positions.

    The cache is cut back to `base` before the step is appended: drafted positions are dropped that way.
    No answer; the last hop sends a Token if `sample` is set.
    """

    TAG: ClassVar[int] = 70
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    step: Annotated[int, Between(0, POSITIONS_MAX)]
    base: Annotated[int, Between(0, POSITIONS_MAX)]
    """Position of the first token or hidden state."""
    tokens: Annotated[tuple[int, ...], Count(STEP_POSITIONS_MAX)] = ()
    hidden: Tensor | None = None
    sample: bool = True
    """Whether the last position's logits give a token; not for the earlier chunks of a prompt."""

    @property
    def row_count(self) -> int:
        """Positions that are computed; the header alone is read."""
        return self.hidden.shape[0] if self.hidden and self.hidden.shape else len(self.tokens)

    @property
    def priority(self) -> Priority:
        return Priority.DECODE if self.row_count <= 1 else Priority.PREFILL


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Message):
    """Last hop to the first hop, which computes it as the next step, and to the entry peer."""

    TAG: ClassVar[int] = 71
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    step: Annotated[int, Between(0, POSITIONS_MAX)]
    """The step whose logits gave the token."""
    position: Annotated[int, Between(0, POSITIONS_MAX)]
    """The token's own position."""
    token: Annotated[int, Between(0, (1 << 31) - 1)]
    final: bool = False
    """The answer ends here: a stop token, the token limit, or the end of the context."""

    @property
    def priority(self) -> Priority:
        return Priority.DECODE


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled(Message):
    """Last hop to entry peer: an early chunk of the prompt is computed. Not answered; for people who wait."""

    TAG: ClassVar[int] = 75
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    position: Annotated[int, Between(1, POSITIONS_MAX)]
    """All positions below it are computed."""

    @property
    def priority(self) -> Priority:
        return Priority.DECODE


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Message):
    """Entry peer to a hop, after every hop of the epoch is ready: send again from `forward_from` on.

    The hop sends its kept outputs of these steps down the chain, in order, and goes on. Not answered.
    """

    TAG: ClassVar[int] = 72
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    epoch: Annotated[int, Between(0, 1 << 20)]
    forward_from: Annotated[int, Between(0, POSITIONS_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(Message):
    """Hop to entry peer: this hop cannot go on. `peer` is who is the reason, if that is not the hop itself.

    `code` is one of `unknown` (no such session here: expired or restarted), `unreachable` (the next hop),
    `nonsense` (the hop before sent what no honest hop sends; `detail` says what),
    `engine` (the computation failed; `detail` says how), `closing` (the hop is shutting down) and `draining`
    (it will: the session is still served, and had better move).
    """

    TAG: ClassVar[int] = 73
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    epoch: Annotated[int, Between(0, 1 << 20)]
    code: Annotated[str, Size(32)]
    peer: PeerId | None = None
    detail: Annotated[str, Size(256)] = ""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession(Message):
    """Entry peer to every hop: the session is over. Not answered; unknown ones are ignored.

    The hop forgets the session and its cache, or parks both if asked to `keep`: computes nothing more, gives
    the room up as soon as another session needs it, and until then lets an OpenSession take them over.
    """

    TAG: ClassVar[int] = 74
    PLANE: ClassVar[Plane] = Plane.STREAM

    session: SessionId
    keep: bool = False
