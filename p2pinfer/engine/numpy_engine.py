"""The reference engine: llama in float32 numpy, exact and readable.

Rules:

1. Each session of a batch is computed alone. Its bits depend on the weights, its own steps and their shapes,
   and on nothing else in the batch: the same sequence of step shapes gives the same bits in any process on
   the same kind of processor with the same numpy and the same number of BLAS threads.
2. A step of one position is computed by other BLAS kernels than a row of a longer step and may differ from it
   in the last bits; so may another chunking of a prompt. An exact replay repeats the shapes of the steps.
3. A step is checked whole before its cache changes. One that fails later (numbers that overflow) leaves the
   cache cut back to the step's base.

Departs from speed where it would cost exactness: steps are not stacked into one product, because the bits of
a row would then depend on how many there are. They go through a layer one after the other instead, while its
weights are in the processor's cache: a replay of single tokens takes less than half the time that way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput, EngineOutput
from p2pinfer.engine.kv_cache import CacheShape, CacheTable
from p2pinfer.engine.layers import attention, rms_norm, swiglu
from p2pinfer.engine.passes import Pass, runs_of_steps
from p2pinfer.engine.rope import rotate, turns
from p2pinfer.engine.sampling import choose_token
from p2pinfer.engine.step_input import BadInput, StepRefused, StepRules, tensor_from_hidden
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

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        self._caches.extend(session, positions_max)

    def drop_cache(self, session: SessionId) -> None:
        self._caches.drop(session)

    def close(self) -> None:
        self._caches.clear()
        self._weights = SpanWeights(span=self.span, layers=())

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        started_s = time.perf_counter()
        passes = [self._pass(steps) for steps in runs_of_steps(batch)]
        self._advance(passes)
        outputs = [output for each in passes for output in self._outputs(each)]
        share_s = (time.perf_counter() - started_s) / max(1, len(batch))
        return [dataclasses.replace(output, duration_s=share_s) for output in outputs]

    def logits(self, step: EngineInput) -> F32:
        """Compute a step and return the logits of its last position: for measuring, not for serving.

        Shapes:
            result: (V,).

        Raises:
            StepRefused: The step cannot be computed, or does not reach the last layer.
        """
        single = self._pass((step,))
        self._advance([single])
        if single.refusal is None and single.layers.end != self._config.layer_count:
            single.refusal = StepRefused("only a step through the last layer has logits")
        single.keep()
        if single.refusal is not None:
            raise single.refusal
        return self._logits(single.hidden[0][-1])

    def _pass(self, steps: Sequence[EngineInput]) -> Pass:
        """Check a run of steps and make its cache ready; what is wrong with it is kept in it."""
        made = Pass(steps)
        try:
            made.layers = self._rules.layers(steps[0])
            made.cache = self._caches.get(steps[0].session)
            for step in steps:
                self._rules.layers(step)
                made.hidden.append(self._rows(step, made.layers))
            made.cache.begin(made.layers, steps[0].base, sum(len(rows) for rows in made.hidden))
            made.turns = [
                turns(self._frequencies, step.base, len(rows))  # (T, 1, n/2)
                for step, rows in zip(steps, made.hidden, strict=True)
            ]
        except StepRefused as refusal:
            made.refusal = refusal
        return made

    def _advance(self, passes: Sequence[Pass]) -> None:
        """Run all through the layers, layer by layer: its weights are fetched from memory once for all.

        Each step is computed alone nevertheless, so its bits are those that it has by itself.
        """
        sound = [each for each in passes if each.refusal is None]
        with np.errstate(all="ignore"):  # what overflows is found when the outputs are kept
            for layer in range(self.span.start, self.span.end) if sound else ():
                weights = self._weights.layers[layer - self.span.start]
                for each in sound:
                    if each.refusal is None and layer in each.layers:
                        self._advance_one(each, weights, layer)

    def _advance_one(self, each: Pass, weights: LayerWeights, layer: int) -> None:
        try:
            for index, hidden in enumerate(each.hidden):
                hidden += self._attend(each, index, weights, layer)  # (T, D)
                normal = rms_norm(hidden, weights.ffn_norm, self._config.rms_norm_eps)  # (T, D)
                hidden += swiglu(normal @ weights.gate_up) @ weights.down  # (T, 2F) -> (T, F) -> (T, D)
        except StepRefused as refusal:  # no memory for a larger cache
            each.refusal = refusal

    def _outputs(self, each: Pass) -> list[EngineOutput]:
        """Keep what is sound and turn it into outputs, one for each step."""
        kept_count = each.keep()
        outputs: list[EngineOutput] = []
        for index, step in enumerate(each.steps):
            try:
                if index >= kept_count:
                    raise each.refusal or StepRefused("a step before it in its run failed")
                outputs.append(self._outcome(step, each.layers, each.hidden[index]))
            except StepRefused as refusal:
                outputs.append(EngineOutput(error=str(refusal), blames_input=isinstance(refusal, BadInput)))
        return outputs

    def _outcome(self, step: EngineInput, layers: Span, hidden: F32) -> EngineOutput:
        if layers.end < self._config.layer_count:
            return EngineOutput(hidden=tensor_from_hidden(hidden))
        if step.sample is None:
            return EngineOutput()
        return EngineOutput(token=choose_token(self._logits(hidden[-1]), step.sample))

    def _attend(self, each: Pass, index: int, weights: LayerWeights, layer: int) -> F32:
        """The attention half of a layer, for one step of a pass: (T, D) to (T, D)."""
        config, hidden = self._config, each.hidden[index]
        count = hidden.shape[0]
        normal = rms_norm(hidden, weights.attention_norm, config.rms_norm_eps)  # (T, D)
        heads = (normal @ weights.qkv).reshape(count, -1, config.head_size)  # (T, H + 2K, S)
        turning = config.head_count + config.kv_head_count
        rotate(heads[:, :turning], each.turns[index])
        keys, values = each.cache_of_pass().write(
            layer, each.steps[index].base, heads[:, config.head_count : turning], heads[:, turning:]
        )
        mixed = attention(heads[:, : config.head_count], keys, values)  # (T, H S)
        result: F32 = mixed @ weights.output  # (T, D)
        return result

    def _rows(self, step: EngineInput, layers: Span) -> F32:
        """Return what a step brings into the first of its layers: (T, D), an array of its own."""
        if layers.start == 0:
            return self._embedded(self._rules.tokens(step))
        return self._rules.hidden(step)

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
