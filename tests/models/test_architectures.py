from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pinfer.errors import ConfigError, DamagedModel, ModelError, UnsupportedModel
from p2pinfer.ids import Span
from p2pinfer.models.architectures import (
    LAYER_PARTS,
    ModelConfig,
    RopeConfig,
    span_size_bytes,
    span_tensor_names,
)
from p2pinfer.models.gguf import GGUFFile
from tests.models.edit import write_gguf
from tests.models.real_model import real_model_path
from tests.models.tiny import TinyOptions, write_tiny_llama


def read_config(path: Path) -> ModelConfig:
    with GGUFFile.open(path) as file:
        return ModelConfig.from_gguf(file)


def test_reads_the_sizes(tmp_path: Path) -> None:
    path = write_tiny_llama(
        tmp_path / "a.gguf", layers=3, hidden=96, heads=6, kv_heads=2, vocabulary=300, tied=False, seed=5
    )
    assert read_config(path) == ModelConfig(
        architecture="llama",
        name="tiny-3x96-5",
        layer_count=3,
        hidden_size=96,
        head_count=6,
        kv_head_count=2,
        head_size=16,
        ffn_size=192,
        vocabulary_size=300,
        context_length=512,
        rms_norm_eps=float(np.float32(1e-5)),
        rope=RopeConfig(base=10_000.0, dimension_count=16),
        tied_output=False,
    )


@pytest.mark.parametrize(
    ("metadata", "rope"),
    [
        ({"llama.rope.freq_base": None}, RopeConfig(base=10_000.0, dimension_count=16)),
        ({"llama.rope.freq_base": 5e5}, RopeConfig(base=5e5, dimension_count=16)),
        ({"llama.rope.dimension_count": None}, RopeConfig(base=10_000.0, dimension_count=16)),
        ({"llama.rope.dimension_count": 8}, RopeConfig(base=10_000.0, dimension_count=8)),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            RopeConfig(base=10_000.0, dimension_count=16, scaling="linear", factor=4.0),
        ),
        (
            {"llama.rope.scale_linear": 2.0},
            RopeConfig(base=10_000.0, dimension_count=16, scaling="linear", factor=2.0),
        ),
        (
            {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
            RopeConfig(base=10_000.0, dimension_count=16),
        ),
        ({"llama.rope.scaling.factor": 0.0}, RopeConfig(base=10_000.0, dimension_count=16)),
    ],
)
def test_reads_the_rotary_embedding(tmp_path: Path, metadata: dict[str, Any], rope: RopeConfig) -> None:
    assert read_config(write_gguf(tmp_path / "a.gguf", metadata)).rope == rope


