"""The reference engine: llama in float32 numpy, exact and readable.

Rules:

1. Each session of a batch is computed alone. Its bits depend on the weights, its own steps and their shapes,
   and on nothing else in the batch: the same sequence of step shapes gives the same bits in any process on
   the same kind of processor with the same numpy and the same number of BLAS threads.
2. A step of one position is computed by other BLAS kernels than a row of a longer step and may differ from it
   in the last bits; so may another chunking of a prompt. An exact replay repeats the shapes of the steps.
3. A step is checked whole before its cache changes. One that fails later (numbers that overflow) leaves the
   cache cut back to the step's base.

Departs from speed where it would cost exactness: sessions are not stacked into one product, because the
bits of a row would then depend on how many there are.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput, EngineOutput
from p2pinfer.engine.kv_cache import CacheShape, CacheTable, KVCache
from p2pinfer.engine.layers import attention, rms_norm, swiglu
from p2pinfer.engine.rope import rotate, turns
from p2pinfer.engine.sampling import choose_token
from p2pinfer.engine.step_input import StepRefused, StepRules, tensor_from_hidden
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError
from p2pinfer.ids import SessionId, Span

__all__ = ["NumpyEngine"]

F32 = NDArray[np.float32]


class NumpyEngine:
    """A span of a llama model; implements `engine.api.Engine`."""

    def __init__(self, config: EngineConfig, weights: SpanWeights, size_bytes_max: int | None = None) -> None:
        """Take the weights as they are.

        Args:
            config: The sizes of the whole model.
            weights: The span's weights.
            size_bytes_max: What the caches of all sessions may take together; None sets no limit.

        Raises:
            ConfigError: The span reaches beyond the model.
        """
        if weights.span.end > config.layer_count:
            raise ConfigError(f"span {weights.span} reaches beyond the model's {config.layer_count} layers")
        self._config = config
        self._weights = weights
        self._rules = StepRules(weights.span, config.layer_count, config.hidden_size, config.vocabulary_size)
        shape = CacheShape(weights.span, config.kv_head_count, config.head_size)
        self._shape = shape
        self._caches = CacheTable(shape, size_bytes_max)
        self._frequencies = config.rope.frequencies()

    @property
    def span(self) -> Span:
        return self._weights.span

    @property
    def hidden_size(self) -> int:
        return self._config.hidden_size

    @property
    def size_bytes(self) -> int:
        """Memory that weights and caches take now."""
        return self._weights.size_bytes + self._caches.size_bytes

    def cache_size_bytes(self, positions_max: int) -> int:
        return self._shape.size_bytes(positions_max)

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self._caches.open(session, positions_max)

    def drop_cache(self, session: SessionId) -> None:
        self._caches.drop(session)

    def close(self) -> None:
        self._caches.clear()
        self._weights = SpanWeights(span=self.span, layers=())

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        return [self._run_one(step) for step in batch]

    def logits(self, step: EngineInput) -> F32:
        """Compute a step and return the logits of its last position: for measuring, not for serving.

        Shapes:
            result: (V,).

        Raises:
            StepRefused: The step cannot be computed, or does not reach the last layer.
        """
        hidden = self._advance(step)
        if self._rules.layers(step).end != self._config.layer_count:
            raise StepRefused("only a step through the last layer has logits")
        return self._logits(hidden[-1])

    def _run_one(self, step: EngineInput) -> EngineOutput:
        started_s = time.perf_counter()
        try:
            output = self._outcome(step, self._advance(step))
        except StepRefused as refusal:
            output = EngineOutput(error=str(refusal))
        return dataclasses.replace(output, duration_s=time.perf_counter() - started_s)

    def _outcome(self, step: EngineInput, hidden: F32) -> EngineOutput:
        if self._rules.layers(step).end < self._config.layer_count:
            return EngineOutput(hidden=tensor_from_hidden(hidden))
        if step.sample is None:
            return EngineOutput()
        return EngineOutput(token=choose_token(self._logits(hidden[-1]), step.sample))

    def _advance(self, step: EngineInput) -> F32:
        """Run a step through its layers and keep its keys and values.

        Shapes:
            result: (T, D).
        """
        layers = self._rules.layers(step)
        cache = self._caches.get(step.session)
        hidden = self._embedded(self._rules.tokens(step)) if layers.start == 0 else self._rules.hidden(step)
        count = hidden.shape[0]
        cache.begin(layers, step.base, count)
        turn = turns(self._frequencies, step.base, count)  # (T, 1, n/2)
        with np.errstate(all="ignore"):  # what overflows is found below, once
            for layer in range(layers.start, layers.end):
                weights = self._weights.layers[layer - self.span.start]
                hidden += self._attend(hidden, weights, turn, cache, layer)  # (T, D)
                normal = rms_norm(hidden, weights.ffn_norm, self._config.rms_norm_eps)  # (T, D)
                hidden += swiglu(normal @ weights.gate_up) @ weights.down  # (T, 2F) -> (T, F) -> (T, D)
        if not np.isfinite(hidden).all():
            raise StepRefused(f"layers {layers} gave numbers that are not finite")
        cache.keep(count)
        return hidden

    def _attend(
        self, hidden: F32, weights: LayerWeights, turn: NDArray[np.complex64], cache: KVCache, layer: int
    ) -> F32:
        """The attention half of a layer: (T, D) to (T, D)."""
        config, count = self._config, hidden.shape[0]
        normal = rms_norm(hidden, weights.attention_norm, config.rms_norm_eps)  # (T, D)
        heads = (normal @ weights.qkv).reshape(count, -1, config.head_size)  # (T, H + 2K, S)
        turning = config.head_count + config.kv_head_count
        rotate(heads[:, :turning], turn)
        keys, values = cache.write(layer, heads[:, config.head_count : turning], heads[:, turning:])
        mixed = attention(heads[:, : config.head_count], keys, values)  # (T, H S)
        result: F32 = mixed @ weights.output  # (T, D)
        return result

    def _embedded(self, tokens: NDArray[np.int64]) -> F32:
        """Look token ids up: (T,) to (T, D), an array of its own."""
        if self._weights.embedding is None:
            raise StepRefused("this engine is closed")
        return np.ascontiguousarray(self._weights.embedding[tokens])  # (T, D)

    def _logits(self, last: F32) -> F32:
        """Turn the last position's hidden state into logits: (D,) to (V,)."""
        output, norm = self._weights.output, self._weights.output_norm
        if output is None or norm is None:
            raise StepRefused("this engine is closed")
        normal = rms_norm(last[None], norm, self._config.rms_norm_eps)  # (1, D)
        result: F32 = normal @ output  # (1, V)
        return result.reshape(-1)  # (V,)
