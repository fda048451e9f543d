"""Sessions of onnxruntime: consecutive layers with caches bound in place, and the output layer.

Rules:

1. What a step needs is bound once for each range of slots; a step then writes its numbers into the bound
   arrays and runs. Nothing is allocated and nothing is copied but the rows themselves.
2. Weights belong to the session alone once it is made: onnxruntime repacks them and lets go of what it was
   given, so the given arrays are not kept here either.
3. Threads spin between the operators of a step and stop with it: peers of one machine take turns, and a
   thread that goes on spinning takes the core of the peer whose turn it is. Ten layers of SmolLM2-135M on two
   threads and two cores take 1.3 ms, in two processes by turns 2.9 both; 3.2 if they go on spinning; 2.1 and
   4.1 if they sleep between operators, where one thread takes 1.7.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from p2pinfer.engine.kv_slots import SlotBlock
from p2pinfer.engine.onnx_graph import Graph, product_graph
from p2pinfer.engine.quantised import BlockProduct, QuantisedMatrix
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Span

__all__ = ["HeadSession", "LayersSession", "OnnxSettings"]

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

_ACCURACY_LEVELS = {"int8": 4, "int8-fast": 4, "float32": 0}
"""By name: the accuracy_level of MatMulNBits."""
_PROBE_COLUMNS, _PROBE_ROWS = 576, 37
"""A matrix that is no multiple of what kernels take at a time."""

# The flash kernel of GroupQueryAttention took twice the time of the plain one for prompts (512 rows after
# 100: 13.0 against 6.3 ms, onnxruntime 1.32), and its bits depend on padding. It is asked for when a session
# is made.
os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")
# Where another part of the application imported onnxruntime first, this ends what the package's
# ORT_DISABLE_TELEMETRY came too late for.
onnxruntime.disable_telemetry_events()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSettings:
    """How onnxruntime computes.

    Raises:
        ConfigError: No such accuracy, or a negative count of threads.
    """

    accuracy: str = "int8"
    """int8: activations are rounded to eight bits for each block of 32, as llama.cpp does. float32: they are
    not: single tokens take 1.7 times as long, prompts two thirds, and the steps of several sessions are not
    computed as one batch. int8-fast: as int8, but a single row is always computed as one, see
    `OnnxEngine`'s rule 3."""
    threads: int = 0
    """Threads of each session, counting the caller; 0: as many as the machine has cores."""

    def __post_init__(self) -> None:
        if self.accuracy not in _ACCURACY_LEVELS:
            raise ConfigError(
                f"accuracy is {self.accuracy!r}; it must be one of {', '.join(_ACCURACY_LEVELS)}"
            )
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}; it must be 0 or more")

    @property
    def accuracy_level(self) -> int:
        """As MatMulNBits counts them."""
        return _ACCURACY_LEVELS[self.accuracy]

    @property
    def row_count_min(self) -> int:
        """Rows that single rows are padded to, so that their bits do not depend on how many there are."""
        return 2 if self.accuracy == "int8" and not _are_single_rows_alike() else 1


class LayersSession:
    """Consecutive layers, ready to run."""

    def __init__(self, span: Span, model: bytes, graph: Graph, settings: OnnxSettings) -> None:
        self.span = span
        self._session = _session(model, graph, settings)

    def run(self, block: SlotBlock, first: int, hidden: F32, lengths: I32, counts: I32) -> F32:
        """Take rows of neighbouring slots through the layers.

        Args:
            block: Where the slots are.
            first: The first slot.
            hidden: Rows of each slot.
            lengths: Positions that each slot holds before.
            counts: How many rows of each slot are real; a slot with none is left alone.

        Shapes:
            hidden: (B, T, D); lengths, counts: (B,); result: (B, T, D), changed by the next run.
        """
        bound = self._bound(block, first, len(hidden))
        bound.fit(hidden.shape)
        bound.hidden[:] = hidden
        # One row more than there are: the one that the graph adds. An idle slot is said to hold one position:
        # whatever it holds, there is room for a step behind that.
        bound.counts[:] = np.where(counts > 0, counts + 1, 0)
        bound.lengths[:] = np.where(counts > 0, lengths + counts, 0)
        self._session.run_with_iobinding(bound.binding)
        result = bound.result
        if hidden.shape[1] > 1:
            bound.fit((len(hidden), 1, hidden.shape[2]))  # a prompt's room is not kept
        return result

    def _bound(self, block: SlotBlock, first: int, count: int) -> _Bound:
        key = (self.span, first, count)
        bound = block.bindings.get(key)
        if not isinstance(bound, _Bound):
            bound = _Bound(self._session.io_binding(), self.span, block, first, count)
            block.bindings[key] = bound
        return bound


