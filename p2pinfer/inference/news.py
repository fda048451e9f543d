"""What an entry peer's core delivers to whoever asked for a generation."""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.errors import P2PInferError
from p2pinfer.ids import PeerId, SessionId
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["GenerationFailed", "PromptRead", "Recovered", "Sampled", "SessionOpened"]


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """Every hop is ready and the prompt is on its way."""

    session: SessionId
    chain: tuple[ChainHop, ...]


@dataclass(frozen=True, slots=True)
class PromptRead:
    """How much of the prompt is computed while the first token is awaited; each tells more than the last."""

    session: SessionId
    done: int
    """Positions computed."""
    total: int
    """Positions of the prompt."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of the answer; the last one says so, and nothing follows it."""

    session: SessionId
    token: int
    position: int
    final: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """Tokens flow again after a failure; delivered right before the first of them."""

    session: SessionId
    stall_s: float
    """From the last token before the failure to the first after it, as a reader feels it."""
    lost: tuple[PeerId, ...]
    """Who was replaced; empty where a broken connection or a lost message was all."""
    chain: tuple[ChainHop, ...]


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The end without a final token. What was delivered before is right."""

    session: SessionId
    error: P2PInferError
