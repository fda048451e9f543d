"""Reads a GGUF file's header: metadata and the table of tensors, never a weight.

Rules:

1. Everything in the file is untrusted: each length is checked against the bytes that are left before it is
   used, each count against a limit, and what is wrong is told with its name and its place.
2. Arrays of the vocabulary's size are stepped over and decoded only when somebody asks for them: a peer
   that holds three layers in the middle never needs a token's text.

Source: ggml-org/ggml `docs/gguf.md`, versions 2 and 3 (version 1 had 32-bit lengths and is refused).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from p2pinfer.errors import DamagedModel, UnsupportedModel

__all__ = ["Header", "Metadata", "MetadataValue", "TensorInfo", "read_header"]

MetadataValue = (
    int | float | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...] | tuple[str, ...]
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_BYTES_DEFAULT = 32  # gguf.md: general.alignment
ALIGNMENT_BYTES_MAX = 1 << 20  # files in the wild have 32 or 64; a page is 4096
KEY_SIZE_BYTES_MAX = (1 << 16) - 1  # gguf.md: gguf_metadata_kv_t
NAME_SIZE_BYTES_MAX = 127  # gguf.md says 64, some writers go on a little
DIMENSION_COUNT_MAX = 4  # ggml.h: GGML_MAX_DIMS
KEY_COUNT_MAX = 1 << 16  # hundreds in the wild
TENSOR_COUNT_MAX = 1 << 17  # thousands in the wild
ELEMENT_COUNT_MAX = 1 << 24  # over all arrays of a file; gemma 3 has 1.3 million
ELEMENT_SIZE_MAX = 1 << 62
EAGER_COUNT_MAX = 64  # arrays up to this many numbers are decoded at once

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<B",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is.

    Shapes:
        shape: numpy's order, so a matrix is (rows, columns) and a row is contiguous.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    """From the start of the file, in bytes."""
    size_bytes: int

    @property
    def row_size_bytes(self) -> int:
        """Bytes of one contiguous row."""
        block_size, block_size_bytes = GGML_QUANT_SIZES[self.type]
        return int(self.shape[-1] // block_size * block_size_bytes)


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that was stepped over."""

    key: str
    type: int
    count: int
    offset: int


class Metadata(Mapping[str, MetadataValue]):
    """The file's key-value pairs; a large array is decoded anew each time it is asked for."""

    def __init__(self, values: dict[str, MetadataValue | _Array], data: mmap.mmap) -> None:
        self._values = values
        self._data = data

    def __getitem__(self, key: str) -> MetadataValue:
        value = self._values[key]
        return _decode_array(self._data, value) if isinstance(value, _Array) else value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str) -> int | None:
        """How many elements the array under `key` has, without decoding it; None if it is no array."""
        value = self._values.get(key)
        if isinstance(value, _Array):
            return value.count
        return len(value) if isinstance(value, tuple) else None


@dataclass(frozen=True, slots=True)
class Header:
    """All that stands before the weights."""

    version: int
    metadata: Metadata
    tensors: dict[str, TensorInfo]


