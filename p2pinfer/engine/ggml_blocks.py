"""The block formats of ggml, read into small signed integers with a scale and, for some, an offset a block.

A weight is `value * scale + offset`. Rules:

1. Values fit the bits that the layout states, so that MatMulNBits can hold them around its default zero
   point: -8..7 for 4 bits, -128..127 for 8.
2. A format with minimums has an integer moved from its offset into its values, so that the offset is small
   and few digits are lost where the two are added in the end. Codes of 2 or 5 bits leave room for the
   integer that is nearest to it; codes of 4 bits fill their range, and theirs is always 8.
3. Values and scales are exact: a scale of a K-quant is a product of 11 and 6 or 7 significant bits. An offset
   is exact while the format's two float16 factors are within about 2^4 of each other, and rounded once to
   float32 beyond. Where it is exact, so are the weights, to the last bit of what ggml computes.

Source: the structures `block_*` of ggml-common.h, and `dequantize_row_*` of ggml-quants.c; the tests hold
each format against the package gguf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

__all__ = ["LAYOUTS", "Blocks", "Layout"]

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
F32 = NDArray[np.float32]
Records = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Decoded blocks of R rows: weight = value * scale + offset.

    Shapes:
        values: (R, K / S, S) with S the block size; scales, offsets: (R, K / S).
    """

    values: I8
    scales: F32
    offsets: F32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one type lies in a file, and what it is decoded to."""

    record: np.dtype[np.void]
    """One block of the file."""
    weight_count: int
    """Weights in a block of the file."""
    bits: int
    """4 or 8: what the values need."""
    block_size: int
    """S, weights under one scale."""
    value_max: int
    """The largest value that can occur."""
    has_offsets: bool
    decode: Callable[[Records], Blocks]
    """From records (R, blocks of the file)."""


def _bit_groups(packed: U8, width_bits: int) -> U8:
    """Unpack (..., n) bytes to (..., 8 / width, n): the lowest bits of all bytes first."""
    count = 8 // width_bits
    groups = np.empty((*packed.shape[:-1], count, packed.shape[-1]), np.uint8)
    for index in range(count):
        np.right_shift(packed, index * width_bits, out=groups[..., index, :])
    groups &= (1 << width_bits) - 1
    return groups


def _nibbles(packed: U8) -> U8:
    """Unpack (..., 16) bytes to (..., 32): the lower halves of all bytes first."""
    return _bit_groups(packed, 4).reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def _fifth_bits(packed: U8) -> U8:
    """Unpack (..., 4) bytes to (..., 32) values of 0 or 16."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little")
    bits <<= 4
    return bits


def _float(numbers: NDArray[Any]) -> F32:
    return numbers.astype(np.float32)


def _signed(codes: U8, zero: int) -> I8:
    codes -= np.uint8(zero)
    return codes.view(np.int8)


def _affine(codes: U8, scales: F32, minimums: F32, zero_max: int | None) -> Blocks:
    """Move an integer from the minimums into the values: 8, or the nearest of at most `zero_max`."""
    if zero_max is None:
        return Blocks(_signed(codes, 8), scales, minimums + np.float32(8) * scales)
    nearest = np.divide(-minimums, scales, out=np.zeros_like(scales), where=scales != 0)
    zeros = np.rint(np.clip(nearest, 0, zero_max))
    codes -= zeros.astype(np.uint8)[..., None]
    return Blocks(codes.view(np.int8), scales, minimums + zeros * scales)


def _q4_0(block: Records) -> Blocks:
    return Blocks(_signed(_nibbles(block["qs"]), 8), _float(block["d"]))


def _q4_1(block: Records) -> Blocks:
    return _affine(_nibbles(block["qs"]), _float(block["d"]), _float(block["m"]), None)


def _q5_0(block: Records) -> Blocks:
    return Blocks(_signed(_nibbles(block["qs"]) | _fifth_bits(block["qh"]), 16), _float(block["d"]))


def _q5_1(block: Records) -> Blocks:
    codes = _nibbles(block["qs"]) | _fifth_bits(block["qh"])
    return _affine(codes, _float(block["d"]), _float(block["m"]), 31)


def _q8_0(block: Records) -> Blocks:
    return Blocks(block["qs"], _float(block["d"]))


_NON_LINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_DOUBLED_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def _iq4_nl(block: Records) -> Blocks:
    return Blocks(_NON_LINEAR[_nibbles(block["qs"])], _float(block["d"]))


def _iq4_xs(block: Records) -> Blocks:
    lower = _bit_groups(block["scales_l"][..., None], 4).reshape(*block.shape, 8)
    upper = (block["scales_h"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16)).astype(
        np.uint8
    ) & np.uint8(3)
    scales = _float(block["d"])[..., None] * _float(_signed(lower | upper << np.uint8(4), 32))
    return Blocks(
        _NON_LINEAR[_nibbles(block["qs"])].reshape(len(block), -1, 32), scales.reshape(len(block), -1)
    )


def _mxfp4(block: Records) -> Blocks:
    halved = np.ldexp(
        np.float32(1), block["e"].astype(np.int32) - 128
    )  # half of 2^(e - 127): values are doubled
    return Blocks(_DOUBLED_E2M1[_nibbles(block["qs"])], halved.astype(np.float32))


