"""Quantised weights: equal to what the package gguf dequantises, and what onnxruntime makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from p2pinfer.engine.ggml_blocks import LAYOUTS
from p2pinfer.engine.quantised import (
    DenseMatrix,
    Matrix,
    QuantisedMatrix,
    dequantised,
    quantised_matrix,
    side_by_side,
)
from p2pinfer.errors import DamagedModel, UnsupportedModel

Kind = GGMLQuantizationType
EXACT = sorted(LAYOUTS)
ROUNDED = [Kind.TQ1_0, Kind.TQ2_0, Kind.IQ2_XXS, Kind.IQ3_S]
BY_GGUF = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]

F32 = NDArray[np.float32]

TOLERANCES = {0: 2e-6, 4: 0.01}
"""By accuracy level, relative root mean square; level 4 rounds activations to eight bits a block."""


def random_raw(kind: Kind, rows: int, columns: int, seed: int) -> NDArray[np.uint8]:
    """Rows of random codes under the scales that a model may have: about 0.01, of both signs."""
    rng = np.random.default_rng(seed)
    weight_count, size = GGML_QUANT_SIZES[kind]
    if kind in (Kind.TQ1_0, Kind.TQ2_0):
        return np.asarray(quants.quantize(rng.normal(0, 0.02, (rows, columns)).astype(np.float32), kind))
    raw = rng.integers(0, 256, (rows, columns // weight_count * size), dtype=np.uint8)
    record = LAYOUTS[kind].record if kind in LAYOUTS else np.dtype([("d", "<f2"), ("rest", "u1", size - 2)])
    blocks = raw.view(record)
    for field in {"d", "m", "dmin"} & set(record.names or ()):
        blocks[field] = rng.uniform(0.005, 0.02, blocks.shape) * rng.choice((-1, 1), blocks.shape)
    if kind is Kind.MXFP4:
        blocks["e"] = rng.integers(118, 122, blocks.shape)
    return raw


def multiply(matrix: QuantisedMatrix, x: F32, accuracy_level: int) -> F32:
    """Multiply with real nodes: a MatMulNBits for each product, and block sums for the offsets."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    terms: list[str] = []

    def constant(name: str, array: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    for index, product in enumerate(matrix.products):
        inputs = ["x", constant(f"b{index}", product.packed), constant(f"s{index}", product.scales)]
        if product.zero_points is not None:
            inputs.append(constant(f"z{index}", product.zero_points))
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                inputs,
                [f"y{index}"],
                domain="com.microsoft",
                K=matrix.column_count,
                N=matrix.row_count,
                bits=product.bits,
                block_size=product.block_size,
                accuracy_level=accuracy_level,
            )
        )
        terms.append(f"y{index}")
    if matrix.offsets is not None:
        blocks = len(matrix.offsets)
        shape = constant("shape", np.array([-1, blocks, matrix.column_count // blocks], np.int64))
        axis = constant("axis", np.array([2], np.int64))
        nodes += [
            helper.make_node("Reshape", ["x", shape], ["x_blocks"]),
            helper.make_node("ReduceSum", ["x_blocks", axis], ["sums"], keepdims=0),
            helper.make_node("MatMul", ["sums", constant("offsets", matrix.offsets)], ["y_offsets"]),
        ]
        terms.append("y_offsets")
    nodes.append(helper.make_node("Sum", terms, ["y"]))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", matrix.column_count])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", matrix.row_count])],
        constants,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    return np.asarray(y, np.float32)


def built(kind: Kind, raw: NDArray[np.uint8], *, exact_activations: bool = False) -> QuantisedMatrix:
    matrix = quantised_matrix("w", raw, kind, exact_activations=exact_activations)
    assert isinstance(matrix, QuantisedMatrix)
    return matrix


