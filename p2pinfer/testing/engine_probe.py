"""What the engine conformance suite drives engines with: prompts, steps along a chain, comparisons.

An engine is seen only through `engine.api.Engine`. Every finding is a `ConformanceFailure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import Engine, EngineInput, EngineOutput, SampleRequest
from p2pinfer.ids import SessionId, Span
from p2pinfer.wire.messages.inference import Sampling, Tensor

__all__ = [
    "DRAWN",
    "GREEDY",
    "ConformanceFailure",
    "EngineSubject",
    "Generation",
    "chunkings",
    "numbers_of",
    "require",
    "require_close",
    "require_same",
    "run_one",
    "run_through",
    "session_id",
]

GREEDY = Sampling()
DRAWN = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.02, repeat_penalty=1.1, seed=7)


class ConformanceFailure(AssertionError):
    """An engine broke the protocol of `engine.api`. The engine's fault."""


@dataclass(frozen=True, kw_only=True)
class EngineSubject:
    """The model and the engine under test."""

    make: Callable[[Span], Engine]
    """Loads the span anew; two calls share no state."""
    layer_count: int
    """Layers of the whole model; at least 3, so that there is a middle."""
    vocabulary_size: int
    exact: bool = True
    """Whether equal step shapes give equal bits; else `tolerance` holds there too."""
    tolerance: float = 1e-4
    """Greatest difference of hidden states, relative to their greatest magnitude; what float32 gives."""
    prompt_count: int = 23
    """Tokens of a prompt; odd, so that no chunk size divides it."""
    token_count: int = 8
    """Tokens generated in a check."""
    seed: int = 0

    @property
    def whole(self) -> Span:
        """All layers."""
        return Span(0, self.layer_count)

    def prompt(self, index: int = 0) -> tuple[int, ...]:
        """Return a prompt drawn from the seed; equal indices give equal prompts."""
        rng = Random(f"{self.seed}/{index}")
        return tuple(rng.randrange(self.vocabulary_size) for _ in range(self.prompt_count))

    def spans(self) -> tuple[Span, ...]:
        """Cut the model into three."""
        first, second = max(1, self.layer_count // 4), max(2, self.layer_count // 2)
        return Span(0, first), Span(first, second), Span(second, self.layer_count)

    @contextmanager
    def engines(self, *spans: Span) -> Iterator[list[Engine]]:
        """Load engines and close them at the end."""
        made = [self.make(span) for span in spans]
        try:
            yield made
        finally:
            for engine in made:
                engine.close()


def session_id(number: int) -> SessionId:
    """Return a session's name for a test."""
    return SessionId(number.to_bytes(16, "big"))


def require(condition: bool, finding: str) -> None:
    """Fail with the finding unless the condition holds."""
    if not condition:
        raise ConformanceFailure(finding)


def numbers_of(tensor: Tensor | None) -> NDArray[np.float32]:
    """Return a step's hidden states: (T, D)."""
    if tensor is None:
        raise ConformanceFailure("a step that ends before the last layer gave no hidden states")
    require(tensor.dtype == "f4", f"hidden states came as {tensor.dtype}, not f4")
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def run_one(engine: Engine, step: EngineInput) -> EngineOutput:
    """Run a sound step alone."""
    outputs = engine.run([step])
    require(len(outputs) == 1, f"one step gave {len(outputs)} outputs")
    require(outputs[0].error is None, f"a sound step was refused: {outputs[0].error}")
    return outputs[0]


def run_through(
    chain: Sequence[Engine],
    session: SessionId,
    base: int,
    tokens: Sequence[int],
    sample: SampleRequest | None,
) -> EngineOutput:
    """Take one step along a chain; the last engine's output."""
    output = EngineOutput()
    for index, engine in enumerate(chain):
        last = index == len(chain) - 1
        step = EngineInput(
            session,
            base,
            tokens=() if index else tuple(tokens),
            hidden=output.hidden,
            sample=sample if last else None,
        )
        output = run_one(engine, step)
    return output


@dataclass(frozen=True)
class Generation:
    """How a prompt is fed and tokens are drawn from a chain of engines."""

    chain: Sequence[Engine]
    session: SessionId
    sampling: Sampling = GREEDY

    def open(self, positions_max: int) -> None:
        """Open the session at every engine."""
        for engine in self.chain:
            engine.open_cache(self.session, positions_max)

    def drop(self) -> None:
        """Drop the session at every engine."""
        for engine in self.chain:
            engine.drop_cache(self.session)

    def prefill(self, prompt: Sequence[int], chunks: Sequence[int]) -> int:
        """Feed the prompt in chunks of these sizes; return the first token."""
        base = 0
        for size in chunks[:-1]:
            output = run_through(self.chain, self.session, base, prompt[base : base + size], None)
            require(output.token is None, "a step that asked for no token gave one")
            base += size
        return self.step(base, prompt[base:], prompt)

    def step(self, base: int, tokens: Sequence[int], known: Sequence[int]) -> int:
        """Feed tokens from `base` on and return the one that follows."""
        position = base + len(tokens)
        request = SampleRequest(self.sampling, position, tuple(known[-self.sampling.repeat_last_n :]))
        token = run_through(self.chain, self.session, base, tokens, request).token
        if token is None:
            raise ConformanceFailure("a step that asked for a token gave none")
        return token

    def run(self, prompt: Sequence[int], count: int, chunks: Sequence[int] = ()) -> list[int]:
        """Open, prefill, decode one by one, and drop; return the tokens."""
        self.open(len(prompt) + count)
        known = [*prompt, self.prefill(prompt, chunks or [len(prompt)])]
        while len(known) < len(prompt) + count:
            known.append(self.step(len(known) - 1, known[-1:], known))
        self.drop()
        return known[len(prompt) :]


def chunkings(subject: EngineSubject) -> Iterator[list[int]]:
    """Ways to cut a prompt: whole, one by one, and a few random ones."""
    count = subject.prompt_count
    yield [count]
    yield [1] * count
    rng = Random(subject.seed)
    for _ in range(4):
        cuts = sorted(rng.sample(range(1, count), min(count - 1, rng.randrange(1, 6))))
        yield [end - start for start, end in zip([0, *cuts], [*cuts, count], strict=True)]


def require_same(subject: EngineSubject, one: Tensor | None, other: Tensor | None, what: str) -> None:
    """Ask for equal bits of an exact engine, else for closeness."""
    if subject.exact:
        require(numbers_of(one).tobytes() == numbers_of(other).tobytes(), f"{what} changes the bits")
    else:
        require_close(subject, numbers_of(one), numbers_of(other), what)


def require_close(
    subject: EngineSubject, one: NDArray[np.float32], other: NDArray[np.float32], what: str
) -> None:
    """Ask for hidden states within the subject's tolerance."""
    require(one.shape == other.shape, f"{what} changes the shape from {one.shape} to {other.shape}")
    difference = float(np.abs(one - other).max() / max(1e-9, float(np.abs(one).max())))
    require(difference <= subject.tolerance, f"{what} changes hidden states by {difference:.2e}")
