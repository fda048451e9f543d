"""How single values are checked and turned into what msgpack packs, and back: numbers, text, ids, places.

`compile_scalar` gives two closures that check the same bounds; `fields.py` puts them together. Checks are by
exact type: True is no number and 1 is no float.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from p2pinfer.errors import DecodeError, LocalProtocolError, ProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span, SwarmId
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import (
    BYTES_SIZE_MAX,
    INT_MAX,
    INT_MIN,
    TEXT_SIZE_MAX,
    Between,
    Exactly,
    Size,
)

__all__ = ["FieldCodec", "bound_of", "compile_scalar", "packed_host", "wrong_type"]

Change = Callable[[Any], Any]

FLOAT_MAX = sys.float_info.max
_HOST_TYPES = (str, bytes)
SPAN_LAYER_MAX = 1 << 20
"""Far above any model's layer count; it only keeps a span's numbers small."""
CONTACTS_KEPT_COUNT = 8192
"""Contacts made lately: the DHT hears of the same ones again and again. 300 bytes each, 600 at worst."""
HOSTS_KEPT_COUNT = 4096
"""Hosts looked at lately."""


@dataclass(frozen=True, slots=True)
class FieldCodec:
    """What is known of a field, or of a whole structure, once its annotation is compiled."""

    pack: Change
    unpack: Change
    signed: Callable[[Any], Iterable[Signed]] | None = None
    """Finds the signed structures inside; None where there can be none."""
    items_max: int = 1
    """msgpack values that it unfolds into at most, itself included."""
    size_bytes_max: int = 9
    depth: int = 0
    """Arrays inside each other."""


def bound_of(bounds: tuple[Any, ...], kind: type) -> Any:
    """Return the bound of this kind among the extras of an annotation; None where it states none."""
    return next((each for each in bounds if isinstance(each, kind)), None)


def compile_scalar(hint: Any, where: str, bounds: tuple[Any, ...]) -> FieldCodec:
    """Compile the annotation of a single value.

    Raises:
        TypeError: The protocol has no values of this type.
    """
    if hint is bool:
        return _both(_check_bool, where, size_bytes_max=1)
    if hint is int:
        between = bound_of(bounds, Between) or Between(INT_MIN, INT_MAX)
        low, high = int(between.low), int(between.high)
        return FieldCodec(_pack_int(where, low, high), _unpack_int(where, low, high))
    if hint is float:
        between = bound_of(bounds, Between) or Between(-FLOAT_MAX, FLOAT_MAX)
        return FieldCodec(_pack_float(where, between), _unpack_float(where, between))
    if hint is str:
        size = bound_of(bounds, Size)
        size_max = size.bytes_max if size else TEXT_SIZE_MAX
        return _both(_check_text, where, size_max, size_bytes_max=size_max + 5)
    if hint is bytes:
        exactly, size = bound_of(bounds, Exactly), bound_of(bounds, Size)
        size_max = exactly.bytes_count if exactly else size.bytes_max if size else BYTES_SIZE_MAX
        size_min = size_max if exactly else 0
        return _both(_check_bytes, where, size_min, size_max, size_bytes_max=size_max + 5)
    if hint in (PeerId, SwarmId, SessionId):
        return FieldCodec(_pack_id(where, hint), _unpack_id(where, hint), size_bytes_max=hint.SIZE_BYTES + 2)
    if hint is Endpoint:
        return FieldCodec(_pack_endpoint(where), _unpack_endpoint(where), None, 3, TEXT_SIZE_MAX + 15, 1)
    if hint is Contact:
        return FieldCodec(_pack_contact(where), _unpack_contact(where), None, 4, TEXT_SIZE_MAX + 50, 1)
    if hint is Span:
        return FieldCodec(_pack_span(where), _unpack_span(where), None, 3, 19, 1)
    raise TypeError(f"{where}: the protocol has no fields of type {hint!r}")


def _both(make: Callable[..., Change], where: str, *limits: int, size_bytes_max: int) -> FieldCodec:
    """One check for both directions; only the kind of error differs."""
    pack, unpack = make(where, LocalProtocolError, *limits), make(where, DecodeError, *limits)
    return FieldCodec(pack, unpack, size_bytes_max=size_bytes_max)


def wrong_type(where: str, value: Any, wanted: str) -> str:
    """Say that a field has a value of another type."""
    return f"{where} is {wanted}, not {type(value).__name__}"


def _check_bool(where: str, error: type[ProtocolError]) -> Change:
    def check(value: Any) -> Any:
        if value is True or value is False:
            return value
        raise error(wrong_type(where, value, "a truth value"))

    return check


def _pack_int(where: str, low: int, high: int) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is not int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise LocalProtocolError(wrong_type(where, value, "a whole number"))
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
            raise DecodeError(wrong_type(where, value, "a whole number"))
        raise DecodeError(f"{where} lies in [{low}, {high}], unlike {value}")

    return unpack


def _pack_float(where: str, between: Between) -> Change:
    low, high = between.low, between.high

    def pack(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LocalProtocolError(wrong_type(where, value, "a number"))
        if low <= value <= high:
            return float(value)
        raise LocalProtocolError(f"{where} is finite and in [{low}, {high}], unlike {value}")

    return pack


def _unpack_float(where: str, between: Between) -> Change:
    low, high = between.low, between.high

    def unpack(value: Any) -> Any:
        if type(value) is not float:
            raise DecodeError(wrong_type(where, value, "a float"))
        if low <= value <= high:  # false for a NaN
            return value
        raise DecodeError(f"{where} is finite and in [{low}, {high}], unlike {value}")

    return unpack


def _check_text(where: str, error: type[ProtocolError], size_max: int) -> Change:
    def check(value: Any) -> Any:
        if type(value) is not str:
            raise error(wrong_type(where, value, "text"))
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
            raise error(wrong_type(where, value, "bytes"))
        if size_min <= len(value) <= size_max:
            return value
        wanted = f"{size_max}" if size_min else f"at most {size_max}"
        raise error(f"{where} has {wanted} bytes, not {len(value)}")

    return check


def _pack_id(where: str, kind: type[bytes]) -> Change:
    def pack(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise LocalProtocolError(wrong_type(where, value, kind.__name__))

    return pack


def _unpack_id(where: str, kind: Any) -> Change:
    size, new = kind.SIZE_BYTES, bytes.__new__

    def unpack(value: Any) -> Any:
        if type(value) is bytes and len(value) == size:
            return new(kind, value)
        raise DecodeError(f"{where} is {size} bytes of {kind.__name__}")

    return unpack


@lru_cache(maxsize=HOSTS_KEPT_COUNT)
def _is_plain(host: str) -> bool:
    """Hosts reach logs and resolvers: plain visible ASCII, no blanks."""
    return host.isascii() and host.isprintable() and " " not in host


def _place_is_sound(host: Any, port: Any) -> bool:
    return (
        type(port) is int
        and 0 <= port <= 65535
        and type(host) is str
        and len(host) <= TEXT_SIZE_MAX
        and _is_plain(host)
    )


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
                return (value.peer, packed_host(place.host), place.port)
        raise LocalProtocolError(f"{where} is a Contact with a plain host and a port below 65536: {value!r}")

    return pack


def _unpack_contact(where: str) -> Change:
    def unpack(value: Any) -> Any:
        if type(value) is tuple and len(value) == 3:
            peer, host, port = value
            # Exact types first: what is kept is found by equality, and True equals 1.
            if type(port) is int and type(host) in _HOST_TYPES and (peer is None or type(peer) is bytes):
                try:
                    return _contact_of(peer, host, port)
                except ValueError:
                    pass  # and nothing was kept of it
        raise DecodeError(f"{where} is [peer or nil, host or packed address, port]")

    return unpack


@lru_cache(maxsize=CONTACTS_KEPT_COUNT)
def _contact_of(peer: bytes | None, host: str | bytes, port: int) -> Contact:
    """The contact of three values of the right types.

    Raises:
        ValueError: One of them is out of its bounds, or could be packed and is not.
    """
    text = host if isinstance(host, str) else str(ipaddress.ip_address(host))
    if not _place_is_sound(text, port) or packed_host(text) != host:
        raise ValueError("no place")
    return Contact(None if peer is None else PeerId(peer), Endpoint(text, port))


@lru_cache(maxsize=HOSTS_KEPT_COUNT)
def packed_host(host: str) -> str | bytes:
    """Return how a contact's host travels: addresses as their 4 or 16 bytes, everything else as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    # Texts of these two kinds depend on the system or on Python's version.
    if "%" in host or (address.version == 6 and address.ipv4_mapped is not None):
        return host
    return address.packed if str(address) == host else host


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
