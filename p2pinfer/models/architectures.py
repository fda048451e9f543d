"""What a model is made of: its sizes, its rotary embedding, and which tensors a span of layers needs.

Rules:

1. Metadata and tensor table are checked against each other before anything is computed: an engine that is
   given a `ModelConfig` finds every tensor of its span there, in the shape that the config says.
2. What would be computed wrongly is refused by name: an architecture, a rotary scaling, a mixture of
   experts, a tensor that is not expected.

The architecture `llama` covers Llama, Mistral and SmolLM2. Its GGUF weights want interleaved rotary: the
conversion has permuted q and k. The window of Mistral v0.1 is not applied, as llama.cpp does not.

Source: llama.cpp `src/models/llama.cpp`, `src/llama-model.cpp`; gguf.md for the keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from p2pinfer.errors import ConfigError, DamagedModel, ModelError, UnsupportedModel
from p2pinfer.ids import Span
from p2pinfer.models.fields import flag, real, text, whole
from p2pinfer.models.gguf import DEQUANTISABLE, GGUFFile
from p2pinfer.models.gguf_header import Metadata

__all__ = [
    "EMBEDDING",
    "OUTPUT",
    "OUTPUT_NORM",
    "SUPPORTED",
    "ModelConfig",
    "RopeConfig",
    "span_size_bytes",
    "span_tensor_names",
]

SUPPORTED = ("llama",)
EMBEDDING, OUTPUT_NORM, OUTPUT, ROPE_FACTORS = (
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "rope_freqs.weight",
)
LAYER_PARTS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
ROPE_BASE_DEFAULT = 10_000.0  # gguf.md: rope.freq_base
LAYER_COUNT_MAX = 4096  # hundreds in the wild
SIZE_MAX = 1 << 24  # any width, head or feed-forward size
CONTEXT_LENGTH_MAX = (1 << 31) - 1  # positions are 32-bit in the wire's messages


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of a model.

    The angle of pair i at position p is `p / factor * base ** (-2 * i / dimension_count) / f[i]`, where f is
    the tensor `rope_freqs.weight` (llama 3) if `has_factors`, else all ones.
    """

    base: float
    dimension_count: int
    """How many numbers of a head are rotated, the first ones; the others stay."""
    scaling: Literal["none", "linear"] = "none"
    factor: float = 1.0
    """1 unless the scaling is linear."""
    has_factors: bool = False
    style: Literal["interleaved"] = "interleaved"
    """Pairs are (0, 1), (2, 3) ..., not (0, n/2), (1, n/2 + 1) ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes of a model, checked against its tensors."""

    architecture: str
    name: str
    layer_count: int
    hidden_size: int
    head_count: int
    kv_head_count: int
    head_size: int
    ffn_size: int
    vocabulary_size: int
    context_length: int
    rms_norm_eps: float
    rope: RopeConfig
    tied_output: bool
    """The output layer uses the embedding's tensor."""

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelConfig:
        """Read the sizes and check every tensor against them.

        Raises:
            UnsupportedModel: An architecture or a variant that is not supported.
            DamagedModel: A field or a tensor is missing, or they contradict each other.
        """
        try:
            config = _read_config(file)
            _check_tensors(file, config)
        except ModelError as error:
            raise type(error)(f"{file.path.name}: {error}") from error
        return config


def span_tensor_names(config: ModelConfig, span: Span) -> tuple[str, ...]:
    """Name the tensors that a holder of the span needs, in the order of their use; none twice.

    Raises:
        ConfigError: The span reaches beyond the model.
    """
    if span.end > config.layer_count:
        raise ConfigError(
            f"the span {span} reaches beyond the {config.layer_count} layers of {config.name!r}: "
            f"choose one within 0:{config.layer_count}"
        )
    names = [EMBEDDING] if span.start == 0 else []
    if config.rope.has_factors:
        names.append(ROPE_FACTORS)
    names += [f"blk.{layer}.{part}.weight" for layer in range(span.start, span.end) for part in LAYER_PARTS]
    if span.end == config.layer_count:
        names += [OUTPUT_NORM, EMBEDDING if config.tied_output else OUTPUT]
    return tuple(dict.fromkeys(names))


def span_size_bytes(file: GGUFFile, span: Span) -> int:
    """How many bytes of the file a holder of the span needs.

    Raises:
        ModelError: As `ModelConfig.from_gguf`.
        ConfigError: The span reaches beyond the model.
    """
    names = span_tensor_names(ModelConfig.from_gguf(file), span)
    return sum(file.tensors[name].size_bytes for name in names)


