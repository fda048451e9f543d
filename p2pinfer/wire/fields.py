"""How one field of a message is checked and turned into what msgpack packs, and back.

Each annotation is compiled once into a `FieldCodec`: two closures and the field's worst case. Rules:

1. Both directions check the same bounds, so what a peer encodes every peer can decode.
2. Checks are by exact type: True is no number and 1 is no float.
3. The worst case (values, bytes, depth) of a structure follows from its schema alone, so that the codec can
   refuse a message before any object of it is made.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError, LocalProtocolError, ProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span, SwarmId
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import (
    BYTES_SIZE_MAX,
    INT_MAX,
    INT_MIN,
    ITEMS_COUNT_MAX,
    TEXT_SIZE_MAX,
    Between,
    Count,
    Exactly,
    Size,
)

__all__ = ["FieldCodec", "Resolve", "compile_field"]

Change = Callable[[Any], Any]

FLOAT_MAX = sys.float_info.max
SPAN_LAYER_MAX = 1 << 20
"""Far above any model's layer count; it only keeps a span's numbers small."""


@dataclass(frozen=True, slots=True)
class FieldCodec:
    """What is known of a field, or of a whole structure, once its annotation is compiled."""

    pack: Change
    unpack: Change
    signed: Callable[[Any], Iterable[Signed]] | None = None
    """Finds the signed structures inside; None where there can be none."""
    items_max: int = 1
    """msgpack values that it unfolds into at most, itself included."""
    array_max: int = 0
    """Items of its longest array."""
    size_bytes_max: int = 9
    depth: int = 0
    """Arrays inside each other."""


Resolve = Callable[[type[Message]], FieldCodec]


def compile_field(hint: Any, where: str, resolve: Resolve, bounds: tuple[Any, ...] = ()) -> FieldCodec:
    """Compile one annotation.

    Args:
        hint: The annotation, with its extras.
        where: The field's name for errors, as in `Step.base`.
        resolve: Gives the codec of a registered structure.
        bounds: What an outer `Annotated` said.

    Raises:
        TypeError: The annotation is of a kind that the protocol does not have; a bug of the message class.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        base, *extras = get_args(hint)
        return compile_field(base, where, resolve, (*bounds, *extras))
    if origin is Union or origin is types.UnionType:
        return _compile_union(get_args(hint), where, resolve, bounds)
    if origin is tuple:
        item, *rest = get_args(hint)
        if rest != [Ellipsis]:
            raise TypeError(f"{where}: a tuple field is tuple[X, ...], with one kind of item")
        return _compile_tuple(compile_field(item, where, resolve), item, where, bounds)
    if isinstance(hint, type) and issubclass(hint, Message):
        return resolve(hint)
    return _compile_scalar(hint, where, bounds)


def _bound(bounds: tuple[Any, ...], kind: type) -> Any:
    return next((each for each in bounds if isinstance(each, kind)), None)


def _compile_scalar(hint: Any, where: str, bounds: tuple[Any, ...]) -> FieldCodec:
    if hint is bool:
        return _both(_check_bool, where, size_bytes_max=1)
    if hint is int:
        between = _bound(bounds, Between) or Between(INT_MIN, INT_MAX)
        low, high = int(between.low), int(between.high)
        return FieldCodec(_pack_int(where, low, high), _unpack_int(where, low, high))
    if hint is float:
        between = _bound(bounds, Between) or Between(-FLOAT_MAX, FLOAT_MAX)
        return FieldCodec(_pack_float(where, between), _unpack_float(where, between))
    if hint is str:
        size = _bound(bounds, Size)
        size_max = size.bytes_max if size else TEXT_SIZE_MAX
        return _both(_check_text, where, size_max, size_bytes_max=size_max + 5)
    if hint is bytes:
        exactly, size = _bound(bounds, Exactly), _bound(bounds, Size)
        size_max = exactly.bytes_count if exactly else size.bytes_max if size else BYTES_SIZE_MAX
        size_min = size_max if exactly else 0
        return _both(_check_bytes, where, size_min, size_max, size_bytes_max=size_max + 5)
    if hint in (PeerId, SwarmId, SessionId):
        return FieldCodec(_pack_id(where, hint), _unpack_id(where, hint), size_bytes_max=hint.SIZE_BYTES + 2)
    if hint is Endpoint:
        return FieldCodec(_pack_endpoint(where), _unpack_endpoint(where), None, 3, 2, TEXT_SIZE_MAX + 15, 1)
    if hint is Contact:
        return FieldCodec(_pack_contact(where), _unpack_contact(where), None, 4, 3, TEXT_SIZE_MAX + 50, 1)
    if hint is Span:
        return FieldCodec(_pack_span(where), _unpack_span(where), None, 3, 2, 19, 1)
    raise TypeError(f"{where}: the protocol has no fields of type {hint!r}")


