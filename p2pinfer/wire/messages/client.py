"""What a client asks of a node over a stream, and the answers: requests of the call protocol.

The command line and light clients use these; they need membership in the swarm, but hold no layers and
gossip nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.wire.messages.inference import POSITIONS_MAX, Sampling
from p2pinfer.wire.schema import Between, Count, Size, registered

_GREEDY = Sampling()

__all__ = [
    "ChatMessage",
    "GenerateRequest",
    "PromptProgress",
    "StatusReply",
    "StatusRequest",
    "Summary",
    "TextPiece",
]


@registered
@dataclass(frozen=True, slots=True)
class ChatMessage(Message):
    """One turn of a conversation: `role` is system, user or assistant."""

    TAG: ClassVar[int] = 112

    role: Annotated[str, Size(32)]
    content: Annotated[str, Size(1 << 20)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest(Message):
    """Client to node: answer this. The node is the entry peer of the generation.

    Either `prompt` (used as it is if `raw`, else as one user turn) or `chat`. Answered by a stream of
    PromptProgress, then of TextPiece, then one Summary.
    """

    TAG: ClassVar[int] = 113
    PLANE: ClassVar[Plane] = Plane.STREAM

    model: Annotated[str, Size(128)] = ""
    """Empty takes the only model of the swarm."""
    prompt: Annotated[str, Size(1 << 20)] = ""
    chat: Annotated[tuple[ChatMessage, ...], Count(1024)] = ()
    raw: bool = False
    sampling: Sampling = _GREEDY
    stop: Annotated[tuple[str, ...], Count(16)] = ()
    """Texts that end the answer; none of them is shown."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProgress(Message):
    """Node to client: so many of the prompt's tokens are computed; sent while the first piece is awaited."""

    TAG: ClassVar[int] = 111
    PLANE: ClassVar[Plane] = Plane.STREAM

    done: Annotated[int, Between(0, POSITIONS_MAX)]
    total: Annotated[int, Between(0, POSITIONS_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece(Message):
    """Node to client: the next piece of the answer, whole characters only; may be empty."""

    TAG: ClassVar[int] = 114
    PLANE: ClassVar[Plane] = Plane.STREAM

    text: Annotated[str, Size(1 << 16)]
    token: Annotated[int, Between(0, (1 << 31) - 1)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Message):
    """Node to client: the end of an answer, as the JSON object that `generate --json` prints."""

    TAG: ClassVar[int] = 115
    PLANE: ClassVar[Plane] = Plane.STREAM

    json: Annotated[str, Size(1 << 24)]


@registered
@dataclass(frozen=True, slots=True)
class StatusRequest(Message):
    """Client to node: how are you. Answered by one StatusReply."""

    TAG: ClassVar[int] = 116
    PLANE: ClassVar[Plane] = Plane.STREAM


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReply(Message):
    """Node to client: `peer.status()` as JSON."""

    TAG: ClassVar[int] = 117
    PLANE: ClassVar[Plane] = Plane.STREAM

    json: Annotated[str, Size(1 << 24)]
