"""SmolLM2-135M cut between ranks says what Hugging Face's float32 llama says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.tensor_shard import ShardCut
from p2pinfer.ids import Span
from p2pinfer.loading import load_numpy_weights
from p2pinfer.models.store import ModelStore
from tests.engine.local_group import LocalGroup
from tests.engine.test_golden import NAMES, Golden, check_logits, check_tokens, prefill

pytestmark = pytest.mark.e2e

WHOLE = Span(0, 30)
CUTS = (ShardCut(range(0, 1), range(0, 1000)), ShardCut(range(1, 3), range(1000, 1536)))
"""Three heads do not go evenly into two ranks."""


@pytest.fixture(scope="module")
def group() -> Iterator[LocalGroup]:
    store = ModelStore()
    store.pull("smollm2:135m")
    set_blas_threads(1)
    config, weights = load_numpy_weights(store.path_of("smollm2:135m"), WHOLE)
    made = LocalGroup(config, weights, CUTS)
    yield made
    made.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_group_says_what_the_oracle_says(group: LocalGroup, name: str) -> None:
    golden = Golden(name)
    check_logits(prefill([group], golden.prompt, [len(golden.prompt)]), golden)
    check_tokens([group], golden)
