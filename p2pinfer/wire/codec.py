"""Messages to bytes and back: msgpack arrays `[TAG, field, field, ...]`, checked against the schema.

Rules:

1. Whatever the bytes, `decode` returns a message whose every field has its type and lies in its bounds, or
   raises `DecodeError`. It makes no object before size, tag, depth and counts are known to be in order.
2. A sender may be older: missing trailing fields take their defaults. It may be newer: up to eight trailing
   fields that we do not know are dropped. A `Signed` structure must match exactly, since its signature covers
   every byte, and so must an `Exact` one, which all replicas of a state read alike: both change by new tags.
3. One message has one encoding, so that a signature can be checked against a structure built anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any, get_type_hints

import msgpack

import p2pinfer.wire.messages
from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError, LocalProtocolError
from p2pinfer.wire.fields import FieldCodec, compile_field
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.scan import check_shape
from p2pinfer.wire.schema import Exact, message_types

__all__ = [
    "DEPTH_MAX",
    "MESSAGE_SIZE_BYTES_MAX",
    "SURPLUS_FIELDS_MAX",
    "decode",
    "decode_signed",
    "encode",
    "encoded_size",
    "signed_parts",
    "signing_bytes",
    "size_bytes_max_of",
]

MESSAGE_SIZE_BYTES_MAX = (64 << 20) + 65536
"""Whatever a schema would allow: the largest tensor and what is around it."""
DEPTH_MAX = 8
"""Arrays inside each other. The deepest structure of the protocol has six."""
SURPLUS_FIELDS_MAX = 8
"""Unknown trailing fields of a structure that are dropped; more are a sign of nonsense."""
SURPLUS_ITEMS_MAX = 256
"""Values that all unknown fields of a message may unfold into."""
SURPLUS_SIZE_BYTES_MAX = 4096
"""Bytes that all unknown fields of a message may have."""
UNSCANNED_SIZE_BYTES_MAX = 512
"""Below this even the worst nesting asks for less than a megabyte, so the walk before it is not worth it."""
PACKER_SIZE_BYTES_MAX = 1 << 20
"""A packer keeps the room of its largest message; above this it is given back."""

_CODECS: dict[type[Message], FieldCodec] = {}
_BY_TAG: dict[int, FieldCodec] = {}
_SIGNING_PREFIX = b"p2pinfer statement v1\x00"


class _Packer:
    """One reused msgpack packer: making one costs more than most messages."""

    __slots__ = ("_packer",)

    def __init__(self) -> None:
        self._packer = msgpack.Packer()

    def __call__(self, value: Any) -> bytes:
        data: bytes = self._packer.pack(value)
        if len(data) > PACKER_SIZE_BYTES_MAX:
            self._packer = msgpack.Packer()
        return data


_pack = _Packer()


def encode(message: Message) -> bytes:
    """Return the message's one encoding.

    Raises:
        LocalProtocolError: A field is of the wrong type or out of its bounds: a bug of the caller.
    """
    try:
        codec = _CODECS[type(message)]
    except KeyError:
        codec = _codec_of(type(message))
    try:
        return _pack(codec.pack(message))
    except (ValueError, OverflowError, TypeError) as error:  # text with lone surrogates, for one
        raise LocalProtocolError(f"{type(message).__name__} cannot be encoded: {error}") from error


def decode(data: bytes | bytearray | memoryview, *, size_bytes_max: int | None = None) -> Message:
    """Return the message that the bytes encode.

    Args:
        data: The whole message and nothing else.
        size_bytes_max: Refuse more bytes than this; without it each kind of message has its own limit.

    Raises:
        DecodeError: The bytes are no message, for whatever reason.
    """
    size = len(data)
    if size_bytes_max is not None and size > size_bytes_max:
        raise DecodeError(f"a message has at most {size_bytes_max} bytes here, not {size}")
    codec = _peek(data)
    if size > min(codec.size_bytes_max + SURPLUS_SIZE_BYTES_MAX, MESSAGE_SIZE_BYTES_MAX):
        raise DecodeError(f"this kind of message does not have {size} bytes")
    if size > UNSCANNED_SIZE_BYTES_MAX:
        check_shape(data, codec.items_max + SURPLUS_ITEMS_MAX, DEPTH_MAX)
    try:
        # No length can exceed the size of the data: that is msgpack's own rule.
        values = msgpack.unpackb(data, use_list=False, max_map_len=0, max_ext_len=0)
        return codec.unpack(values)  # type: ignore[no-any-return]
    except ValueError as error:
        # msgpack's own errors, invalid UTF-8, and a class that checks itself in __post_init__.
        raise DecodeError(f"not a message: {error}") from error


def decode_signed(
    data: bytes | bytearray | memoryview, *, size_bytes_max: int | None = None
) -> tuple[Message, tuple[Signed, ...]]:
    """Decode, and return the signed structures inside as well: whoever calls this verifies them."""
    message = decode(data, size_bytes_max=size_bytes_max)
    return message, signed_parts(message)


def encoded_size(message: Message) -> int:
    """Return how many bytes `encode` gives: what a core that packs a datagram asks."""
    return len(encode(message))


def signed_parts(message: Message) -> tuple[Signed, ...]:
    """Return every signed structure inside a message, itself included if it is one."""
    signed = _codec_of(type(message)).signed
    return tuple(signed(message)) if signed else ()


def signing_bytes(statement: Signed) -> bytes:
    """Return what the signature of a statement covers: a prefix, and the statement with none."""
    bare: Any = statement
    return _SIGNING_PREFIX + encode(dataclasses.replace(bare, signature=b""))


def size_bytes_max_of(message_type: type[Message]) -> int:
    """Return how many bytes a message of this kind can have: for limits before it is read."""
    return min(_codec_of(message_type).size_bytes_max + SURPLUS_SIZE_BYTES_MAX, MESSAGE_SIZE_BYTES_MAX)


def _peek(data: bytes | bytearray | memoryview) -> FieldCodec:
    """Find the structure from the first bytes: an array's header and a tag below 256."""
    try:
        head = data[0]
        start = 1 if 0x90 < head < 0xA0 else 3 if head == 0xDC else 0
        tag = data[start] if start else -1
        if tag >= 0x80:  # no tag of one byte; one of two begins with 0xcc, and is never below 128
            tag = data[start + 1] if tag == 0xCC and data[start + 1] >= 0x80 else -1
    except IndexError:
        raise DecodeError("no message is that short") from None
    found = _BY_TAG.get(tag)
    if found is None:
        message_type = message_types().get(tag)
        if message_type is None:
            raise DecodeError("no message begins like that: an array with a known tag was expected")
        return _codec_of(message_type)
    return found


