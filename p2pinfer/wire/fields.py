"""How a field of a message is checked and turned into what msgpack packs, and back.

Each annotation is compiled once into a `FieldCodec`: two closures and the field's worst case. Rules:

1. Both directions check the same bounds, so what a peer encodes every peer can decode.
2. The worst case (values, bytes, depth) of a structure follows from its schema alone, so that the codec can
   refuse a message before any object of it is made.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError, LocalProtocolError
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.scalars import FieldCodec, bound_of, compile_scalar, wrong_type
from p2pinfer.wire.schema import ITEMS_COUNT_MAX, Count

__all__ = ["FieldCodec", "Resolve", "compile_field"]

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
    return compile_scalar(hint, where, bounds)


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
            raise LocalProtocolError(wrong_type(where, value, names))
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
        max(codec.size_bytes_max for codec in every),
        max(codec.depth for codec in every),
    )


def _compile_tuple(inner: FieldCodec, item: Any, where: str, bounds: tuple[Any, ...]) -> FieldCodec:
    count = bound_of(bounds, Count)
    count_max = count.items_max if count else ITEMS_COUNT_MAX
    pack_item, unpack_item, signed_item = inner.pack, inner.unpack, inner.signed
    is_plain = _is_plain_int(item)

    def pack(value: Any) -> Any:
        if type(value) is not tuple:
            raise LocalProtocolError(wrong_type(where, value, "a tuple"))
        if len(value) > count_max:
            raise LocalProtocolError(f"{where} has at most {count_max} items, not {len(value)}")
        return tuple([pack_item(each) for each in value])

    def unpack(value: Any) -> Any:
        if type(value) is not tuple:
            raise DecodeError(wrong_type(where, value, "an array"))
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
        5 + count_max * inner.size_bytes_max,
        1 + inner.depth,
    )


def _is_plain_int(hint: Any) -> bool:
    return (get_args(hint)[0] if get_origin(hint) is Annotated else hint) is int