def _both(make: Callable[..., Change], where: str, *limits: int, size_bytes_max: int) -> FieldCodec:
    """One check for both directions; only the kind of error differs."""
    pack, unpack = make(where, LocalProtocolError, *limits), make(where, DecodeError, *limits)
    return FieldCodec(pack, unpack, size_bytes_max=size_bytes_max)


def _wrong(where: str, value: Any, wanted: str) -> str:
    return f"{where} is {wanted}, not {type(value).__name__}"


def _check_bool(where: str, error: type[ProtocolError]) -> Change:
    def check(value: Any) -> Any:
        if value is True or value is False:
            return value
        raise error(_wrong(where, value, "a truth value"))

    return check


def _pack_int(where: str, low: int, high: int) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is not int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise LocalProtocolError(_wrong(where, value, "a whole number"))
            value = int(value)  # an IntEnum travels as its number
        if low <= value <= high:
            return value
        raise LocalProtocolError(f"{where} lies in [{low}, {high}], unlike {value}")

    return pack


def _unpack_int(where: str, low: int, high: int) -> Change:
    def unpack(value: Any) -> Any:
        if type(value) is int and low <= value <= high:
            return value
        if type(value) is not int:
            raise DecodeError(_wrong(where, value, "a whole number"))
        raise DecodeError(f"{where} lies in [{low}, {high}], unlike {value}")

    return unpack


def _pack_float(where: str, between: Between) -> Change:
    low, high = between.low, between.high

    def pack(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LocalProtocolError(_wrong(where, value, "a number"))
        if low <= value <= high:
            return float(value)
        raise LocalProtocolError(f"{where} is finite and in [{low}, {high}], unlike {value}")

    return pack


def _unpack_float(where: str, between: Between) -> Change:
    low, high = between.low, between.high

    def unpack(value: Any) -> Any:
        if type(value) is not float:
            raise DecodeError(_wrong(where, value, "a float"))
        if low <= value <= high:  # false for a NaN
            return value
        raise DecodeError(f"{where} is finite and in [{low}, {high}], unlike {value}")

    return unpack


def _check_text(where: str, error: type[ProtocolError], size_max: int) -> Change:
    def check(value: Any) -> Any:
        if type(value) is not str:
            raise error(_wrong(where, value, "text"))
        # Four bytes a character at most: most texts need no look at their encoding.
        if len(value) * 4 > size_max and _utf8_size(value) > size_max:
            raise error(f"{where} has at most {size_max} bytes of UTF-8")
        return value

    return check


def _utf8_size(text: str) -> int:
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))


def _check_bytes(where: str, error: type[ProtocolError], size_min: int, size_max: int) -> Change:
    def check(value: Any) -> Any:
        if not isinstance(value, bytes):
            raise error(_wrong(where, value, "bytes"))
        if size_min <= len(value) <= size_max:
            return value
        wanted = f"{size_max}" if size_min else f"at most {size_max}"
        raise error(f"{where} has {wanted} bytes, not {len(value)}")

    return check


def _pack_id(where: str, kind: type[bytes]) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise LocalProtocolError(_wrong(where, value, kind.__name__))

    return pack


def _unpack_id(where: str, kind: Any) -> Change:
    size, new = kind.SIZE_BYTES, bytes.__new__

    def unpack(value: Any) -> Any:
        if type(value) is bytes and len(value) == size:
            return new(kind, value)
        raise DecodeError(f"{where} is {size} bytes of {kind.__name__}")

    return unpack


def _host_is_sound(host: Any) -> bool:
    """Hosts reach logs and resolvers: plain visible ASCII, no blanks."""
    return (
        type(host) is str
        and len(host) <= TEXT_SIZE_MAX
        and host.isascii()
        and host.isprintable()
        and " " not in host
    )


def _place_is_sound(host: Any, port: Any) -> bool:
    return type(port) is int and 0 <= port <= 65535 and _host_is_sound(host)


def _pack_endpoint(where: str) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is Endpoint and _place_is_sound(value.host, value.port):
            return (value.host, value.port)
        raise LocalProtocolError(
            f"{where} is an Endpoint with a plain host and a port below 65536: {value!r}"
        )

    return pack


def _unpack_endpoint(where: str) -> Change:
    def unpack(value: Any) -> Any:
        if type(value) is tuple and len(value) == 2 and _place_is_sound(value[0], value[1]):
            return Endpoint(value[0], value[1])
        raise DecodeError(f"{where} is [host, port]")

    return unpack


def _pack_contact(where: str) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is Contact and (value.peer is None or type(value.peer) is PeerId):
            place = value.endpoint
            if type(place) is Endpoint and _place_is_sound(place.host, place.port):
                return (value.peer, place.host, place.port)
        raise LocalProtocolError(f"{where} is a Contact with a plain host and a port below 65536: {value!r}")

    return pack