class _Cursor:
    """A place in the file that moves only over bytes that are there."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0
        self.elements_left = ELEMENT_COUNT_MAX

    def advance(self, size_bytes: int, what: str) -> int:
        """Step over bytes and return where they started."""
        start = self.position
        if size_bytes > self.size - start:
            raise DamagedModel(
                f"{what} at byte {start} needs {size_bytes} bytes and {self.size - start} are left: "
                "the file is truncated, fetch it again"
            )
        self.position = start + size_bytes
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.advance(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.advance(8, what))[0])

    def string(self, what: str, size_bytes_max: int | None = None) -> str:
        size_bytes = self.u64(f"the length of {what}")
        if size_bytes_max is not None and size_bytes > size_bytes_max:
            raise DamagedModel(
                f"{what} at byte {self.position} has {size_bytes} bytes; at most {size_bytes_max} are allowed"
            )
        start = self.advance(size_bytes, what)
        return _text(self.data[start : self.position], what, start)


def read_header(data: mmap.mmap) -> Header:
    """Read all that stands before the weights.

    Raises:
        DamagedModel: The header is truncated or contradicts itself or the file's size.
        UnsupportedModel: A version, byte order or quantisation type that is not known here.
    """
    cursor = _Cursor(data)
    version = _read_version(cursor)
    tensor_count = _bounded(cursor.u64("the tensor count"), TENSOR_COUNT_MAX, "tensors")
    key_count = _bounded(cursor.u64("the metadata count"), KEY_COUNT_MAX, "metadata keys")
    values: dict[str, MetadataValue | _Array] = {}
    for _ in range(key_count):
        start = cursor.position
        key = cursor.string("a metadata key", KEY_SIZE_BYTES_MAX)
        if key in values:
            raise DamagedModel(f"the metadata key {key!r} at byte {start} is there twice")
        values[key] = _read_value(cursor, key)
    metadata = Metadata(values, data)
    alignment = _read_alignment(metadata)
    tensors: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        info = _read_tensor(cursor)
        if info.name in tensors:
            raise DamagedModel(f"the tensor {info.name!r} is there twice")
        if info.offset % alignment:
            raise DamagedModel(
                f"the tensor {info.name!r} has offset {info.offset}, no multiple of {alignment} bytes"
            )
        tensors[info.name] = info
    data_start = -(-cursor.position // alignment) * alignment
    return Header(version, metadata, _place(tensors, data_start, cursor.size))


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.data[: len(MAGIC)]
    if magic != MAGIC:
        raise DamagedModel(f"the file starts with {magic!r} and not with {MAGIC!r}: it is no GGUF file")
    cursor.advance(len(MAGIC), "the magic")
    version = cursor.u32("the version")
    if version in VERSIONS:
        return version
    if version and version & 0xFFFF == 0:
        raise UnsupportedModel("the file is big-endian: convert it to little-endian GGUF")
    if version == 1:
        raise UnsupportedModel("GGUF version 1 is not supported: convert the model again (version 3)")
    raise DamagedModel(f"the GGUF version is {version}; known are {', '.join(map(str, VERSIONS))}")


def _bounded(count: int, count_max: int, what: str) -> int:
    if count > count_max:
        raise DamagedModel(f"the header announces {count} {what}; at most {count_max} are allowed")
    return count


def _read_value(cursor: _Cursor, key: str) -> MetadataValue | _Array:
    type_ = cursor.u32(f"the type of {key!r}")
    if type_ == _STRING:
        return cursor.string(f"the value of {key!r}")
    if type_ == _ARRAY:
        return _read_array(cursor, key)
    return _read_scalar(cursor, key, type_)


def _read_scalar(cursor: _Cursor, key: str, type_: int) -> int | float | bool:
    code = _SCALARS.get(type_)
    if code is None:
        raise DamagedModel(f"{key!r} has the value type {type_}, which GGUF does not have")
    start = cursor.advance(struct.calcsize(code), f"the value of {key!r}")
    value: int | float = struct.unpack_from(code, cursor.data, start)[0]
    if type_ != _BOOL:
        return value
    if value not in (0, 1):
        raise DamagedModel(f"{key!r} at byte {start} is a bool of value {value}; a bool is 0 or 1")
    return bool(value)


def _read_array(cursor: _Cursor, key: str) -> MetadataValue | _Array:
    type_ = cursor.u32(f"the element type of {key!r}")
    count = cursor.u64(f"the element count of {key!r}")
    if count > cursor.elements_left:
        raise DamagedModel(f"the array {key!r} announces {count} elements: more than a model can have")
    cursor.elements_left -= count
    array = _Array(key, type_, count, cursor.position)
    if type_ == _STRING:
        _skip_strings(cursor, array)
        return array
    if type_ == _ARRAY:
        raise UnsupportedModel(f"{key!r} is an array of arrays, which no supported model has")
    code = _SCALARS.get(type_)
    if code is None:
        raise DamagedModel(f"{key!r} has the element type {type_}, which GGUF does not have")
    cursor.advance(count * struct.calcsize(code), f"the array {key!r}")
    return _decode_array(cursor.data, array) if count <= EAGER_COUNT_MAX else array


def _skip_strings(cursor: _Cursor, array: _Array) -> None:
    """Step over the strings: the one loop of a header that runs a hundred thousand times."""
    data, position, size = cursor.data, cursor.position, cursor.size
    unpack = _U64.unpack_from
    for index in range(array.count):
        following = position + 8
        if following <= size:
            following += unpack(data, position)[0]
        if following > size:
            raise DamagedModel(
                f"element {index} of {array.key!r} at byte {position} reaches beyond the file's {size} "
                "bytes: the file is truncated, fetch it again"
            )
        position = following
    cursor.position = position


def _decode_array(data: mmap.mmap, array: _Array) -> MetadataValue:
    if array.type != _STRING:
        code = _SCALARS[array.type]
        values = struct.unpack_from(f"<{array.count}{code[1]}", data, array.offset)
        if array.type != _BOOL:
            return values
        if any(value > 1 for value in values):
            raise DamagedModel(f"the array of bools {array.key!r} holds something other than 0 and 1")
        return tuple(map(bool, values))
    texts: list[str] = []
    position = array.offset
    for index in range(array.count):
        start = position + 8
        position = start + _U64.unpack_from(data, position)[0]
        try:
            texts.append(data[start:position].decode())
        except UnicodeDecodeError as error:
            raise DamagedModel(f"element {index} of {array.key!r} at byte {start} is not UTF-8") from error
    return tuple(texts)


def _text(raw: bytes, what: str, start: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DamagedModel(f"{what} at byte {start} is not UTF-8") from error


def _read_alignment(metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT_BYTES_DEFAULT)
    if not isinstance(alignment, int) or isinstance(alignment, bool):
        raise DamagedModel("general.alignment is no whole number")
    if not 0 < alignment <= ALIGNMENT_BYTES_MAX or alignment & (alignment - 1):
        raise DamagedModel(
            f"general.alignment is {alignment}; it must be a power of two up to {ALIGNMENT_BYTES_MAX}"
        )
    return alignment


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    """One line of the table; its offset is still counted from the start of the weights."""
    name = cursor.string("a tensor name", NAME_SIZE_BYTES_MAX)
    dimension_count = cursor.u32(f"the dimension count of {name!r}")
    if not 0 < dimension_count <= DIMENSION_COUNT_MAX:
        raise DamagedModel(
            f"the tensor {name!r} has {dimension_count} dimensions; it must have 1 to {DIMENSION_COUNT_MAX}"
        )
    shape = tuple(cursor.u64(f"a dimension of {name!r}") for _ in range(dimension_count))[::-1]
    type_id = cursor.u32(f"the type of {name!r}")
    offset = cursor.u64(f"the offset of {name!r}")
    try:
        type_ = GGMLQuantizationType(type_id)
        block_size, block_size_bytes = GGML_QUANT_SIZES[type_]
    except (ValueError, KeyError) as error:
        raise UnsupportedModel(
            f"the tensor {name!r} has the quantisation type {type_id}, which is not known here"
        ) from error
    count = 1
    for dimension in shape:
        count *= dimension
    if not 0 < count < ELEMENT_SIZE_MAX:
        raise DamagedModel(f"the tensor {name!r} has the shape {shape}: empty or too large to be true")
    if shape[-1] % block_size:
        raise DamagedModel(
            f"the tensor {name!r} has rows of {shape[-1]} elements, no multiple of "
            f"the {block_size} that a block of {type_.name} holds"
        )
    return TensorInfo(name, shape, type_, offset, count // block_size * block_size_bytes)


def _place(tensors: dict[str, TensorInfo], data_start: int, size: int) -> dict[str, TensorInfo]:
    """Count the offsets from the start of the file, and check that each tensor has bytes of its own."""
    placed: dict[str, TensorInfo] = {}
    previous: TensorInfo | None = None
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        start = data_start + info.offset
        if info.size_bytes > size - start:
            raise DamagedModel(
                f"the tensor {info.name!r} ends at byte {start + info.size_bytes} and the file has {size} "
                "bytes: it is truncated, fetch it again"
            )
        if previous is not None and start < previous.offset + previous.size_bytes:
            raise DamagedModel(f"the tensors {previous.name!r} and {info.name!r} overlap at byte {start}")
        previous = TensorInfo(info.name, info.shape, info.type, start, info.size_bytes)
        placed[info.name] = previous
    return {name: placed[name] for name in tensors}
