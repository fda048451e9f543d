"""An answer under way: what `peer.generate` returns."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pinfer.ids import SessionId
from p2pinfer.inference.news import GenerationFailed, PromptRead, Recovered, Sampled, SessionOpened
from p2pinfer.models.tokenizer import TextStream
from p2pinfer.runtime.stop_text import StopText
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["Answer", "GeneratedToken", "Opened", "ReadingPrompt"]

News = SessionOpened | PromptRead | Sampled | Recovered | GenerationFailed


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of an answer and the text that became certain with it: whole characters, maybe none."""

    text: str
    token: int


@dataclass(frozen=True, slots=True)
class ReadingPrompt:
    """How much of the prompt is computed while the first token is awaited, in tokens."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened for an answer."""

    session: SessionId
    prompt_count: int
    text: TextStream
    stop_tokens: frozenset[int]
    news: trio.MemoryReceiveChannel[News]


@dataclass(slots=True)
class _Figures:
    """What the summary tells."""

    started_s: float = field(default_factory=time.perf_counter)
    first_s: float = math.nan
    last_s: float = math.nan
    tokens: list[int] = field(default_factory=list)
    chain: tuple[ChainHop, ...] = ()
    recoveries: list[Recovered] = field(default_factory=list)
    reason: str = "cancelled"


class Answer:
    """An async iterator over `GeneratedToken`. Leaving it early, or `aclose`, cancels the generation.

    After the last token, `summary` holds the figures.
    """

    def __init__(
        self, open_session: Callable[[], Awaitable[Opened]], cancel: Callable[[SessionId], None]
    ) -> None:
        self._open_session = open_session
        self._cancel = cancel
        self._opened: Opened | None = None
        self._has_ended = False
        self._figures = _Figures()
        self._pieces: list[str] = []
        self._stop = StopText(())

    def stopping_at(self, stops: tuple[str, ...]) -> Answer:
        """End the answer where one of these texts would begin."""
        self._stop = StopText(stops)
        return self

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> GeneratedToken:
        """Return the next token.

        Raises:
            P2PInferError: Why there is none; the tokens so far are right.
        """
        while (event := await self._next_event()) is not None:
            if isinstance(event, GeneratedToken):
                return event
        raise StopAsyncIteration

    async def events(self) -> AsyncIterator[ReadingPrompt | GeneratedToken]:
        """Iterate over the tokens, and before the first of them over how far the prompt is.

        Raises:
            P2PInferError: Why there are no more tokens; those so far are right.
        """
        while (event := await self._next_event()) is not None:
            yield event

    async def _next_event(self) -> ReadingPrompt | GeneratedToken | None:
        if self._has_ended:
            return None
        if self._opened is None:
            self._opened = await self._open_session()
        while True:
            news = await self._opened.news.receive()
            match news:
                case SessionOpened():
                    self._figures.chain = news.chain
                    return ReadingPrompt(0, self._opened.prompt_count)
                case PromptRead():
                    return ReadingPrompt(news.done, news.total)
                case Recovered():
                    self._figures.recoveries.append(news)
                    self._figures.chain = news.chain
                case GenerationFailed():
                    self._has_ended = True
                    raise news.error
                case Sampled():
                    return self._take(news, self._opened)

    def _take(self, news: Sampled, opened: Opened) -> GeneratedToken:
        figures = self._figures
        figures.last_s = time.perf_counter()
        if not figures.tokens:
            figures.first_s = figures.last_s
        figures.tokens.append(news.token)
        is_stop = news.token in opened.stop_tokens
        text = self._stop.push("" if is_stop else opened.text.push(news.token))
        if self._stop.has_stopped:
            figures.reason = "stop"
            self._end()
        elif news.final:
            figures.reason = "stop" if is_stop else "length"
            text += self._stop.push(opened.text.flush()) + self._stop.flush()
            self._has_ended = True
        self._pieces.append(text)
        return GeneratedToken(text, news.token)

    async def aclose(self) -> None:
        """Cancel the generation if it is under way; harmless otherwise."""
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            if self._opened is not None:
                self._cancel(self._opened.session)

    def __del__(self) -> None:
        # Somebody left the loop and forgot the answer: the hops must not keep computing for nobody.
        self._end()

    @property
    def session(self) -> SessionId | None:
        """The name of its session, for `Peer.move`; None before it is open, which the first event tells."""
        return self._opened.session if self._opened is not None else None

    @property
    def recoveries(self) -> tuple[Recovered, ...]:
        """The failures survived so far."""
        return tuple(self._figures.recoveries)

    @property
    def chain(self) -> tuple[ChainHop, ...]:
        """Who computes it now."""
        return self._figures.chain

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._figures.tokens)

    @property
    def summary(self) -> dict[str, Any]:
        """The figures, as `generate --json` prints them.

        `tokens` counts the answer's tokens, the stop token included. `tokens_per_s` is the speed after the
        first token. `stall_ms` is the pause that a reader felt, from token to token.
        """
        figures = self._figures
        count = len(figures.tokens)
        duration_s = figures.last_s - figures.first_s
        return {
            "text": "".join(self._pieces),
            "tokens": count,
            "token_ids": list(figures.tokens),
            "prompt_tokens": self._opened.prompt_count if self._opened else 0,
            "first_token_ms": _rounded((figures.first_s - figures.started_s) * 1000),
            "tokens_per_s": _rounded((count - 1) / duration_s) if count > 1 and duration_s > 0 else None,
            "finish_reason": figures.reason,
            "chain": [_hop(hop) for hop in figures.chain],
            "recoveries": [_recovery(recovery) for recovery in figures.recoveries],
        }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def _hop(hop: ChainHop) -> dict[str, Any]:
    return {
        "peer": str(hop.contact.peer or ""),
        "endpoint": str(hop.contact.endpoint),
        "span": f"{hop.start}:{hop.end}",
    }


def _recovery(recovery: Recovered) -> dict[str, Any]:
    return {
        "stall_ms": round(recovery.stall_s * 1000, 2),
        "lost": [str(peer) for peer in recovery.lost],
        "chain": [_hop(hop) for hop in recovery.chain],
    }