def _k_scales(block: Records) -> tuple[F32, F32]:
    """Scales and minimums of Q4_K and Q5_K: eight of six bits each, packed in twelve bytes."""
    first, second, rest = (block["scales"][..., start : start + 4] for start in (0, 4, 8))
    scales = np.concatenate((first & 63, rest & 15 | first >> 2 & 48), axis=-1)
    minimums = np.concatenate((second & 63, rest >> 4 | second >> 2 & 48), axis=-1)
    rows = len(block)
    return (
        (_float(block["d"])[..., None] * _float(scales)).reshape(rows, -1),
        (_float(block["dmin"])[..., None] * -_float(minimums)).reshape(rows, -1),
    )


def _q4_k(block: Records) -> Blocks:
    return _affine(_nibbles(block["qs"]).reshape(len(block), -1, 32), *_k_scales(block), None)


def _q5_k(block: Records) -> Blocks:
    codes = _nibbles(block["qs"]).reshape(*block.shape, 8, 32)
    codes |= _bit_groups(block["qh"], 1) << 4
    return _affine(codes.reshape(len(block), -1, 32), *_k_scales(block), 31)


def _q6_k(block: Records) -> Blocks:
    codes = _nibbles(block["ql"]).reshape(*block.shape, 2, 4, 32)
    codes |= _bit_groups(block["qh"], 2) << 4
    scales = _float(block["d"])[..., None] * _float(block["scales"])
    return Blocks(_signed(codes, 32).reshape(len(block), -1, 16), scales.reshape(len(block), -1))


def _q3_k(block: Records) -> Blocks:
    codes = _bit_groups(block["qs"], 2).reshape(*block.shape, 8, 32)
    codes |= _bit_groups(block["hmask"], 1) << 2
    lower = _bit_groups(block["scales"][..., :8], 4).reshape(*block.shape, 16)
    upper = _bit_groups(block["scales"][..., 8:], 2).reshape(*block.shape, 16)
    scales = _float(block["d"])[..., None] * _float(_signed(lower | upper << np.uint8(4), 32))
    return Blocks(_signed(codes, 4).reshape(len(block), -1, 16), scales.reshape(len(block), -1))


def _q2_k(block: Records) -> Blocks:
    codes = _bit_groups(block["qs"], 2).reshape(len(block), -1, 16)
    scales = _float(block["d"])[..., None] * _float(block["scales"] & 15)
    minimums = _float(block["dmin"])[..., None] * -_float(block["scales"] >> 4)
    return _affine(codes, scales.reshape(len(block), -1), minimums.reshape(len(block), -1), 8)


def _layout(
    decode: Callable[[Records], Blocks],
    fields: str,
    weight_count: int,
    values: tuple[int, int],
    block_size: int = 32,
) -> Layout:
    """Describe a layout.

    Args:
        decode: Its decoder.
        fields: Names and numpy types of the parts of a block, in order.
        weight_count: Weights in a block.
        values: Bits, and the largest value.
        block_size: Weights under one scale.
    """
    record = np.dtype([(name, kind) for name, kind in (field.split(":") for field in fields.split())])
    return Layout(
        record=record,
        weight_count=weight_count,
        bits=values[0],
        block_size=block_size,
        value_max=values[1],
        has_offsets="m" in (record.names or ()) or "dmin" in (record.names or ()),
        decode=decode,
    )


LAYOUTS = {
    GGMLQuantizationType.Q4_0: _layout(_q4_0, "d:<f2 qs:16u1", 32, (4, 7)),
    GGMLQuantizationType.Q4_1: _layout(_q4_1, "d:<f2 m:<f2 qs:16u1", 32, (4, 7)),
    GGMLQuantizationType.Q5_0: _layout(_q5_0, "d:<f2 qh:4u1 qs:16u1", 32, (8, 15)),
    GGMLQuantizationType.Q5_1: _layout(_q5_1, "d:<f2 m:<f2 qh:4u1 qs:16u1", 32, (8, 31)),
    GGMLQuantizationType.Q8_0: _layout(_q8_0, "d:<f2 qs:32i1", 32, (8, 127)),
    GGMLQuantizationType.IQ4_NL: _layout(_iq4_nl, "d:<f2 qs:16u1", 32, (8, 113)),
    GGMLQuantizationType.IQ4_XS: _layout(
        _iq4_xs, "d:<f2 scales_h:<u2 scales_l:4u1 qs:(8,16)u1", 256, (8, 113)
    ),
    GGMLQuantizationType.MXFP4: _layout(_mxfp4, "e:u1 qs:16u1", 32, (8, 12)),
    GGMLQuantizationType.Q2_K: _layout(_q2_k, "scales:16u1 qs:(2,32)u1 d:<f2 dmin:<f2", 256, (4, 3), 16),
    GGMLQuantizationType.Q3_K: _layout(_q3_k, "hmask:32u1 qs:(2,32)u1 scales:12u1 d:<f2", 256, (4, 3), 16),
    GGMLQuantizationType.Q4_K: _layout(_q4_k, "d:<f2 dmin:<f2 scales:12u1 qs:(4,32)u1", 256, (4, 7)),
    GGMLQuantizationType.Q5_K: _layout(_q5_k, "d:<f2 dmin:<f2 scales:12u1 qh:32u1 qs:(4,32)u1", 256, (8, 31)),
    GGMLQuantizationType.Q6_K: _layout(_q6_k, "ql:(2,64)u1 qh:(2,32)u1 scales:16i1 d:<f2", 256, (8, 31), 16),
}
"""The types that become products without loss."""