class HeadSession:
    """The output layer, ready to run."""

    def __init__(self, model: bytes, graph: Graph, settings: OnnxSettings) -> None:
        self._session = _session(model, graph, settings)

    def logits(self, hidden: F32) -> F32:
        """Turn hidden states into logits: (n, D) to (n, V)."""
        result: F32 = self._session.run(["logits"], {"hidden": hidden[None]})[0][0]
        return result


class _Bound:
    """What is bound for a range of slots, and the arrays through which a step goes in and out."""

    def __init__(self, binding: Any, span: Span, block: SlotBlock, first: int, count: int) -> None:
        self.binding = binding
        self.lengths = np.zeros(count, np.int32)
        self.counts = np.zeros(count, np.int32)
        self.hidden = self.result = np.zeros((0, 0, 0), np.float32)
        self._input("lengths", self.lengths)
        self._input("query_counts", self.counts)
        self._input("capacity", np.array(block.capacity, np.int32))
        self._input("cosines", block.cosines)
        self._input("sines", block.sines)
        for index in range(len(span)):
            for name, array in zip(
                ("keys", "values"), block.layer(span.start + index, first, count), strict=True
            ):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                binding.bind_ortvalue_input(f"{name}.{index}", value)
                binding.bind_ortvalue_output(f"{name}_out.{index}", value)

    def fit(self, shape: tuple[int, ...]) -> None:
        """Have arrays for hidden states of this shape."""
        if self.hidden.shape != shape:
            self.hidden, self.result = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            self._input("hidden", self.hidden)
            self.binding.bind_ortvalue_output(
                "hidden_out", onnxruntime.OrtValue.ortvalue_from_numpy(self.result)
            )

    def _input(self, name: str, array: NDArray[Any]) -> None:
        self.binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))


@cache
def _are_single_rows_alike() -> bool:
    """Whether a row's int8 products have the same bits alone and among others, on this processor.

    With AVX2 four-bit weights in blocks of 32 have a kernel of their own for single rows (onnxruntime 1.32).
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, _PROBE_COLUMNS), np.float32)
    for bits, block_size in itertools.product((4, 8), (16, 32)):
        shape = (_PROBE_ROWS, _PROBE_COLUMNS // block_size)
        product = BlockProduct(
            bits=bits,
            block_size=block_size,
            packed=rng.integers(0, 256, (*shape, block_size * bits // 8), np.uint8),
            scales=rng.standard_normal(shape, np.float32),
        )
        matrix = QuantisedMatrix(_PROBE_ROWS, _PROBE_COLUMNS, (product,))
        session = _session(*product_graph(matrix, _ACCURACY_LEVELS["int8"]), OnnxSettings(threads=1))
        together = session.run(None, {"x": rows[None]})[0][0]
        alone = [session.run(None, {"x": row[None, None]})[0][0, 0] for row in rows]
        if not np.array_equal(together, alone):
            return False
    return True


def _session(model: bytes, graph: Graph, settings: OnnxSettings) -> Any:
    """Load a graph; its weights are the session's from now on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    names = list(graph.weights)
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        for array in graph.weights.values()
    ]
    options.add_external_initializers(names, values)
    graph.weights.clear()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