def _unpack_contact(where: str) -> Change:
    peer_id = _unpack_id(where, PeerId)

    def unpack(value: Any) -> Any:
        if type(value) is tuple and len(value) == 3 and _place_is_sound(value[1], value[2]):
            peer = value[0]
            return Contact(None if peer is None else peer_id(peer), Endpoint(value[1], value[2]))
        raise DecodeError(f"{where} is [peer or nil, host, port]")

    return unpack


def _pack_span(where: str) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is Span and value.end <= SPAN_LAYER_MAX:
            return (value.start, value.end)
        raise LocalProtocolError(f"{where} is a Span of layers below {SPAN_LAYER_MAX}")

    return pack


def _unpack_span(where: str) -> Change:
    def unpack(value: Any) -> Any:
        if type(value) is tuple and len(value) == 2:
            start, end = value
            if type(start) is int and type(end) is int and 0 <= start < end <= SPAN_LAYER_MAX:
                return Span(start, end)
        raise DecodeError(f"{where} is [start, end] with 0 <= start < end")

    return unpack


def _compile_union(
    options: tuple[Any, ...], where: str, resolve: Resolve, bounds: tuple[Any, ...]
) -> FieldCodec:
    kinds = [each for each in options if each is not type(None)]
    if len(kinds) == 1:
        inner = compile_field(kinds[0], where, resolve, bounds)
    else:
        inner = _compile_choice(kinds, where, resolve)
    return inner if len(kinds) == len(options) else _optional(inner)


def _optional(inner: FieldCodec) -> FieldCodec:
    pack_inner, unpack_inner, signed_inner = inner.pack, inner.unpack, inner.signed

    def signed(value: Any) -> Iterable[Signed]:
        return () if value is None or signed_inner is None else signed_inner(value)

    return FieldCodec(
        lambda value: None if value is None else pack_inner(value),
        lambda value: None if value is None else unpack_inner(value),
        signed if signed_inner else None,
        inner.items_max,
        inner.array_max,
        inner.size_bytes_max,
        inner.depth,
    )


def _compile_choice(kinds: list[Any], where: str, resolve: Resolve) -> FieldCodec:
    """One of several structures, told apart by their tags."""
    if not all(isinstance(kind, type) and issubclass(kind, Message) for kind in kinds):
        raise TypeError(f"{where}: only registered structures can be alternatives of a field")
    codecs = {kind: resolve(kind) for kind in kinds}
    by_tag = {kind.TAG: codec for kind, codec in codecs.items()}
    names = " or ".join(kind.__name__ for kind in kinds)

    def pack(value: Any) -> Any:
        codec = codecs.get(type(value))
        if codec is None:
            raise LocalProtocolError(_wrong(where, value, names))
        return codec.pack(value)

    def unpack(value: Any) -> Any:
        if type(value) is tuple and value and type(value[0]) is int:
            codec = by_tag.get(value[0])
            if codec is not None:
                return codec.unpack(value)
        raise DecodeError(f"{where} is {names}")

    def signed(value: Any) -> Iterable[Signed]:
        inside = codecs[type(value)].signed
        return inside(value) if inside else ()

    every = list(codecs.values())
    return FieldCodec(
        pack,
        unpack,
        signed if any(codec.signed for codec in every) else None,
        max(codec.items_max for codec in every),
        max(codec.array_max for codec in every),
        max(codec.size_bytes_max for codec in every),
        max(codec.depth for codec in every),
    )


def _compile_tuple(inner: FieldCodec, item: Any, where: str, bounds: tuple[Any, ...]) -> FieldCodec:
    count = _bound(bounds, Count)
    count_max = count.items_max if count else ITEMS_COUNT_MAX
    pack_item, unpack_item, signed_item = inner.pack, inner.unpack, inner.signed
    is_plain = _is_plain_int(item)

    def pack(value: Any) -> Any:
        if type(value) is not tuple:
            raise LocalProtocolError(_wrong(where, value, "a tuple"))
        if len(value) > count_max:
            raise LocalProtocolError(f"{where} has at most {count_max} items, not {len(value)}")
        return tuple([pack_item(each) for each in value])

    def unpack(value: Any) -> Any:
        if type(value) is not tuple:
            raise DecodeError(_wrong(where, value, "an array"))
        if len(value) > count_max:
            raise DecodeError(f"{where} has at most {count_max} items, not {len(value)}")
        if is_plain and len(value) > 8 and set(map(type, value)) == {int}:
            # Prompts are thousands of token ids: two comparisons bound them all.
            unpack_item(min(value)), unpack_item(max(value))
            return value
        return tuple([unpack_item(each) for each in value])

    def signed(value: Any) -> Iterable[Signed]:
        return [part for each in value for part in signed_item(each)] if signed_item else ()

    return FieldCodec(
        pack,
        unpack,
        signed if signed_item else None,
        1 + count_max * inner.items_max,
        max(count_max, inner.array_max),
        5 + count_max * inner.size_bytes_max,
        1 + inner.depth,
    )


def _is_plain_int(hint: Any) -> bool:
    return (get_args(hint)[0] if get_origin(hint) is Annotated else hint) is int