def test_reads_llama_3s_factors(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", rope_factors=True)
    config = read_config(path)
    assert config.rope.has_factors
    assert "rope_freqs.weight" in span_tensor_names(config, Span(1, 2))


def test_heads_may_be_wider_than_the_model(tmp_path: Path) -> None:
    """Mistral Nemo: 32 heads of 128 in a width of 5120."""
    sizes: dict[str, Any] = {"llama.attention.key_length": 32, "llama.attention.value_length": 32}
    wide = {
        "blk.0.attn_q.weight": np.zeros((64, 32), np.float32),
        "blk.0.attn_k.weight": np.zeros((32, 32), np.float32),
        "blk.0.attn_v.weight": np.zeros((32, 32), np.float32),
        "blk.0.attn_output.weight": np.zeros((32, 64), np.float32),
    }
    config = read_config(write_gguf(tmp_path / "a.gguf", sizes, wide))
    assert (config.head_size, config.head_count, config.hidden_size) == (32, 2, 32)


@pytest.mark.parametrize(
    ("metadata", "error", "said"),
    [
        (
            {"general.architecture": "qwen2"},
            UnsupportedModel,
            "'qwen2' is not supported; supported are: llama",
        ),
        ({"llama.expert_count": 8}, UnsupportedModel, "mixture of experts"),
        ({"llama.attention.causal": False}, UnsupportedModel, "causal"),
        ({"split.count": 3}, UnsupportedModel, "split"),
        ({"llama.rope.scaling.type": "yarn"}, UnsupportedModel, "'yarn'"),
        ({"llama.rope.scaling.type": "longrope"}, UnsupportedModel, "'longrope'"),
        ({"llama.attention.head_count_kv": [1]}, UnsupportedModel, "layer to layer"),
        ({"llama.attention.value_length": 8}, UnsupportedModel, "keys of 16 and values of 8"),
        ({"llama.block_count": None}, DamagedModel, "lacks 'llama.block_count'"),
        ({"llama.block_count": 2}, DamagedModel, "'blk.1.attn_norm.weight' is missing"),
        ({"llama.block_count": 0}, DamagedModel, "'llama.block_count' is 0"),
        ({"llama.block_count": 1 << 40}, DamagedModel, "'llama.block_count'"),
        ({"llama.embedding_length": 64}, DamagedModel, "has the shape (320, 32)"),
        ({"llama.feed_forward_length": "64"}, DamagedModel, "should be a whole number"),
        ({"llama.attention.head_count": 0}, DamagedModel, "'llama.attention.head_count' is 0"),
        ({"llama.attention.head_count_kv": 3}, DamagedModel, "cannot share 3"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, DamagedModel, "epsilon"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, DamagedModel, "should be a number"),
        ({"llama.rope.freq_base": -1.0}, DamagedModel, "freq_base"),
        ({"llama.rope.freq_base": float("inf")}, DamagedModel, "freq_base"),
        ({"llama.rope.dimension_count": 7}, DamagedModel, "even"),
        ({"llama.rope.dimension_count": 18}, DamagedModel, "2 to 16"),
        ({"llama.rope.scaling.factor": -0.5}, DamagedModel, "positive"),
        ({"tokenizer.ggml.tokens": ["x"] * 321}, DamagedModel, "321 tokens"),
        ({"general.name": 5}, DamagedModel, "general.name"),
    ],
)
def test_metadata_that_is_wrong_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, Any], error: type[ModelError], said: str
) -> None:
    path = write_gguf(tmp_path / "wrong.gguf", metadata)
    with pytest.raises(error, match=r"^wrong\.gguf: ") as caught:
        read_config(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({"output_norm.weight": None}, DamagedModel, "'output_norm.weight' is missing"),
        ({"token_embd.weight": None}, DamagedModel, "'token_embd.weight' is missing"),
        ({"blk.0.ffn_up.weight": None}, DamagedModel, "'blk.0.ffn_up.weight' is missing"),
        ({"blk.0.ffn_up.weight": np.zeros((32, 64), np.float32)}, DamagedModel, "(32, 64)"),
        ({"output.weight": np.zeros((10, 32), np.float32)}, DamagedModel, "'output.weight'"),
        ({"rope_freqs.weight": np.zeros(9, np.float32)}, DamagedModel, "'rope_freqs.weight'"),
        ({"blk.0.attn_q.bias": np.zeros(32, np.float32)}, UnsupportedModel, "'blk.0.attn_q.bias'"),
        ({"output_norm.weight": np.zeros(32, np.int32)}, UnsupportedModel, "I32"),
    ],
)
def test_tensors_that_contradict_the_metadata_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, Any], error: type[ModelError], said: str
) -> None:
    path = write_gguf(tmp_path / "wrong.gguf", {}, tensors)
    with pytest.raises(error) as caught:
        read_config(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("options", [TinyOptions(tied=True), TinyOptions(tied=False, rope_factors=True)])
def test_spans_share_no_layer_and_miss_none(tmp_path: Path, options: TinyOptions) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", **options)
    with GGUFFile.open(path) as file:
        config = ModelConfig.from_gguf(file)
        parts = [span_tensor_names(config, span) for span in (Span(0, 1), Span(1, 3), Span(3, 4))]
        whole = span_tensor_names(config, Span(0, 4))
        assert set(whole) == set(file.tensors) == set().union(*parts)
        assert len(whole) == len(set(whole))
        size_bytes = sum(info.size_bytes for info in file.tensors.values())
        assert span_size_bytes(file, Span(0, 4)) == size_bytes
        shared = {"token_embd.weight"} if config.tied_output else {"rope_freqs.weight"}
        for one, other in ((0, 1), (1, 2), (0, 2)):
            assert set(parts[one]) & set(parts[other]) <= shared
    assert "token_embd.weight" not in parts[1]
    assert "output_norm.weight" not in parts[1]
    assert set(parts[2]) >= {
        "output_norm.weight",
        "token_embd.weight" if config.tied_output else "output.weight",
    }
    assert ("token_embd.weight" in parts[2]) == config.tied_output
    layers = [name for name in parts[1] if name.startswith("blk.")]
    assert layers == [f"blk.{layer}.{part}.weight" for layer in (1, 2) for part in LAYER_PARTS]


def test_a_span_beyond_the_model_is_refused(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", layers=2)
    config = read_config(path)
    with pytest.raises(ConfigError, match=r"\[1,3\) reaches beyond the 2 layers"):
        span_tensor_names(config, Span(1, 3))
    assert span_tensor_names(replace(config, layer_count=3), Span(1, 3))


@pytest.mark.e2e
def test_reads_the_real_model() -> None:
    path = real_model_path()
    with GGUFFile.open(path) as file:
        config = ModelConfig.from_gguf(file)
        spans = [span_size_bytes(file, span) for span in (Span(0, 10), Span(10, 20), Span(20, 30))]
    assert config == ModelConfig(
        architecture="llama",
        name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        layer_count=30,
        hidden_size=576,
        head_count=9,
        kv_head_count=3,
        head_size=64,
        ffn_size=1536,
        vocabulary_size=49152,
        context_length=8192,
        rms_norm_eps=float(np.float32(1e-5)),
        rope=RopeConfig(base=100_000.0, dimension_count=64),
        tied_output=True,
    )
    assert spans == [52_245_504, 22_164_480, 52_247_808]
