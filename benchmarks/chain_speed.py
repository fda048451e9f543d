"""The speed of a chain of node processes, as whoever asks through an entry peer sees it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.llama_cpp import Questions, Speeds
from p2pinfer.cli.local_swarm import LocalSwarm, open_swarm
from p2pinfer.ids import Span
from p2pinfer.inference.generation import Request
from p2pinfer.models.store import ModelStore
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["ChainFigures", "Setup", "measure_chain", "measure_token_ms"]

WARM_UP_COUNT = 16


@dataclass(frozen=True, kw_only=True)
class ChainFigures:
    """What one start of a chain gave."""

    speeds: Speeds
    token_ms: float
    """Median time from token to token of the single-stream answer."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Whom the chains are made of."""

    model: str
    cache_dir: Path
    settings: Mapping[str, object]
    """What every node is told: engine, accuracy, threads."""

    def swarm(self, spans: Sequence[Span]) -> AbstractAsyncContextManager[LocalSwarm]:
        """One node process for each span; nothing else of ours runs beside them."""
        return open_swarm(spans, model=self.model, cache_dir=self.cache_dir, settings=self.settings)


async def measure_chain(setup: Setup, spans: Sequence[Span], questions: Questions) -> ChainFigures:
    """Start a chain of node processes, ask, and end them.

    Raises:
        UnavailableError: A node did not start, or an answer failed.
    """
    async with setup.swarm(spans) as swarm:
        await _token_times_s(swarm, questions.short, WARM_UP_COUNT)
        times_s = await _token_times_s(swarm, questions.short, questions.token_count)
        started_s = time.perf_counter()
        (first_s,) = await _token_times_s(swarm, questions.long, 1)
        return ChainFigures(
            speeds=Speeds(
                decode=(len(times_s) - 1) / (times_s[-1] - times_s[0]),
                prefill=len(questions.long) / (first_s - started_s),
                sessions=await _speed_together(swarm, questions),
            ),
            token_ms=_median_ms(times_s),
        )


async def measure_token_ms(setup: Setup, spans: Sequence[Span], questions: Questions) -> float:
    """Start a chain for the single-stream answer alone; the median time from token to token.

    Raises:
        UnavailableError: A node did not start, or an answer failed.
    """
    async with setup.swarm(spans) as swarm:
        await _token_times_s(swarm, questions.short, WARM_UP_COUNT)
        return _median_ms(await _token_times_s(swarm, questions.short, questions.token_count))


def _median_ms(times_s: Sequence[float]) -> float:
    return 1000 * statistics.median(b - a for a, b in itertools.pairwise(times_s))


async def _speed_together(swarm: LocalSwarm, questions: Questions) -> float:
    last_s: list[float] = []

    async def ask(prompt: Sequence[int]) -> None:
        last_s.append((await _token_times_s(swarm, prompt, questions.token_count))[-1])

    started_s = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for prompt in questions.together:
            nursery.start_soon(ask, prompt)
    return questions.token_count * len(questions.together) / (max(last_s) - started_s)


async def _token_times_s(swarm: LocalSwarm, prompt: Sequence[int], count: int) -> list[float]:
    """Ask for so many tokens, none of which ends the answer; when each of them came."""
    manifest = ModelStore(swarm.cache_dir / "models").manifest_of(swarm.model)
    request = Request(
        digest=manifest.digest,
        layer_count=manifest.layer_count,
        prompt=tuple(prompt),
        sampling=Sampling(token_count_max=count),
    )
    async with aclosing(swarm.peer.sample(request)) as sampled:
        return [time.perf_counter() async for _ in sampled]
