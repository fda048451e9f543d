"""Weights as they lie in a GGUF file, in the forms that onnxruntime multiplies without unpacking them.

MatMulNBits of com.microsoft takes 4 or 8 bits a weight, with one scale for each block of 16 or 32 weights.
Rules:

1. Nothing is rounded that the file does not round: what `ggml_blocks` decodes exactly is multiplied as it is.
   Other types are rounded to eight bits, and `loss` says by how much.
2. With float32 activations (accuracy_level 0) the node has no fast kernel for eight bits: there a weight is
   split into its upper and its lower four bits, two products of which one has sixteen times the scale.
3. A tensor is repacked in pieces that fit a processor's cache, so loading needs no memory beside the result.

Source: onnxruntime's ContribOperators.md, MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from p2pinfer.engine.ggml_blocks import LAYOUTS, Layout
from p2pinfer.engine.requantise import requantised
from p2pinfer.errors import DamagedModel

__all__ = [
    "BlockProduct",
    "DenseMatrix",
    "Matrix",
    "QuantisedMatrix",
    "dequantised",
    "quantised_matrix",
    "side_by_side",
]

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
F32 = NDArray[np.float32]

_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_CHUNK_WEIGHTS = 1 << 17


@dataclass(frozen=True, slots=True)
class BlockProduct:
    """One MatMulNBits node: `y += x @ W.T` with W = (code - zero point) * scale.

    Shapes:
        packed: (N, K / block_size, block_size * bits / 8), two codes a byte where bits is 4, the lower first.
        scales: (N, K / block_size).
        zero_points: (N, K / block_size * bits / 8, rounded up), packed alike; None: 8 or 128, the default.
    """

    bits: int
    block_size: int
    packed: U8
    scales: F32
    zero_points: U8 | None = None


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A matrix W (N, K) = (out, in) for `y = x @ W.T`: the sum of its products and of its offsets' share.

    Shapes:
        offsets: (K / S, N) with S the products' block size: y += sums of each S neighbours in x @ offsets.
    """

    row_count: int
    """N."""
    column_count: int
    """K."""
    products: tuple[BlockProduct, ...]
    offsets: F32 | None = None
    loss: float = 0.0
    """Relative root mean square error against the weights of the file; 0 where the form is exact."""


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """A matrix of floats, transposed for `y = x @ weight`.

    Shapes:
        weight: (K, N).
    """

    weight: F32


Matrix = QuantisedMatrix | DenseMatrix


def quantised_matrix(name: str, raw: U8, kind: GGMLQuantizationType, *, exact_activations: bool) -> Matrix:
    """Bring a tensor into the form in which it is multiplied.

    Args:
        name: The tensor's name, for messages.
        raw: Its bytes as they lie in the file.
        kind: Its type.
        exact_activations: It will be multiplied with float32 activations, see rule 2.

    Shapes:
        raw: (N, bytes of a row).

    Raises:
        DamagedModel: A row is cut short, or holds a number that is not finite.
        UnsupportedModel: The type is not known.
    """
    if kind in _FLOATS:
        return DenseMatrix(_finite(name, np.array(quants.dequantize(raw, kind).T, np.float32, order="C")))
    loss = 0.0
    if kind not in LAYOUTS:
        raw, loss = requantised(name, raw, kind)
        kind = GGMLQuantizationType.Q8_0
    layout = LAYOUTS[kind]
    if not raw.shape[1] or raw.shape[1] % layout.record.itemsize:
        raise DamagedModel(
            f"a row of the tensor {name!r} has {raw.shape[1]} bytes, no whole blocks of {kind.name}"
        )
    records = raw.view(layout.record)
    products, offsets = _decoded(layout, records, is_split=exact_activations and layout.bits == 8)
    for numbers in (*(product.scales for product in products), *(() if offsets is None else (offsets,))):
        _finite(name, numbers)
    return QuantisedMatrix(len(raw), records.shape[1] * layout.weight_count, products, offsets, loss)


def side_by_side(parts: Sequence[Matrix]) -> Matrix | None:
    """Return one matrix whose rows are those of the parts in order; None where their forms differ.

    The loss is that of the worst part.
    """
    first = parts[0]
    if isinstance(first, DenseMatrix):
        dense = [part.weight for part in parts if isinstance(part, DenseMatrix)]
        fits = len(dense) == len(parts) and len({len(weight) for weight in dense}) == 1
        return DenseMatrix(np.concatenate(dense, axis=1)) if fits else None
    matrices = [part for part in parts if isinstance(part, QuantisedMatrix)]
    if len(matrices) < len(parts) or len({_form(matrix) for matrix in matrices}) > 1:
        return None
    columns = [matrix.offsets for matrix in matrices if matrix.offsets is not None]
    return QuantisedMatrix(
        row_count=sum(matrix.row_count for matrix in matrices),
        column_count=first.column_count,
        products=tuple(map(_stacked, zip(*(matrix.products for matrix in matrices), strict=True))),
        offsets=np.concatenate(columns, axis=1) if columns else None,
        loss=max(matrix.loss for matrix in matrices),
    )


