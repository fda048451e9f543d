"""What the numpy engine promises beyond the conformance suite: exactness, errors, weights."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from p2pinfer.engine.api import EngineInput, SampleRequest
from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.layers import attention, rms_norm, swiglu
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.rope import RopeSettings, rotate, turns
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.engine.weights import LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError, DamagedModel, UnsupportedModel
from p2pinfer.ids import Span
from p2pinfer.wire.messages.inference import Sampling
from tests.engine.tiny import SESSION, tiny_config, tiny_engine, tiny_tensors

ROOT = Path(__file__).parents[2]
PROMPT = tuple(range(3, 60, 4))


def fingerprint() -> str:
    """A hash of everything a generation computes: the same in every process."""
    digest = hashlib.sha256()
    low, high = tiny_engine(Span(0, 2)), tiny_engine(Span(2, 4))
    for engine in (low, high):
        engine.open_cache(SESSION, 64)
    tokens: tuple[int, ...] = PROMPT
    base = 0
    for _ in range(20):
        hidden = low.run([EngineInput(SESSION, base, tokens=tokens)])[0].hidden
        digest.update(hidden.data if hidden else b"")
        base += len(tokens)
        request = SampleRequest(Sampling(temperature=0.9, seed=5), base)
        token = high.run([EngineInput(SESSION, base - len(tokens), hidden=hidden, sample=request)])[0].token
        digest.update(str(token).encode())
        tokens = (token or 0,)
    return digest.hexdigest()


def test_another_process_computes_the_same_bits() -> None:
    set_blas_threads(1)
    program = (
        "from p2pinfer.engine.blas import set_blas_threads; set_blas_threads(1);"
        "from tests.engine.test_numpy_engine import fingerprint; print(fingerprint())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "123"},  # variables may choose BLAS's kernels
        capture_output=True,
        check=True,
    )
    assert other.stdout.decode().strip() == fingerprint()


def test_the_engine_is_the_formula_written_out() -> None:
    config = tiny_config()
    tensors = {name: tensor.astype(np.float64) for name, tensor in tiny_tensors(config).items()}
    x = tensors["token_embd.weight"][list(PROMPT)]
    turn = turns(config.rope.frequencies(), 0, len(PROMPT))

    def normed(weight: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rms_norm(x.astype(np.float32), tensors[weight].astype(np.float32), config.rms_norm_eps)

    for layer in range(config.layer_count):
        prefix = f"blk.{layer}."
        normal = normed(f"{prefix}attn_norm.weight")
        parts = {
            name: (normal @ tensors[f"{prefix}attn_{name}.weight"].T).reshape(len(PROMPT), -1, 8).astype("f4")
            for name in "qkv"
        }
        rotate(parts["q"], turn)
        rotate(parts["k"], turn)
        mixed = attention(parts["q"], parts["k"].transpose(1, 0, 2), parts["v"].transpose(1, 0, 2))
        x = x + mixed @ tensors[f"{prefix}attn_output.weight"].T
        normal = normed(f"{prefix}ffn_norm.weight")
        both = [normal @ tensors[f"{prefix}ffn_{name}.weight"].T for name in ("gate", "up")]
        x = x + swiglu(np.concatenate(both, axis=1).astype("f4")) @ tensors[f"{prefix}ffn_down.weight"].T
    expected = normed("output_norm.weight")[-1] @ tensors["token_embd.weight"].T
    engine = tiny_engine()
    engine.open_cache(SESSION, 64)
    np.testing.assert_allclose(engine.logits(EngineInput(SESSION, 0, tokens=PROMPT)), expected, atol=1e-5)


def test_a_larger_cache_and_other_sessions_change_no_bit() -> None:
    small, large = tiny_engine(), tiny_engine()
    small.open_cache(SESSION, len(PROMPT))
    large.open_cache(SESSION, 5000)
    one = small.logits(EngineInput(SESSION, 0, tokens=PROMPT))
    other = large.logits(EngineInput(SESSION, 0, tokens=PROMPT))
    assert one.tobytes() == other.tobytes()


def test_a_part_of_the_span_runs_alone_to_the_last_layer() -> None:
    whole, low = tiny_engine(), tiny_engine(Span(0, 3))
    low.open_cache(SESSION, 20)
    hidden = low.run([EngineInput(SESSION, 0, tokens=PROMPT)])[0].hidden
    whole.open_cache(SESSION, 20)
    step = EngineInput(SESSION, 0, hidden=hidden, layers=Span(3, 4))
    whole_engine = tiny_engine()
    whole_engine.open_cache(SESSION, 20)
    expected = whole_engine.logits(EngineInput(SESSION, 0, tokens=PROMPT))
    assert whole.logits(step).tobytes() == expected.tobytes()
    with pytest.raises(StepRefused, match="last layer"):
        low.logits(EngineInput(SESSION, 0, tokens=PROMPT))


def test_numbers_that_overflow_are_an_error_and_the_cache_is_cut_to_the_base() -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    tensors["blk.1.ffn_down.weight"][:] = 3e38
    layers = [LayerWeights.from_tensors(config, tensors, layer) for layer in range(4)]
    engine = NumpyEngine(config, SpanWeights.assemble(config, Span(0, 4), layers, tensors))
    engine.open_cache(SESSION, 20)
    output = engine.run([EngineInput(SESSION, 0, tokens=PROMPT)])[0]
    assert output.error == "layers [0,4) gave numbers that are not finite"
    assert "base 1" in str(engine.run([EngineInput(SESSION, 1, tokens=(1,))])[0].error)


def test_a_closed_engine_holds_nothing_and_says_so() -> None:
    engine = tiny_engine()
    engine.open_cache(SESSION, 20)
    engine.close()
    assert engine.size_bytes == 0
    assert engine.run([EngineInput(SESSION, 0, tokens=(1,))])[0].error


def test_a_run_tells_how_long_it_took() -> None:
    engine = tiny_engine()
    engine.open_cache(SESSION, 20)
    assert all(
        0 < output.duration_s < 10 for output in engine.run([EngineInput(SESSION, 0, tokens=(1,))] * 2)
    )


def test_a_tied_output_shares_the_embeddings_memory() -> None:
    tied, separate = tiny_engine(), tiny_engine(tied=False)
    assert separate.size_bytes - tied.size_bytes == 97 * 24 * 4
    last = tiny_engine(Span(3, 4))
    first = tiny_engine(Span(0, 1))
    assert last.size_bytes == first.size_bytes + 24 * 4, "both hold one large matrix, the last a norm too"


def test_a_missing_or_misshapen_tensor_is_named() -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    wrong = tensors | {"blk.0.attn_k.weight": tensors["blk.0.attn_q.weight"]}
    with pytest.raises(
        DamagedModel, match=r"blk\.0\.attn_k\.weight is float32 \(48, 24\), not .* \(16, 24\)"
    ):
        LayerWeights.from_tensors(config, wrong, 0)
    with pytest.raises(DamagedModel, match=r"blk\.4\.attn_norm\.weight is missing"):
        LayerWeights.from_tensors(config, tensors, 4)
    del tensors["output_norm.weight"]
    with pytest.raises(DamagedModel, match="output_norm"):
        SpanWeights.assemble(config, Span(3, 4), [], tensors)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no multiple"):
        tiny_config(kv_head_count=4)
    with pytest.raises(UnsupportedModel, match="above head_size"):
        tiny_config(rope=RopeSettings(dimension_count=10))
    with pytest.raises(UnsupportedModel, match="at least 1"):
        tiny_config(ffn_size=0)


def test_a_span_beyond_the_model_is_refused() -> None:
    config = tiny_config()
    with pytest.raises(ConfigError, match="beyond the model's 4 layers"):
        NumpyEngine(config, SpanWeights(span=Span(0, 5), layers=()))


def test_threads_are_set_where_the_blas_is_openblas_and_nonsense_is_refused() -> None:
    assert isinstance(set_blas_threads(1), bool)
    with pytest.raises(ConfigError, match="threads is 0"):
        set_blas_threads(0)
