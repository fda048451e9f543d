"""SmolLM2-135M against Hugging Face's float32 llama: logits within 1e-3 and every greedy token equal.

The golden values come from `tests/golden/make_golden.py`. Here the greedy tokens are checked by feeding the
golden ones: token by token that is the same question, and a wrong one is named with its margin.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput, SampleRequest
from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.ids import SessionId, Span
from p2pinfer.loading import load_numpy_weights
from p2pinfer.models.store import ModelStore
from p2pinfer.testing import engine_conformance as suite
from p2pinfer.wire.messages.inference import Sampling

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2_135m_q4_1.npz"
NAMES = ("short", "code", "unicode", "long", "chat")
SPANS = (Span(0, 7), Span(7, 20), Span(20, 30))
LOGITS_DIFFERENCE_MAX = 1e-3
SESSION = SessionId(bytes(16))

Chain = Sequence[NumpyEngine]


@pytest.fixture(scope="module")
def make() -> Callable[[Span], NumpyEngine]:
    """Engines of the real model that share its weights, read once."""
    store = ModelStore()
    store.pull("smollm2:135m")
    set_blas_threads(1)
    config, weights = load_numpy_weights(store.path_of("smollm2:135m"), Span(0, 30))
    return lambda span: NumpyEngine(config, weights.part(config, span))


@pytest.fixture(scope="module")
def whole(make: Callable[[Span], NumpyEngine]) -> Chain:
    return [make(Span(0, 30))]


@pytest.fixture(scope="module")
def three(make: Callable[[Span], NumpyEngine]) -> Chain:
    return [make(span) for span in SPANS]


class Golden:
    """One prompt's golden values."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN) as arrays:
            self.prompt = tuple(arrays[f"{name}.prompt"].tolist())
            self.logits = arrays[f"{name}.logits"]
            self.tokens = tuple(arrays[f"{name}.tokens"].tolist())
            self.margins = arrays[f"{name}.margins"]


def advance(chain: Chain, base: int, tokens: Sequence[int]) -> EngineInput:
    """Run a step through all hops but the last; return the last one's input."""
    step = EngineInput(SESSION, base, tokens=tuple(tokens))
    for engine in chain[:-1]:
        output = engine.run([step])[0]
        assert output.error is None
        step = EngineInput(SESSION, base, hidden=output.hidden)
    return step


def prefill(chain: Chain, prompt: Sequence[int], chunks: Sequence[int]) -> NDArray[np.float32]:
    """Open the session, feed the prompt in chunks, return the last logits."""
    assert sum(chunks) == len(prompt)
    for engine in chain:
        engine.drop_cache(SESSION)
        engine.open_cache(SESSION, len(prompt) + 64)
    base = 0
    for size in chunks:
        logits = chain[-1].logits(advance(chain, base, prompt[base : base + size]))
        base += size
    return logits


def check_tokens(chain: Chain, golden: Golden) -> None:
    """Decode after the prompt and ask for each golden token."""
    for index, token in enumerate(golden.tokens[:-1], start=1):
        base = len(golden.prompt) + index - 1
        step = advance(chain, base, [token])
        request = SampleRequest(Sampling(), base + 1)
        sampled = EngineInput(SESSION, base, tokens=step.tokens, hidden=step.hidden, sample=request)
        found = chain[-1].run([sampled])[0].token
        assert found == golden.tokens[index], (
            f"greedy token {index} is {found}, the oracle's {golden.tokens[index]} "
            f"has a margin of {golden.margins[index]:.4f}"
        )


def check_logits(found: NDArray[np.float32], golden: Golden) -> None:
    difference = float(np.abs(found - golden.logits).max())
    assert difference <= LOGITS_DIFFERENCE_MAX, f"logits differ by {difference:.2e}"
    assert int(found.argmax()) == golden.tokens[0]


@pytest.mark.parametrize("name", NAMES)
def test_one_peer_says_what_the_oracle_says(whole: Chain, name: str) -> None:
    golden = Golden(name)
    check_logits(prefill(whole, golden.prompt, [len(golden.prompt)]), golden)
    check_tokens(whole, golden)


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_of_three_says_what_the_oracle_says(three: Chain, name: str) -> None:
    golden = Golden(name)
    check_logits(prefill(three, golden.prompt, [len(golden.prompt)]), golden)
    check_tokens(three, golden)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_any_chunking_of_the_prompt_says_the_same(whole: Chain, name: str, seed: int) -> None:
    golden = Golden(name)
    count = len(golden.prompt)
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, count), min(count - 1, 5)))
    chunks = [end - start for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
    print(f"seed {seed}: chunks {chunks}")
    check_logits(prefill(whole, golden.prompt, chunks), golden)


def test_the_real_model_conforms(make: Callable[[Span], NumpyEngine]) -> None:
    subject = suite.EngineSubject(
        make=make, layer_count=30, vocabulary_size=49152, prompt_count=11, token_count=3
    )
    suite.check_engine(subject)
