"""A tiny model as an engine's own weights, from one seed: no file, no reader."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.rope import RopeSettings
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.ids import SessionId, Span

SESSION = SessionId(bytes(16))


def tiny_config(**changes: Any) -> EngineConfig:
    sizes: dict[str, Any] = {
        "layer_count": 4,
        "hidden_size": 24,
        "head_count": 6,
        "kv_head_count": 2,
        "head_size": 8,
        "ffn_size": 40,
        "vocabulary_size": 97,
        "rms_norm_eps": 1e-5,
        "rope": RopeSettings(dimension_count=8),
    }
    return EngineConfig(**(sizes | changes))


def tiny_tensors(config: EngineConfig, *, tied: bool = True, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """All tensors of the model, (out, in) and named as in a GGUF file."""
    rng = np.random.default_rng(seed)
    width, ffn = config.hidden_size, config.ffn_size
    query, kv = config.head_count * config.head_size, config.kv_head_count * config.head_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocabulary_size, width)}
    for layer in range(config.layer_count):
        parts = {
            "attn_norm": (width,),
            "attn_q": (query, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, query),
            "ffn_norm": (width,),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    shapes["output_norm.weight"] = (width,)
    if not tied:
        shapes["output.weight"] = (config.vocabulary_size, width)
    return {
        name: (rng.standard_normal(shape) * shape[-1] ** -0.5 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def tiny_engine(
    span: Span | None = None, *, tied: bool = True, config: EngineConfig | None = None
) -> NumpyEngine:
    config = config or tiny_config()
    span = span or Span(0, config.layer_count)
    tensors = tiny_tensors(config, tied=tied)
    layers = [LayerWeights.from_tensors(config, tensors, layer) for layer in range(span.start, span.end)]
    return NumpyEngine(config, SpanWeights.assemble(config, span, layers, tensors))
