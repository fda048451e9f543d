"""The fast engine: llama on onnxruntime, with weights multiplied as they lie in the file.

Rules:

1. With int8 activations a row's bits depend on the rows before it in its session alone: not on the batch, the
   number of threads, the slot or its capacity, nor on how rows were cut into steps. So a replay may have any
   shape, and single positions that follow each other in a batch are computed as one step.
2. Kernels that have another way for a single row are never given one. GroupQueryAttention has one on every
   processor: a row of zeros is added behind each session's, and the next step overwrites what it left in the
   cache. MatMulNBits has one with AVX2 alone, which is found out by a trial: there a row that is alone gets
   an idle slot beside it, a quarter of its speed. The accuracy int8-fast leaves that out, and with it rule 1.
3. With float32 activations MatMulNBits has a way for a single row on every processor, three times as fast as
   for two: each step of a single row is computed alone. There a row's bits depend, besides, on whether it
   came alone, and an exact replay repeats prompts as prompts, however cut, and single rows as single rows.
4. A step is checked whole before its slot changes; one that fails later (numbers that overflow) leaves the
   session cut back to the step's base.
5. Layers are cut into several sessions of onnxruntime where a part of the span is asked for: it costs one
   loading, then some 50 us a step, and no memory but while it is done.

What holds of the bits was measured on x86-64 with AVX-512 and with AVX2 alone, onnxruntime 1.32, and
`testing.engine_conformance` asks for it. Peers whose processors or versions differ compute other last bits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput, EngineOutput, SampleRequest
from p2pinfer.engine.embedding import EmbeddingTable
from p2pinfer.engine.kv_slots import SLOT_COUNT, KVSlots, Slot, SlotBlock, neighbours
from p2pinfer.engine.onnx_graph import LayerMatrices, head_graph, layers_graph
from p2pinfer.engine.onnx_session import HeadSession, LayersSession, OnnxSettings
from p2pinfer.engine.quantised import Matrix
from p2pinfer.engine.runs import Part, Run, first_of_each, runs_of
from p2pinfer.engine.sampling import choose_token
from p2pinfer.engine.step_input import BadInput, StepRefused, StepRules, tensor_from_hidden
from p2pinfer.engine.weights import EngineConfig
from p2pinfer.errors import ConfigError, UnsupportedModel
from p2pinfer.ids import SessionId, Span

__all__ = ["OnnxEngine", "OnnxSettings", "OnnxWeights"]

F32 = NDArray[np.float32]

_GAP_MAX = 2
"""Idle slots that a batch goes across: a row costs about a third of what a run of its own does."""
_SCORES_COUNT_MAX = 1 << 24
"""Numbers in the scores of a prompt's piece, which are H T C whatever of the capacity is used: 64 MB."""
_PIECE_COUNT_MIN, _PIECE_COUNT_MAX = 16, 256
"""Rows of a prompt's piece. More than 256 are no faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxWeights:
    """What a peer holds of a model, read when it is needed."""

    span: Span
    layer: Callable[[int], LayerMatrices]
    """Reads a layer; called again for each layer of a part that is cut off later."""
    embedding: EmbeddingTable | None = None
    """For a span that starts at layer 0, else None."""
    head: Callable[[], tuple[F32, Matrix]] | None = None
    """Reads norm (D,) and output layer (V, D), for a span that ends with the last layer, else None."""


class _Step:
    """A run on its way through the layers."""

    def __init__(self, run: Run, slot: Slot) -> None:
        self.run = run
        self.slot = slot
        self.layers = run[0].layers
        self.base = run[0].step.base
        self.hidden = np.concatenate([part.hidden for part in run])  # (T, D)


class OnnxEngine:
    """A span of a llama model; implements `engine.api.Engine`."""

    def __init__(self, config: EngineConfig, weights: OnnxWeights, settings: OnnxSettings) -> None:
        """Load the span.

        Raises:
            ConfigError: The span reaches beyond the model.
            UnsupportedModel: onnxruntime has no kernel for the sizes of the heads.
            DamagedModel: A weight is no finite number.
        """
        span = weights.span
        if span.end > config.layer_count:
            raise ConfigError(f"span {span} reaches beyond the model's {config.layer_count} layers")
        if config.head_size % 16 or config.rope.dimension_count % 16:
            raise UnsupportedModel(
                f"heads of {config.head_size} numbers, {config.rope.dimension_count} of them rotated: "
                "onnxruntime wants multiples of 16; choose the engine numpy"
            )
        self._config = config
        self._weights = weights
        self._settings = settings
        self._row_count_min = settings.row_count_min
        self._rules = StepRules(span, config.layer_count, config.hidden_size, config.vocabulary_size)
        self._slots = KVSlots(config, span)
        self._sessions = [self._layers_session(span)]
        self._head = None if weights.head is None else self._head_session(*weights.head())

    @property
    def span(self) -> Span:
        return self._weights.span

    @property
    def hidden_size(self) -> int:
        return self._config.hidden_size

    def cache_size_bytes(self, positions_max: int) -> int:
        return self._slots.shape.size_bytes(positions_max)

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self._slots.open(session, positions_max)

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        self._slots.extend(session, positions_max)

    def drop_cache(self, session: SessionId) -> None:
        self._slots.drop(session)

    def close(self) -> None:
        self._slots.clear()
        self._sessions.clear()
        self._head = None

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        started_s = time.perf_counter()
        outputs: dict[int, EngineOutput] = {}
        waiting = runs_of(self._checked(batch, outputs), is_joining=self._settings.accuracy_level > 0)
        while waiting:
            wave, waiting = first_of_each(waiting)
            refused = self._compute(wave, outputs)
            # What is wrong with one of them must not cost those before it.
            waiting = [*((part,) for run in refused for part in run), *waiting]
        share_s = (time.perf_counter() - started_s) / max(1, len(batch))
        return [_timed(outputs[index], share_s) for index in range(len(batch))]

    def logits(self, step: EngineInput) -> F32:
        """Compute a step and return the logits of its last position: for measuring, not for serving.

        Shapes:
            result: (V,).

        Raises:
            StepRefused: The step cannot be computed, or does not reach the last layer.
        """
        outputs: dict[int, EngineOutput] = {}
        parts = list(self._checked([step], outputs))
        if not parts:
            raise StepRefused(str(outputs[0].error))
        if parts[0].layers.end != self._config.layer_count:
            raise StepRefused("only a step through the last layer has logits")
        made = self._begun(tuple(parts))
        self._advance([made])
        self._keep(made)
        last: F32 = self._logits(made.hidden[-1:])[0]
        return last

    def _checked(self, batch: Sequence[EngineInput], outputs: dict[int, EngineOutput]) -> Iterator[Part]:
        """Give the inputs that are sound by themselves; what is wrong with the others is their output."""
        for index, step in enumerate(batch):
            try:
                layers = self._rules.layers(step)
                if layers.start == 0:
                    hidden = self._embedded(self._rules.tokens(step))
                else:
                    hidden = self._rules.hidden(step)
            except StepRefused as refusal:
                outputs[index] = _refused(refusal)
            else:
                yield Part(index, step, layers, hidden)

    def _compute(self, wave: Sequence[Run], outputs: dict[int, EngineOutput]) -> list[Run]:
        """Compute runs of different sessions; return those of several inputs that could not be computed."""
        steps: list[_Step] = []
        kept: list[_Step] = []
        refused: list[tuple[Run, StepRefused]] = []
        for run in wave:
            try:
                steps.append(self._begun(run))
            except StepRefused as refusal:
                refused.append((run, refusal))
        self._advance(steps)
        for each in steps:
            try:
                self._keep(each)
                kept.append(each)
            except StepRefused as refusal:
                refused.append((each.run, refusal))
        outputs |= self._outputs(kept)
        outputs |= {run[0].index: _refused(refusal) for run, refusal in refused if len(run) == 1}
        return [run for run, _ in refused if len(run) > 1]

    def _begun(self, run: Run) -> _Step:
        """Cut a session back to where a run begins."""
        first = run[0]
        slot = self._slots.get(first.step.session)
        slot.begin(first.layers, first.step.base, run[-1].end - first.step.base)
        return _Step(run, slot)

    def _keep(self, each: _Step) -> None:
        """Count a run's positions in, if its numbers are sound."""
        if not np.isfinite(each.hidden).all():
            raise StepRefused(f"layers {each.layers} gave numbers that are not finite")
        each.slot.keep(len(each.hidden))

    def _outputs(self, steps: Sequence[_Step]) -> dict[int, EngineOutput]:
        """Turn what was kept into outputs; all that want a token go through the output layer together."""
        outputs: dict[int, EngineOutput] = {}
        sampled: list[tuple[int, SampleRequest, F32]] = []
        for each in steps:
            for part in each.run:
                start = part.step.base - each.base
                rows = each.hidden[start : start + len(part.hidden)]
                is_below = part.layers.end < self._config.layer_count
                outputs[part.index] = EngineOutput(hidden=tensor_from_hidden(rows) if is_below else None)
                if part.step.sample is not None:
                    sampled.append((part.index, part.step.sample, rows[-1:]))
        if sampled:
            logits = self._logits(np.concatenate([row for _, _, row in sampled]))  # (n, V)
            for (index, request, _), row in zip(sampled, logits, strict=True):
                try:
                    outputs[index] = EngineOutput(token=choose_token(row, request))
                except StepRefused as refusal:
                    outputs[index] = _refused(refusal)
        return outputs

    def _advance(self, steps: Sequence[_Step]) -> None:
        """Take steps of different sessions through their layers."""
        together: defaultdict[tuple[Span, int], list[_Step]] = defaultdict(list)
        for each in steps:
            if len(each.hidden) > 1 or self._settings.accuracy_level == 0:
                self._advance_alone(each)
            else:
                together[each.layers, id(each.slot.block)].append(each)
        for (layers, _), group in together.items():
            by_slot = {each.slot.index: each for each in group}
            for first, count in neighbours(sorted(by_slot), _GAP_MAX):
                if count < self._row_count_min:
                    first, count = min(first, SLOT_COUNT - self._row_count_min), self._row_count_min
                members = [by_slot.get(index) for index in range(first, first + count)]
                self._advance_together(layers, first, members)

    def _advance_alone(self, each: _Step) -> None:
        block, first = each.slot.block, each.slot.index
        count = len(each.hidden)
        scores_of_row = self._config.head_count * block.capacity
        piece_max = min(max(_SCORES_COUNT_MAX // scores_of_row, _PIECE_COUNT_MIN), _PIECE_COUNT_MAX)
        done = 0
        # pieces of like sizes: none is a single row unless the step is
        for piece in np.array_split(each.hidden, -(-count // piece_max)):  # (t, D)
            lengths = np.array([each.base + done], np.int32)
            rows = self._through(
                each.layers, block, first, piece[None], lengths, np.array([len(piece)], np.int32)
            )
            each.hidden[done : done + len(piece)] = rows[0]
            done += len(piece)

    def _advance_together(self, layers: Span, first: int, members: Sequence[_Step | None]) -> None:
        hidden = np.zeros((len(members), 1, self.hidden_size), np.float32)
        lengths, counts = np.zeros(len(members), np.int32), np.zeros(len(members), np.int32)
        block: SlotBlock | None = None
        for row, each in enumerate(members):
            if each is not None:
                hidden[row], lengths[row], counts[row] = each.hidden, each.base, 1
                block = each.slot.block
        if block is None:
            return
        result = self._through(layers, block, first, hidden, lengths, counts)
        for row, each in enumerate(members):
            if each is not None:
                each.hidden = result[row].copy()

    def _through(
        self,
        layers: Span,
        block: SlotBlock,
        first: int,
        hidden: F32,
        lengths: NDArray[np.int32],
        counts: NDArray[np.int32],
    ) -> F32:
        for session in self._sessions_of(layers):
            hidden = session.run(block, first, hidden, lengths, counts)
        return hidden

    def _sessions_of(self, layers: Span) -> list[LayersSession]:
        """Return the sessions that together are these layers; what lies across an end is cut there first."""
        for cut in (layers.start, layers.end):
            for place, session in enumerate(self._sessions):
                if session.span.start < cut < session.span.end:
                    parts = Span(session.span.start, cut), Span(cut, session.span.end)
                    self._sessions[place : place + 1] = [self._layers_session(part) for part in parts]
                    self._slots.forget_bindings()
                    break
        return [session for session in self._sessions if layers.covers(session.span)]

    def _layers_session(self, span: Span) -> LayersSession:
        layers = [self._weights.layer(layer) for layer in range(span.start, span.end)]
        model, graph = layers_graph(self._config, layers, self._settings.accuracy_level)
        del layers
        return LayersSession(span, model, graph, self._settings)

    def _head_session(self, norm: F32, output: Matrix) -> HeadSession:
        model, graph = head_graph(self._config, norm, output, self._settings.accuracy_level)
        return HeadSession(model, graph, self._settings)

    def _embedded(self, tokens: NDArray[np.int64]) -> F32:
        if self._weights.embedding is None or not self._sessions:
            raise StepRefused("this engine is closed")
        return self._weights.embedding.rows(tokens)

    def _logits(self, hidden: F32) -> F32:
        """Turn hidden states into logits: (n, D) to (n, V)."""
        if self._head is None:
            raise StepRefused("this engine is closed")
        if self._settings.accuracy_level == 0:  # rule 2
            return np.concatenate([self._head.logits(row[None]) for row in hidden])
        count = len(hidden)
        if count < self._row_count_min:
            hidden = np.repeat(hidden, self._row_count_min, axis=0)
        return self._head.logits(hidden)[:count]


def _timed(output: EngineOutput, duration_s: float) -> EngineOutput:
    # Not dataclasses.replace, which takes longer than all else that is done for an output.
    return EngineOutput(output.hidden, output.token, output.error, output.blames_input, duration_s)


def _refused(refusal: StepRefused) -> EngineOutput:
    return EngineOutput(error=str(refusal), blames_input=isinstance(refusal, BadInput))