def relative_error(got: F32, want: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("exact_activations", [False, True])
@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_the_weights_are_those_of_the_file(kind: Kind, exact_activations: bool) -> None:
    raw = random_raw(kind, 19, 768, seed=kind)
    matrix = built(kind, raw, exact_activations=exact_activations)
    assert (matrix.row_count, matrix.column_count, matrix.loss) == (19, 768, 0.0)
    assert np.array_equal(dequantised(matrix), quants.dequantize(raw, kind))


@pytest.mark.parametrize("kind", BY_GGUF, ids=lambda kind: kind.name)
def test_weights_that_were_quantised_from_floats_come_back(kind: Kind) -> None:
    floats = np.random.default_rng(3).normal(0, 0.02, (33, 96)).astype(np.float32)
    floats[5, 32:64] = 0  # a scale of nothing
    raw = np.asarray(quants.quantize(floats, kind))
    assert np.array_equal(dequantised(built(kind, raw)), quants.dequantize(raw, kind))


@given(
    kind=st.sampled_from(EXACT),
    rows=st.integers(1, 70),
    block_count=st.sampled_from((1, 2, 3, 8, 18)),
    exact_activations=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
@settings(deadline=None, max_examples=60)
def test_any_shape_comes_back(
    kind: Kind, rows: int, block_count: int, exact_activations: bool, seed: int
) -> None:
    raw = random_raw(kind, rows, block_count * LAYOUTS[kind].weight_count, seed)
    matrix = built(kind, raw, exact_activations=exact_activations)
    assert np.array_equal(dequantised(matrix), quants.dequantize(raw, kind))


def test_rows_that_do_not_fit_one_piece_come_back() -> None:
    raw = random_raw(Kind.Q4_K, 300, 1024, seed=1)  # more than two pieces, the last one short
    assert np.array_equal(dequantised(built(Kind.Q4_K, raw)), quants.dequantize(raw, Kind.Q4_K))


def test_an_offset_of_factors_far_apart_is_rounded_once() -> None:
    raw = random_raw(Kind.Q4_K, 40, 256, seed=2)
    raw.view(LAYOUTS[Kind.Q4_K].record)["dmin"] *= np.float16(1 / 200)
    matrix = built(Kind.Q4_K, raw)
    assert matrix.offsets is not None
    errors = np.abs(dequantised(matrix) - quants.dequantize(raw, Kind.Q4_K))
    assert 0 < errors.max() <= np.abs(matrix.offsets).max() * 2**-23


@pytest.mark.parametrize("accuracy_level", [0, 4])
@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_the_product_is_that_of_the_weights(kind: Kind, accuracy_level: int) -> None:
    raw = random_raw(kind, 21, 768, seed=kind)
    x = np.random.default_rng(kind).normal(0, 1, (5, 768)).astype(np.float32)
    want = x.astype(np.float64) @ quants.dequantize(raw, kind).T.astype(np.float64)
    matrix = built(kind, raw, exact_activations=accuracy_level == 0)
    assert relative_error(multiply(matrix, x, accuracy_level), want) < TOLERANCES[accuracy_level]


@pytest.mark.parametrize("accuracy_level", [0, 4])
def test_the_tolerance_sees_swapped_halves_and_a_shifted_zero(accuracy_level: int) -> None:
    raw = random_raw(Kind.Q4_1, 21, 768, seed=4)
    x = np.random.default_rng(4).normal(0, 1, (5, 768)).astype(np.float32)
    matrix = built(Kind.Q4_1, raw)
    want = x.astype(np.float64) @ dequantised(matrix).T.astype(np.float64)
    (product,) = matrix.products
    swapped = replace(product, packed=product.packed << np.uint8(4) | product.packed >> np.uint8(4))
    shifted = replace(product, zero_points=np.full((21, 12), 0x77, np.uint8))
    for wrong in (replace(matrix, products=(each,)) for each in (swapped, shifted)):
        assert relative_error(multiply(wrong, x, accuracy_level), want) > 5 * TOLERANCES[accuracy_level]
    assert relative_error(multiply(replace(matrix, offsets=None), x, accuracy_level), want) > 0.1


@pytest.mark.parametrize("kind", ROUNDED, ids=lambda kind: kind.name)
def test_what_is_rounded_says_by_how_much(kind: Kind) -> None:
    raw = random_raw(kind, 600, 2048, seed=kind)  # more than one piece
    matrix, want = built(kind, raw), quants.dequantize(raw, kind)
    loss = relative_error(dequantised(matrix), want.astype(np.float64))
    assert matrix.loss == pytest.approx(loss, rel=1e-3)
    assert loss < 0.005


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"'blk\.0\.x'.*I8"):
        quantised_matrix("blk.0.x", np.zeros((2, 64), np.uint8), Kind.I8, exact_activations=False)


@pytest.mark.parametrize("field", ["d", "dmin"])
def test_a_scale_that_is_no_number_is_damage(field: str) -> None:
    raw = random_raw(Kind.Q5_K, 3, 512, seed=5)
    raw.view(LAYOUTS[Kind.Q5_K].record)[field][1, 1] = np.nan
    with pytest.raises(DamagedModel, match=r"'w'.*finite"):
        built(Kind.Q5_K, raw)


@pytest.mark.parametrize("size_bytes", [0, 17])
def test_a_row_that_is_cut_short_is_damage(size_bytes: int) -> None:
    with pytest.raises(DamagedModel, match="whole blocks of Q4_0"):
        built(Kind.Q4_0, np.zeros((3, size_bytes), np.uint8))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_floats_stay_floats_in_memory_of_their_own(kind: Kind) -> None:
    floats = np.random.default_rng(6).normal(0, 1, (1, 40)).astype(np.float32)
    raw = np.asarray(quants.quantize(floats, kind)).view(np.uint8).reshape(1, -1)
    matrix = quantised_matrix("w", raw, kind, exact_activations=False)
    assert isinstance(matrix, DenseMatrix)
    assert matrix.weight.shape == (40, 1)
    assert not np.shares_memory(matrix.weight, raw)
    assert np.array_equal(dequantised(matrix), np.asarray(quants.dequantize(raw, kind), np.float32))


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0, Kind.F16, Kind.TQ2_0], ids=lambda kind: kind.name)
def test_parts_stand_side_by_side(kind: Kind) -> None:
    raws = [
        np.asarray(quants.quantize(np.random.default_rng(n).normal(0, 1, (n, 256)).astype(np.float32), kind))
        for n in (3, 8, 5)
    ]
    parts = [quantised_matrix("w", raw.view(np.uint8), kind, exact_activations=True) for raw in raws]
    joined = side_by_side(parts)
    assert joined is not None
    assert np.array_equal(dequantised(joined), np.concatenate([dequantised(part) for part in parts]))
    if isinstance(joined, QuantisedMatrix):
        assert joined.loss == max(part.loss for part in parts if isinstance(part, QuantisedMatrix))


def test_parts_of_different_forms_do_not_join() -> None:
    def part(kind: Kind, columns: int, *, exact_activations: bool = False) -> Matrix:
        floats = np.ones((4, columns), np.float32)
        raw = np.asarray(quants.quantize(floats, kind)).view(np.uint8).reshape(4, -1)
        return quantised_matrix("w", raw, kind, exact_activations=exact_activations)

    first = part(Kind.Q4_0, 64)
    others = [part(Kind.Q4_1, 64), part(Kind.Q4_0, 96), part(Kind.Q8_0, 64), part(Kind.F16, 64)]
    assert side_by_side([first, first]) is not None
    assert [side_by_side(pair) for other in others for pair in ([first, other], [other, first])] == [None] * 8
    assert side_by_side([part(Kind.F16, 64), part(Kind.F16, 96)]) is None
    split = [part(kind, 64, exact_activations=True) for kind in (Kind.Q8_0, Kind.Q5_0)]
    assert side_by_side(split) is None, "one of them has zero points"