def _codec_of(message_type: type[Message]) -> FieldCodec:
    codec = _CODECS.get(message_type)
    if codec is None:
        codec = _compile(message_type, ())
        _CODECS[message_type] = codec
        _BY_TAG[message_type.TAG] = codec
    return codec


def _compile(message_type: type[Message], outer: tuple[type[Message], ...]) -> FieldCodec:
    """Compile a structure and, through its fields, the structures inside it."""
    known = _CODECS.get(message_type)
    if known is not None:
        return known
    if message_types().get(getattr(message_type, "TAG", -1)) is not message_type:
        raise LocalProtocolError(f"{message_type.__name__} is not a registered message")
    if message_type in outer:
        raise TypeError(f"{message_type.__name__} contains itself: no bound follows from its schema")
    hints = get_type_hints(message_type, include_extras=True)
    names = [field.name for field in dataclasses.fields(message_type)]  # type: ignore[arg-type]
    path = (*outer, message_type)
    parts = [
        compile_field(hints[name], f"{message_type.__name__}.{name}", lambda kind: _compile(kind, path))
        for name in names
    ]
    codec = FieldCodec(
        _structure_packer(message_type, names, parts),
        _structure_unpacker(message_type, names, parts),
        _structure_searcher(message_type, names, parts),
        items_max=2 + sum(part.items_max for part in parts),
        size_bytes_max=4 + sum(part.size_bytes_max for part in parts),
        depth=1 + max((part.depth for part in parts), default=0),
    )
    if codec.depth > DEPTH_MAX:
        raise TypeError(f"{message_type.__name__} is nested {codec.depth} deep; the codec allows {DEPTH_MAX}")
    return codec


