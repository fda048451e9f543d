"""The fast engine: llama on onnxruntime, with weights multiplied as they lie in the file.

Rules:

1. With int8 activations a row's bits depend on its session's own history alone: not on the batch, the number
   of threads, the slot or its capacity, and not on how a prompt was cut, as long as no piece is a single row.
   A step of a single row takes another kernel inside GroupQueryAttention and differs from the same row in a
   longer step in the last bits. An exact replay repeats prompts as prompts, however cut, and single rows as
   single rows.
2. With float32 activations MatMulNBits, too, has a kernel of its own for single rows, so each step of a
   single row is computed alone; then the same holds. (As one of two rows it would take three times as long.)
3. Single rows of several sessions are one batch where their slots are neighbours. Idle slots between them are
   left alone by the count of their rows, 0. Where the processor has another kernel for a single row than for
   several (AVX2), a row that is alone gets an idle slot beside it: that costs a quarter, and rule 1 holds.
   The accuracy int8-fast does without, and without rule 1: who takes over then differs in the last bits.
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

from p2pinfer.engine.api import EngineInput, EngineOutput
from p2pinfer.engine.embedding import EmbeddingTable
from p2pinfer.engine.kv_slots import SLOT_COUNT, KVSlots, Slot, SlotBlock, neighbours
from p2pinfer.engine.onnx_graph import LayerMatrices, head_graph, layers_graph
from p2pinfer.engine.onnx_session import HeadSession, LayersSession, OnnxSettings
from p2pinfer.engine.quantised import Matrix
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
    """A sound step on its way through the layers."""

    def __init__(self, index: int, step: EngineInput, slot: Slot, layers: Span, hidden: F32) -> None:
        self.index = index
        self.step = step
        self.slot = slot
        self.layers = layers
        self.hidden = hidden  # (T, D)


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
        for wave in _waves(batch):
            steps = [made for index, step in wave if (made := self._prepared(index, step, outputs))]
            self._advance(steps)
            outputs |= self._outputs([each for each in steps if self._kept(each, outputs)])
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
        made = self._prepared(0, step, outputs)
        if made is not None:
            self._advance([made])
            self._kept(made, outputs)
        if outputs or made is None:
            raise StepRefused(str(outputs[0].error))
        if made.layers.end != self._config.layer_count:
            raise StepRefused("only a step through the last layer has logits")
        last: F32 = self._logits(made.hidden[-1:])[0]
        return last

    def _prepared(self, index: int, step: EngineInput, outputs: dict[int, EngineOutput]) -> _Step | None:
        """Check a step and cut its session back to the base; what is wrong with it becomes its output."""
        try:
            layers = self._rules.layers(step)
            slot = self._slots.get(step.session)
            if layers.start == 0:
                hidden = self._embedded(self._rules.tokens(step))
            else:
                hidden = self._rules.hidden(step)
            slot.begin(layers, step.base, len(hidden))
        except StepRefused as refusal:
            outputs[index] = _refused(refusal)
            return None
        return _Step(index, step, slot, layers, hidden)

    def _kept(self, each: _Step, outputs: dict[int, EngineOutput]) -> bool:
        """Count a step's positions in, if its numbers are sound."""
        if np.isfinite(each.hidden).all():
            each.slot.keep(len(each.hidden))
            return True
        outputs[each.index] = _refused(StepRefused(f"layers {each.layers} gave numbers that are not finite"))
        return False

    def _outputs(self, steps: Sequence[_Step]) -> dict[int, EngineOutput]:
        """Turn what was kept into outputs; all that want a token go through the output layer together."""
        below = [each for each in steps if each.layers.end < self._config.layer_count]
        outputs = {each.index: EngineOutput() for each in steps}
        outputs |= {each.index: EngineOutput(hidden=tensor_from_hidden(each.hidden)) for each in below}
        sampled = [(each, each.step.sample) for each in steps if each.step.sample is not None]
        if sampled:
            rows = self._logits(np.concatenate([each.hidden[-1:] for each, _ in sampled]))  # (n, V)
            for (each, request), row in zip(sampled, rows, strict=True):
                try:
                    outputs[each.index] = EngineOutput(token=choose_token(row, request))
                except StepRefused as refusal:
                    outputs[each.index] = _refused(refusal)
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
            lengths = np.array([each.step.base + done], np.int32)
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
                hidden[row], lengths[row], counts[row] = each.hidden, each.step.base, 1
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


def _waves(batch: Sequence[EngineInput]) -> Iterator[list[tuple[int, EngineInput]]]:
    """Cut a batch into parts in which each session has one step, the earlier steps first."""
    waiting = list(enumerate(batch))
    while waiting:
        seen: set[SessionId] = set()
        wave: list[tuple[int, EngineInput]] = []
        later: list[tuple[int, EngineInput]] = []
        for index, step in waiting:
            (later if step.session in seen else wave).append((index, step))
            seen.add(step.session)
        yield wave
        waiting = later


def _timed(output: EngineOutput, duration_s: float) -> EngineOutput:
    # Not dataclasses.replace, which takes longer than all else that is done for an output.
    return EngineOutput(output.hidden, output.token, output.error, output.blames_input, duration_s)


def _refused(refusal: StepRefused) -> EngineOutput:
    return EngineOutput(error=str(refusal), blames_input=isinstance(refusal, BadInput))