def _read_config(file: GGUFFile) -> ModelConfig:
    metadata = file.metadata
    architecture = text(metadata, "general.architecture")
    if architecture not in SUPPORTED:
        raise UnsupportedModel(
            f"the architecture {architecture!r} is not supported; supported are: {', '.join(SUPPORTED)}"
        )
    _refuse_variants(metadata, architecture)
    hidden_size = whole(metadata, f"{architecture}.embedding_length", 1, SIZE_MAX)
    head_count = whole(metadata, f"{architecture}.attention.head_count", 1, SIZE_MAX)
    kv_head_count = whole(metadata, f"{architecture}.attention.head_count_kv", 1, SIZE_MAX, head_count)
    if head_count % kv_head_count:
        raise DamagedModel(f"{head_count} heads cannot share {kv_head_count} key-value heads evenly")
    head_size = whole(
        metadata, f"{architecture}.attention.key_length", 1, SIZE_MAX, hidden_size // head_count
    )
    value_size = whole(metadata, f"{architecture}.attention.value_length", 1, SIZE_MAX, head_size)
    if value_size != head_size:
        raise UnsupportedModel(
            f"keys of {head_size} and values of {value_size} numbers a head are not supported"
        )
    return ModelConfig(
        architecture=architecture,
        name=text(metadata, "general.name", file.path.stem),
        layer_count=whole(metadata, f"{architecture}.block_count", 1, LAYER_COUNT_MAX),
        hidden_size=hidden_size,
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_size=head_size,
        ffn_size=whole(metadata, f"{architecture}.feed_forward_length", 1, SIZE_MAX),
        vocabulary_size=_read_vocabulary_size(file),
        context_length=whole(metadata, f"{architecture}.context_length", 1, CONTEXT_LENGTH_MAX),
        rms_norm_eps=real(metadata, f"{architecture}.attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope=_read_rope(file, architecture, head_size),
        tied_output=OUTPUT not in file.tensors,
    )


def _refuse_variants(metadata: Metadata, architecture: str) -> None:
    if whole(metadata, f"{architecture}.expert_count", 0, SIZE_MAX, 0):
        raise UnsupportedModel("a mixture of experts is not supported")
    if not flag(metadata, f"{architecture}.attention.causal", True):
        raise UnsupportedModel("attention that is not causal is not supported")
    if whole(metadata, "split.count", 0, SIZE_MAX, 1) > 1:
        raise UnsupportedModel("the model is split over several files: merge them with llama-gguf-split")


def _read_rope(file: GGUFFile, architecture: str, head_size: int) -> RopeConfig:
    metadata, prefix = file.metadata, f"{architecture}.rope"
    dimension_count = whole(metadata, f"{prefix}.dimension_count", 2, head_size, head_size)
    if dimension_count % 2:
        raise DamagedModel(f"{prefix}.dimension_count is {dimension_count}; pairs are rotated, so it is even")
    scaling = text(metadata, f"{prefix}.scaling.type", "linear")
    if scaling not in ("none", "linear"):
        raise UnsupportedModel(
            f"the rotary scaling {scaling!r} is not supported; supported are: none, linear, llama 3's factors"
        )
    factor = 1.0
    if scaling == "linear":
        # scale_linear is the older name of the same number (gguf.md)
        older = real(metadata, f"{prefix}.scale_linear", -1.0, math.inf, 0.0)
        factor = real(metadata, f"{prefix}.scaling.factor", -1.0, math.inf, older) or 1.0
        if factor < 0:
            raise DamagedModel(f"{prefix}.scaling.factor is {factor} and should be positive")
    return RopeConfig(
        base=real(metadata, f"{prefix}.freq_base", 0.0, math.inf, ROPE_BASE_DEFAULT),
        dimension_count=dimension_count,
        scaling="none" if factor == 1.0 else "linear",
        factor=factor,
        has_factors=ROPE_FACTORS in file.tensors,
    )


def _read_vocabulary_size(file: GGUFFile) -> int:
    """The embedding's rows: some models pad their vocabulary beyond the tokenizer's."""
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None:
        raise DamagedModel(f"the tensor {EMBEDDING!r} is missing: fetch the file again")
    token_count = file.metadata.count("tokenizer.ggml.tokens") or 0
    if token_count > embedding.shape[0]:
        raise DamagedModel(
            f"the tokenizer has {token_count} tokens and the embedding {embedding.shape[0]} rows"
        )
    return embedding.shape[0]


def _expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, ffn = config.hidden_size, config.ffn_size
    heads, kv_heads = config.head_count * config.head_size, config.kv_head_count * config.head_size
    yield EMBEDDING, (config.vocabulary_size, width)
    yield OUTPUT_NORM, (width,)
    if not config.tied_output:
        yield OUTPUT, (config.vocabulary_size, width)
    if config.rope.has_factors:
        yield ROPE_FACTORS, (config.rope.dimension_count // 2,)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (heads, width),
        "attn_k": (kv_heads, width),
        "attn_v": (kv_heads, width),
        "attn_output": (width, heads),
        "ffn_norm": (width,),
        "ffn_gate": (ffn, width),
        "ffn_up": (ffn, width),
        "ffn_down": (width, ffn),
    }
    for layer in range(config.layer_count):
        for part in LAYER_PARTS:
            yield f"blk.{layer}.{part}.weight", shapes[part]


def _check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    expected: set[str] = set()
    for name, shape in _expected_shapes(config):
        info = file.tensors.get(name)
        if info is None:
            raise DamagedModel(f"the tensor {name!r} is missing: fetch the file again")
        if info.shape != shape:
            raise DamagedModel(
                f"the tensor {name!r} has the shape {info.shape}; the metadata asks for {shape}"
            )
        if info.type not in DEQUANTISABLE:
            raise UnsupportedModel(f"the tensor {name!r} is of type {info.type.name}, which is not supported")
        expected.add(name)
    unexpected = [name for name in file.tensors if name not in expected]
    if unexpected:
        # a bias or a norm that is left out gives fluent nonsense, so it is not left out
        raise UnsupportedModel(
            f"the tensor {unexpected[0]!r} (one of {len(unexpected)}) is none that a {config.architecture} "
            "model has here"
        )
