"""One graph of onnxruntime for consecutive layers, and one for the output layer.

Rules:

1. A graph takes and gives hidden states: token ids are looked up outside, and logits are computed by a graph
   of their own, for the rows that want a token alone. So a span can be cut into graphs anywhere.
2. Keys and values are bound in place: a layer's past and present are the same memory, which
   GroupQueryAttention appends to. `query_counts` says how many rows of each session are real; 0 leaves a
   session alone.
3. Weights are not in the graph but handed over beside it, so that no message of protobuf limits their size.

Source: onnxruntime's ContribOperators.md; `query_seqlens` of GroupQueryAttention since onnxruntime 1.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from p2pinfer.engine.quantised import BlockProduct, DenseMatrix, Matrix, QuantisedMatrix, side_by_side
from p2pinfer.engine.weights import EngineConfig

__all__ = ["Graph", "LayerMatrices", "head_graph", "layers_graph", "product_graph"]

F32 = NDArray[np.float32]

_MICROSOFT = "com.microsoft"
_OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
_IR_VERSION = 10
_CONTRIBUTED = frozenset(
    {"GroupQueryAttention", "MatMulNBits", "QuickGelu", "SkipSimplifiedLayerNormalization"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMatrices:
    """A layer's weights. Matrices that share their input stand together, in this order.

    Shapes:
        attention_norm, ffn_norm: (D,); qkv: (H S, D), (K S, D), (K S, D); output: (D, H S);
        gate_up: (F, D), (F, D); down: (D, F); each (out, in).
    """

    attention_norm: F32
    qkv: tuple[Matrix, ...]
    output: Matrix
    ffn_norm: F32
    gate_up: tuple[Matrix, ...]
    down: Matrix


@dataclass(slots=True)
class Graph:
    """A graph and the weights that belong to it, both as onnxruntime takes them."""

    accuracy_level: int
    """Of MatMulNBits: 0 multiplies float32 activations, 4 rounds them to 8 bits for each block."""
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    _names: int = 0
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _block_means: dict[tuple[str, int], str] = field(default_factory=dict)
    _numbers: dict[tuple[int, ...], str] = field(default_factory=dict)

    def name(self) -> str:
        """Return a name that nothing has yet."""
        self._names += 1
        return f"x{self._names}"

    def add(self, operator: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node; return the names of its outputs."""
        names = [self.name() for _ in range(outputs)]
        self.add_named(operator, inputs, names, **attributes)
        return names

    def add_named(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Append a node whose outputs have these names; an empty name is an output that nobody wants."""
        domain = _MICROSOFT if operator in _CONTRIBUTED else ""
        self._nodes.append(
            helper.make_node(
                operator, inputs, outputs, name=f"{len(self._nodes)}", domain=domain, **attributes
            )
        )

    def weight(self, array: NDArray[np.generic]) -> str:
        """Hand over an array; return its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def numbers(self, *numbers: int) -> str:
        """Write a few whole numbers into the graph; return their name."""
        if numbers not in self._numbers:
            value = numpy_helper.from_array(np.array(numbers, np.int64))
            self._numbers[numbers] = self.add("Constant", [], value=value)[0]
        return self._numbers[numbers]

    def product(self, x: str, matrix: Matrix) -> str:
        """Multiply rows with a matrix: (B, T, K) to (B, T, N)."""
        if isinstance(matrix, DenseMatrix):
            return self.add("MatMul", [x, self.weight(matrix.weight)])[0]
        parts = [self._block_product(x, matrix, each) for each in matrix.products]
        if matrix.offsets is not None:
            parts.append(self._offset(x, matrix, matrix.offsets))
        result = parts[0]
        for part in parts[1:]:
            result = self.add("Add", [result, part])[0]
        return result

    def products(self, x: str, matrices: Sequence[Matrix]) -> list[str]:
        """Multiply rows with several matrices, as one product where their forms allow it."""
        joined = side_by_side(matrices)
        return [self.product(x, joined)] if joined else [self.product(x, each) for each in matrices]

    def finished(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> bytes:
        """Return the model without its weights, which are declared as lying elsewhere."""
        declared = [_declared(name, array) for name, array in self.weights.items()]
        graph = helper.make_graph(self._nodes, "layers", inputs, outputs, declared)
        model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)
        return bytes(model.SerializeToString())

    def _block_product(self, x: str, matrix: QuantisedMatrix, each: BlockProduct) -> str:
        inputs = [x, self.weight(each.packed), self.weight(each.scales)]
        if each.zero_points is not None:
            inputs.append(self.weight(each.zero_points))
        return self.add(
            "MatMulNBits",
            inputs,
            K=matrix.column_count,
            N=matrix.row_count,
            bits=each.bits,
            block_size=each.block_size,
            accuracy_level=self.accuracy_level,
        )[0]

    def _offset(self, x: str, matrix: QuantisedMatrix, offsets: F32) -> str:
        size = matrix.column_count // len(offsets)
        means = self._block_means.get((x, size))
        if means is None:
            means = self.add("AveragePool", [x], kernel_shape=[size], strides=[size])[0]
            self._block_means[x, size] = means
        return self.add("MatMul", [means, self.weight(offsets * np.float32(size))])[0]


def layers_graph(
    config: EngineConfig, layers: Sequence[LayerMatrices], accuracy_level: int
) -> tuple[bytes, Graph]:
    """Return the graph of consecutive layers: B sessions, T rows of each.

    Shapes:
        hidden: (B, T, D), in and out.
        lengths: (B,) int32, positions of each session after the step.
        query_counts: (B,) int32, rows of each session that are real, and one; the others come after them.
            0 leaves a session alone.
        capacity: () int32, C, one more than any session reaches.
        cosines, sines: (C, n/2).
        keys.<i>, values.<i>: (B, K, C, S), in and, as keys_out.<i> and values_out.<i>, out.
    """
    graph = Graph(accuracy_level)
    x = "hidden"
    # The kernel that adds has other last bits than the one that does not. Nothing is added here, so that a
    # layer has the same bits whether it is the first of its graph or not.
    nothing = graph.add("Sub", [x, x])[0]
    normal, _ = _added(graph, (x, nothing), layers[0].attention_norm, config.rms_norm_eps)
    for index, layer in enumerate(layers):
        mixed = graph.product(
            _attention(graph, config, index, graph.products(normal, layer.qkv)), layer.output
        )
        normal, x = _added(graph, (x, mixed), layer.ffn_norm, config.rms_norm_eps)
        fed = graph.product(_gated(graph, graph.products(normal, layer.gate_up)), layer.down)
        if index + 1 < len(layers):
            normal, x = _added(graph, (x, fed), layers[index + 1].attention_norm, config.rms_norm_eps)
        else:
            graph.add_named("Add", [x, fed], ["hidden_out"])
    half = config.rope.dimension_count // 2
    inputs = [
        _floats("hidden", "B", "T", config.hidden_size),
        _counts("lengths", "B"),
        _counts("query_counts", "B"),
        _counts("capacity"),
        _floats("cosines", "C", half),
        _floats("sines", "C", half),
    ]
    outputs = [_floats("hidden_out", "B", "T", config.hidden_size)]
    for index in range(len(layers)):
        for name in ("keys", "values"):
            shape = ("B", config.kv_head_count, "C", config.head_size)
            inputs.append(_floats(f"{name}.{index}", *shape))
            outputs.append(_floats(f"{name}_out.{index}", *shape))
    return graph.finished(inputs, outputs), graph


def head_graph(config: EngineConfig, norm: F32, output: Matrix, accuracy_level: int) -> tuple[bytes, Graph]:
    """Return the graph of the output layer: hidden states (1, n, D) to logits (1, n, V)."""
    graph = Graph(accuracy_level)
    logits = graph.product(_normalised(graph, "hidden", norm, config.rms_norm_eps), output)
    graph.add_named("Identity", [logits], ["logits"])
    return graph.finished(
        [_floats("hidden", 1, "n", config.hidden_size)], [_floats("logits", 1, "n", config.vocabulary_size)]
    ), graph


def product_graph(matrix: Matrix, accuracy_level: int) -> tuple[bytes, Graph]:
    """Return the graph of one product: x (1, n, K) to y (1, n, N)."""
    graph = Graph(accuracy_level)
    graph.add_named("Identity", [graph.product("x", matrix)], ["y"])
    rows, columns = (
        matrix.weight.shape[::-1]
        if isinstance(matrix, DenseMatrix)
        else (matrix.row_count, matrix.column_count)
    )
    return graph.finished([_floats("x", 1, "n", columns)], [_floats("y", 1, "n", rows)]), graph


def _normalised(graph: Graph, x: str, weight: F32, epsilon: float) -> str:
    inputs = [x, graph.weight(weight)]
    return graph.add("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=epsilon)[0]


def _added(graph: Graph, parts: tuple[str, str], weight: F32, epsilon: float) -> tuple[str, str]:
    """Add two and normalise the sum in one node; return the normalised and the sum."""
    normal, total = graph.name(), graph.name()
    graph.add_named(
        "SkipSimplifiedLayerNormalization",
        [*parts, graph.weight(weight)],
        [normal, "", "", total],
        epsilon=epsilon,
    )
    return normal, total


def _attention(graph: Graph, config: EngineConfig, index: int, qkv: Sequence[str]) -> str:
    packed = qkv[0] if len(qkv) == 1 else graph.add("Concat", qkv, axis=-1)[0]
    # A row of zeros behind each session's keeps the attention from its kernel for single rows, whose last
    # bits are others.
    packed = graph.add("Pad", [packed, graph.numbers(0, 0, 0, 0, 1, 0)])[0]
    cache = [f"keys.{index}", f"values.{index}"]
    rest = ["lengths", "capacity", "cosines", "sines", *[""] * 7, "query_counts"]
    mixed = graph.name()
    graph.add_named(
        "GroupQueryAttention",
        [packed, "", "", *cache, *rest],
        [mixed, f"keys_out.{index}", f"values_out.{index}"],
        num_heads=config.head_count,
        kv_num_heads=config.kv_head_count,
        do_rotary=1,
        rotary_interleaved=1,
    )
    return graph.add("Slice", [mixed, graph.numbers(0), graph.numbers(-1), graph.numbers(1)])[0]


def _gated(graph: Graph, gate_up: Sequence[str]) -> str:
    """Return silu(gate) * up: (B, T, F)."""
    if len(gate_up) == 1:
        gate_up = graph.add("Split", gate_up, outputs=2, axis=-1, num_outputs=2)
    gate, up = gate_up
    return graph.add("Mul", [graph.add("QuickGelu", [gate], alpha=1.0)[0], up])[0]


def _floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _counts(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, shape)


def _declared(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    """Describe a weight that is handed over beside the model."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside")
    return tensor