def dequantised(matrix: Matrix) -> F32:
    """Return the weights that a matrix stands for, float32 (N, K): for tests and for statements of loss.

    Equal to what ggml dequantises, but for what `ggml_blocks` says of offsets.
    """
    if isinstance(matrix, DenseMatrix):
        return np.ascontiguousarray(matrix.weight.T)
    weights = sum(_weights(product) for product in matrix.products)
    if matrix.offsets is not None:
        weights = weights + matrix.offsets.T[..., None]
    return np.asarray(weights, np.float32).reshape(matrix.row_count, matrix.column_count)


def _decoded(
    layout: Layout, records: NDArray[np.void], *, is_split: bool
) -> tuple[tuple[BlockProduct, ...], F32 | None]:
    """Decode and pack all rows, piece by piece."""
    row_count, column_count = len(records), records.shape[1] * layout.weight_count
    block_count = column_count // layout.block_size
    bits = 4 if is_split else layout.bits
    shape = (row_count, block_count, layout.block_size * bits // 8)
    packed = [np.empty(shape, np.uint8) for _ in range(2 if is_split else 1)]
    scales = np.empty((row_count, block_count), np.float32)
    offsets = np.empty((block_count, row_count), np.float32) if layout.has_offsets else None
    pack = partial(_pack_split, zero=_split_zero(layout)) if is_split else _pack_4 if bits == 4 else _pack_8
    piece = max(1, _CHUNK_WEIGHTS // column_count)
    for start in range(0, row_count, piece):
        rows = slice(start, start + piece)
        with np.errstate(all="ignore"):  # a damaged scale overflows; it is looked for by who calls
            blocks = layout.decode(records[rows])
        pack(blocks.values, [each[rows] for each in packed])
        scales[rows] = blocks.scales
        if offsets is not None and blocks.offsets is not None:
            offsets[:, rows] = blocks.offsets.T
    if not is_split:
        return (BlockProduct(bits, layout.block_size, packed[0], scales),), offsets
    zero_points = None
    if _split_zero(layout) == 128:
        zero_points = np.zeros((row_count, (block_count + 1) // 2), np.uint8)
    upper, lower = packed
    return (
        BlockProduct(bits, layout.block_size, upper, scales * np.float32(16)),
        BlockProduct(bits, layout.block_size, lower, scales, zero_points),
    ), offsets


def _split_zero(layout: Layout) -> int:
    """Return what is added to a value before its halves are cut.

    With 136 = 16 * 8 + 8 both halves are centred on the default zero point. Values above 119 would not fit a
    byte: those take 128 = 16 * 8 + 0, and the lower half zero points of 0.
    """
    return 136 if layout.value_max <= 255 - 136 else 128


def _pack_8(values: I8, packed: list[U8]) -> None:
    np.bitwise_xor(values.view(np.uint8), np.uint8(128), out=packed[0])


def _pack_4(values: I8, packed: list[U8]) -> None:
    pairs = (values.view(np.uint8) + np.uint8(8)).view("<u2")
    np.copyto(packed[0], pairs | pairs >> 4, casting="unsafe")


def _pack_split(values: I8, packed: list[U8], *, zero: int) -> None:
    pairs = (values.view(np.uint8) + np.uint8(zero)).view("<u2")
    np.copyto(packed[0], pairs >> 4 & 0x0F | pairs >> 8 & 0xF0, casting="unsafe")
    np.copyto(packed[1], pairs & 0x0F | pairs >> 4 & 0xF0, casting="unsafe")


def _weights(product: BlockProduct) -> F32:
    """Return a product's weights (N, K / S, S)."""
    if product.bits == 8:
        codes = product.packed
    else:
        codes = np.stack((product.packed & 15, product.packed >> 4), axis=-1).reshape(
            *product.scales.shape, -1
        )
    if product.zero_points is None:
        zeros = np.full(product.scales.shape, 1 << product.bits - 1, np.uint8)
    elif product.bits == 8:
        zeros = product.zero_points
    else:
        pairs = np.stack((product.zero_points & 15, product.zero_points >> 4), axis=-1)
        zeros = pairs.reshape(len(pairs), -1)[:, : product.scales.shape[1]]
    return (codes.astype(np.float32) - zeros[..., None]) * product.scales[..., None]


def _stacked(parts: tuple[BlockProduct, ...]) -> BlockProduct:
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return BlockProduct(
        bits=parts[0].bits,
        block_size=parts[0].block_size,
        packed=np.concatenate([part.packed for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
    )


def _form(matrix: QuantisedMatrix) -> tuple[object, ...]:
    """Return what matrices must share to be multiplied as one."""
    products = ((each.bits, each.block_size, each.zero_points is None) for each in matrix.products)
    return matrix.column_count, matrix.offsets is None, *products


def _finite(name: str, numbers: F32) -> F32:
    if not np.isfinite(numbers).all():
        raise DamagedModel(f"the tensor {name!r} holds weights that are no finite numbers")
    return numbers
