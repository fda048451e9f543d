"""Writes tiny llama models with random weights: real GGUF files of some 100 kB, for tests of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from gguf import GGUFWriter, quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from tests.models.tiny_vocabulary import (
    CONTROL_TOKENS,
    SENTENCEPIECE_MIN,
    VOCABULARY_MIN,
    tiny_sentencepiece,
    tiny_vocabulary,
)

__all__ = ["CHAT_TEMPLATE", "CONTROL_TOKENS", "TinyOptions", "tiny_vocabulary", "write_tiny_llama"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TinyOptions(TypedDict, total=False):
    """The defaults stand in `_Sizes`."""

    layers: int
    hidden: int
    """A multiple of 32 unless the quantisation is F32 or F16."""
    heads: int
    kv_heads: int
    vocabulary: int
    """At least 259: three control tokens and the 256 bytes; what is beyond the merges is unused padding."""
    seed: int
    quantisation: str
    """F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1: for matrices; norms stay F32."""
    tied: bool
    """Whether the output layer is the embedding."""
    rope_factors: bool
    """Whether there is a tensor of llama 3's factors."""
    rope_scale: float
    context_length: int
    pre: str
    """The name of the pre-tokenizer, or "spm" for a sentencepiece vocabulary (at least 450 tokens)."""


@dataclass(frozen=True)
class _Sizes:
    layers: int = 4
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 320
    seed: int = 0
    quantisation: str = "F32"
    tied: bool = True
    rope_factors: bool = False
    rope_scale: float = 1.0
    context_length: int = 512
    pre: str = "gpt-2"

    @property
    def ffn(self) -> int:
        return 2 * self.hidden


def write_tiny_llama(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a llama with random weights and a byte-level BPE vocabulary that can encode any text.

    The same options give the same bytes. Returns the path.
    """
    sizes = _Sizes(**options)
    vocabulary_min = SENTENCEPIECE_MIN if sizes.pre == "spm" else VOCABULARY_MIN
    if sizes.vocabulary < vocabulary_min or sizes.hidden % sizes.heads or sizes.heads % sizes.kv_heads:
        raise ValueError(f"a tiny llama cannot have these sizes: {sizes}")
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer, sizes)
    _add_vocabulary(writer, sizes)
    type_ = GGMLQuantizationType[sizes.quantisation]
    rng = np.random.default_rng(sizes.seed)
    for name, shape in _shapes(sizes):
        if name == "rope_freqs.weight":
            writer.add_tensor(name, np.linspace(1, 8, shape[0], dtype=np.float32))
        elif len(shape) == 1:
            writer.add_tensor(name, (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32))
        else:
            _add_matrix(writer, name, rng.standard_normal(shape, dtype=np.float32), type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: GGUFWriter, sizes: _Sizes) -> None:
    writer.add_name(f"tiny-{sizes.layers}x{sizes.hidden}-{sizes.seed}")
    writer.add_context_length(sizes.context_length)
    writer.add_embedding_length(sizes.hidden)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.ffn)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(sizes.hidden // sizes.heads)
    writer.add_rope_freq_base(10_000.0)
    if sizes.rope_scale != 1:
        writer.add_string("llama.rope.scaling.type", "linear")
        writer.add_float32("llama.rope.scaling.factor", sizes.rope_scale)


def _add_vocabulary(writer: GGUFWriter, sizes: _Sizes) -> None:
    if sizes.pre == "spm":
        tokens, types, scores = tiny_sentencepiece(sizes.vocabulary)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
    else:
        tokens, types, merges = tiny_vocabulary(sizes.vocabulary)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(sizes.pre)
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _shapes(sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, ffn = sizes.hidden, sizes.ffn
    kv_width = width // sizes.heads * sizes.kv_heads
    yield "token_embd.weight", (sizes.vocabulary, width)
    if sizes.rope_factors:
        yield "rope_freqs.weight", (width // sizes.heads // 2,)
    for layer in range(sizes.layers):
        yield f"blk.{layer}.attn_norm.weight", (width,)
        yield f"blk.{layer}.attn_q.weight", (width, width)
        yield f"blk.{layer}.attn_k.weight", (kv_width, width)
        yield f"blk.{layer}.attn_v.weight", (kv_width, width)
        yield f"blk.{layer}.attn_output.weight", (width, width)
        yield f"blk.{layer}.ffn_norm.weight", (width,)
        yield f"blk.{layer}.ffn_gate.weight", (ffn, width)
        yield f"blk.{layer}.ffn_up.weight", (ffn, width)
        yield f"blk.{layer}.ffn_down.weight", (width, ffn)
    yield "output_norm.weight", (width,)
    if not sizes.tied:
        yield "output.weight", (sizes.vocabulary, width)


def _add_matrix(
    writer: GGUFWriter, name: str, weights: NDArray[np.float32], type_: GGMLQuantizationType
) -> None:
    # the spread keeps activations near 1, so that logits differ and deep spans neither vanish nor overflow
    scaled = weights if name == "token_embd.weight" else weights / np.sqrt(np.float32(weights.shape[1]))
    writer.add_tensor(name, quants.quantize(scaled, type_), raw_dtype=type_)