def _structure_packer(message_type: type[Message], names: list[str], parts: list[FieldCodec]) -> Any:
    tag = message_type.TAG
    steps = tuple(zip(names, [part.pack for part in parts], strict=True))

    def pack(message: Any) -> Any:
        if type(message) is not message_type:
            raise LocalProtocolError(f"a {message_type.__name__} was expected, not {type(message).__name__}")
        values = [change(getattr(message, name)) for name, change in steps]
        values.insert(0, tag)
        return values

    return pack


def _structure_unpacker(message_type: type[Message], names: list[str], parts: list[FieldCodec]) -> Any:
    tag, full, name_of_type = message_type.TAG, 1 + len(names), message_type.__name__
    fields = dataclasses.fields(message_type)  # type: ignore[arg-type]
    required = [i for i, field in enumerate(fields, 2) if not _has_default(field)]
    exact = issubclass(message_type, (Signed, Exact))
    least = full if exact else max(required, default=1)
    most = full if exact else full + SURPLUS_FIELDS_MAX
    build = _structure_builder(message_type, names, parts)

    def unpack(values: Any) -> Any:
        if type(values) is not tuple or not values or type(values[0]) is not int or values[0] != tag:
            raise DecodeError(f"{name_of_type} is an array that begins with {tag}")
        if not least <= len(values) <= most:
            raise DecodeError(f"{name_of_type} has {full - 1} fields, not {len(values) - 1}")
        return build(values)

    return unpack


def _structure_builder(message_type: type[Message], names: list[str], parts: list[FieldCodec]) -> Any:
    """Return what makes a message of the values after the tag; fields that are not there take defaults."""
    if hasattr(message_type, "__post_init__") or "__slots__" not in vars(message_type):
        steps = tuple(zip(names, [part.unpack for part in parts], strict=True))

        def build(values: Any) -> Any:
            pairs = zip(steps, values[1:], strict=False)
            return message_type(**{name: change(value) for (name, change), value in pairs})

        return build

    # The slots are filled directly: a frozen dataclass' own __init__ takes twice as long.
    fields = dataclasses.fields(message_type)  # type: ignore[arg-type]
    stores = [getattr(message_type, name).__set__ for name in names]
    fills = tuple(zip(stores, [part.unpack for part in parts], strict=True))
    new, count = object.__new__, len(fills)

    def build_fast(values: Any) -> Any:
        message = new(message_type)
        for (store, change), value in zip(fills, values[1:], strict=False):
            store(message, change(value))
        for index in range(len(values) - 1, count):
            stores[index](message, _default_of(fields[index]))
        return message

    return build_fast


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default_of(field: Any) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def _structure_searcher(message_type: type[Message], names: list[str], parts: list[FieldCodec]) -> Any:
    steps = [(name, part.signed) for name, part in zip(names, parts, strict=True) if part.signed]
    is_signed = issubclass(message_type, Signed)
    if not steps and not is_signed:
        return None

    def search(message: Any) -> list[Signed]:
        found: list[Signed] = [message] if is_signed else []
        for name, inside in steps:
            found.extend(inside(getattr(message, name)))
        return found

    return search


def _import_messages() -> None:
    """Import every module of `wire.messages`, so that each registers what it holds."""
    for module in pkgutil.iter_modules(p2pinfer.wire.messages.__path__):
        importlib.import_module(f"{p2pinfer.wire.messages.__name__}.{module.name}")


_import_messages()
