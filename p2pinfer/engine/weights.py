"""A span's weights in the layout that the arithmetic wants.

They come in as plain float32 arrays, each (rows, columns) = (out, in) as in a GGUF file, named by GGUF's
names, and are kept transposed, (in, out): a one-token step then reads them in the order in which they lie,
measured twice as fast as the other way (9.0 against 16.8 ms for thirty matrices of 576 x 3072, one thread).
q, k and v share their input and lie side by side, and so do gate and up: fewer, larger products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.rope import RopeSettings
from p2pinfer.errors import ConfigError, DamagedModel, UnsupportedModel
from p2pinfer.ids import Span

__all__ = ["EngineConfig", "LayerWeights", "SpanWeights"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The sizes of a llama model; the same on every peer of a chain.

    Raises:
        UnsupportedModel: The sizes contradict each other.
    """

    layer_count: int
    """Layers of the whole model, whatever part of them is held here."""
    hidden_size: int
    """D."""
    head_count: int
    """H."""
    kv_head_count: int
    """K; divides H."""
    head_size: int
    """S; H * S need not be D."""
    ffn_size: int
    """F."""
    vocabulary_size: int
    """V."""
    rms_norm_eps: float
    rope: RopeSettings

    def __post_init__(self) -> None:
        sizes = (self.layer_count, self.hidden_size, self.head_count, self.kv_head_count)
        if min(*sizes, self.head_size, self.ffn_size, self.vocabulary_size) < 1:
            raise UnsupportedModel("a model's counts and sizes are at least 1")
        if self.head_count % self.kv_head_count:
            raise UnsupportedModel(
                f"head_count {self.head_count} is no multiple of kv_head_count {self.kv_head_count}"
            )
        if self.rope.dimension_count > self.head_size:
            raise UnsupportedModel(
                f"rope dimension_count {self.rope.dimension_count} is above head_size {self.head_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer, ready for `x @ weight`.

    Shapes:
        attention_norm, ffn_norm: (D,); qkv: (D, (H + 2K) S); output: (H S, D); gate_up: (D, 2F);
        down: (F, D).
    """

    attention_norm: F32
    qkv: F32
    output: F32
    ffn_norm: F32
    gate_up: F32
    down: F32

    @classmethod
    def from_tensors(cls, config: EngineConfig, tensors: Mapping[str, F32], layer: int) -> LayerWeights:
        """Build a layer from the tensors named `blk.<layer>.*.weight`.

        Raises:
            DamagedModel: A tensor is missing or has another shape than the config says.
        """
        width, ffn = config.hidden_size, config.ffn_size
        query, kv = config.head_count * config.head_size, config.kv_head_count * config.head_size

        def part(name: str, *shape: int) -> F32:
            return _tensor(tensors, f"blk.{layer}.{name}.weight", shape)

        return cls(
            attention_norm=part("attn_norm", width).copy(),
            qkv=_side_by_side(
                part("attn_q", query, width), part("attn_k", kv, width), part("attn_v", kv, width)
            ),
            output=_side_by_side(part("attn_output", width, query)),
            ffn_norm=part("ffn_norm", width).copy(),
            gate_up=_side_by_side(part("ffn_gate", ffn, width), part("ffn_up", ffn, width)),
            down=_side_by_side(part("ffn_down", width, ffn)),
        )

    @property
    def size_bytes(self) -> int:
        """Memory taken."""
        parts = (self.attention_norm, self.qkv, self.output, self.ffn_norm, self.gate_up, self.down)
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanWeights:
    """All that a peer holds of a model: its layers, and what belongs to the first or last layer.

    Shapes:
        embedding: (V, D), for a span that starts at layer 0, else None.
        output_norm: (D,) and output: (D, V), for a span that ends with the last layer, else None.
    """

    span: Span
    layers: tuple[LayerWeights, ...]
    embedding: F32 | None = None
    output_norm: F32 | None = None
    output: F32 | None = None

    @classmethod
    def assemble(
        cls, config: EngineConfig, span: Span, layers: Sequence[LayerWeights], tensors: Mapping[str, F32]
    ) -> SpanWeights:
        """Put built layers and the span's other tensors together.

        Where the output layer is tied to the embedding and both are held, one array serves both.

        Raises:
            DamagedModel: A tensor is missing or has another shape than the config says.
        """
        shape = (config.vocabulary_size, config.hidden_size)
        embedding = output_norm = output = None
        if span.start == 0:
            embedding = _tensor(tensors, "token_embd.weight", shape)
        if span.end == config.layer_count:
            tied = "output.weight" not in tensors
            output_norm = _tensor(tensors, "output_norm.weight", shape[1:]).copy()
            output = _side_by_side(_tensor(tensors, "token_embd.weight" if tied else "output.weight", shape))
            if tied and embedding is not None:
                embedding = output.T  # a row is then a column of the output: slower to read, but read rarely
        return cls(
            span=span, layers=tuple(layers), embedding=embedding, output_norm=output_norm, output=output
        )

    def part(self, config: EngineConfig, span: Span) -> SpanWeights:
        """Return what a part of the span needs, sharing the arrays: for several engines in one process.

        Raises:
            ConfigError: The part is not held here.
        """
        if not self.span.covers(span):
            raise ConfigError(f"layers {span} are not a part of {self.span}; load them from the model's file")
        is_last = span.end == config.layer_count
        return SpanWeights(
            span=span,
            layers=self.layers[span.start - self.span.start : span.end - self.span.start],
            embedding=self.embedding if span.start == 0 else None,
            output_norm=self.output_norm if is_last else None,
            output=self.output if is_last else None,
        )

    @property
    def size_bytes(self) -> int:
        """Memory taken; an array that serves twice counts once."""
        shared = self.output is not None and self.embedding is not None and self.embedding.base is self.output
        single = (None if shared else self.embedding, self.output_norm, self.output)
        return sum(layer.size_bytes for layer in self.layers) + sum(
            part.nbytes for part in single if part is not None
        )


def _tensor(tensors: Mapping[str, F32], name: str, shape: tuple[int, ...]) -> F32:
    array = tensors.get(name)
    if array is None:
        raise DamagedModel(f"tensor {name} is missing; fetch the model again")
    if array.shape != shape or array.dtype != np.float32:
        raise DamagedModel(f"tensor {name} is {array.dtype} {array.shape}, not float32 {shape}")
    return array


def _side_by_side(*parts: F32) -> F32:
    """Transpose matrices (out, in) and join them to one (in, sum of outs), in row-major order."""
    joined = np.empty((parts[0].shape[1], sum(part.shape[0] for part in parts)), np.float32)
    start = 0
    for part in parts:
        joined[:, start : start + part.shape[0]] = part.T
        start += part.shape[0]
    return joined
