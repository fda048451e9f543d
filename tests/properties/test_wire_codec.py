"""What holds of the codec for every message and for all bytes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import tracemalloc
from typing import Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError, LocalProtocolError
from p2pinfer.wire.codec import decode, encode, encoded_size, signed_parts, size_bytes_max_of
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import Between, Exact, message_types
from tests.wire.mutation import mutate
from tests.wire.strategies import all_types, any_message, messages

TYPES = all_types()
steady = settings(deadline=None, max_examples=15, derandomize=True, database=None)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_message_comes_back_as_it_went(kind: type[Message]) -> None:
    @steady
    @given(messages(kind))
    def check(message: Any) -> None:
        data = encode(message)
        back = decode(data)
        assert back == message
        assert type(back) is kind
        assert encode(back) == data, "one message has one encoding"
        assert decode(memoryview(bytearray(data))) == message
        assert len(data) == encoded_size(message) <= size_bytes_max_of(kind)

    check()


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        encode(decode(data))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.sampled_from([kind.TAG for kind in TYPES]), st.lists(values, max_size=14))
def test_any_values_behind_a_tag_are_a_message_or_a_decode_error(tag: int, fields: list[Any]) -> None:
    with contextlib.suppress(DecodeError):
        encode(decode(msgpack.packb([tag, *fields])))


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(any_message(), any_message(), st.integers(0, 1 << 32))
def test_damaged_messages_are_a_message_or_a_decode_error(one: Message, other: Message, seed: int) -> None:
    rng = random.Random(seed)
    damaged = mutate(encode(one), [encode(other)], rng)
    try:
        message = decode(damaged)
    except DecodeError:
        return
    # What was accepted is within the schema, or it could not be encoded again.
    assert decode(encode(message)) == message
    signed_parts(message)


@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@given(any_message(), st.lists(st.none() | st.integers(0, 9) | st.text(max_size=5), max_size=12))
def test_fields_of_a_newer_sender_are_dropped_up_to_eight(message: Message, surplus: list[Any]) -> None:
    array = msgpack.unpackb(encode(message))
    longer = msgpack.packb([*array, *surplus])
    if not surplus or (len(surplus) <= 8 and not isinstance(message, (Signed, Exact))):
        assert decode(longer) == message
    else:
        with pytest.raises(DecodeError):
            decode(longer)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_whole_numbers_are_refused_on_both_sides_of_their_bounds(kind: type[Message]) -> None:
    numbers = {name: bounds for name, hint in _hints(kind).items() if (bounds := _number_bounds(hint))}

    @settings(deadline=None, max_examples=1, derandomize=True, database=None)
    @given(messages(kind))
    def check(message: Any) -> None:
        array = msgpack.unpackb(encode(message))
        for index, name in enumerate(_hints(kind), 1):
            low, high = numbers.get(name, (0, 0))
            for wrong in (low - 1, high + 1, True, 1.0, None, "1", [1]) if name in numbers else ():
                with pytest.raises(DecodeError, match=rf"{kind.__name__}\.{name}"):
                    decode(msgpack.packb([*array[:index], wrong, *array[index + 1 :]]))
                bad = copy.copy(message)
                object.__setattr__(bad, name, wrong)
                with pytest.raises(LocalProtocolError, match=rf"{kind.__name__}\.{name}"):
                    encode(bad)

    check()


def _hints(kind: type[Message]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _number_bounds(hint: Any) -> tuple[int, int] | None:
    if hint is int:
        return 0, (1 << 63) - 1
    if get_args(hint)[:1] != (int,):
        return None
    bounds = [each for each in get_args(hint)[1:] if isinstance(each, Between)]
    return (int(bounds[0].low), int(bounds[0].high)) if bounds else (0, (1 << 63) - 1)


def test_every_tag_is_in_its_familys_range() -> None:
    ranges = {"records": (1, 2), "membership": (3, 9), "swim": (16, 31), "coordinates": (25, 25)}
    ranges |= {"dht": (32, 39), "events": (40, 47), "keyring": (48, 55)}
    ranges |= {
        "discovery": (56, 56),
        "dht_use": (57, 63),
        "inference": (64, 79),
        "shards": (80, 95),
        "calls": (96, 107),
        "client": (108, 117),
        "handshake": (118, 123),
        "raft": (128, 143),
        "sessions": (144, 151),
        "metadata": (152, 168),
        "metadata_values": (169, 183),
    }
    for tag, kind in message_types().items():
        family = kind.__module__.rpartition(".")[2]
        if kind.__module__.startswith("p2pinfer."):
            low, high = ranges[family]
            assert low <= tag <= high, kind


BOMBS = {
    "nested arrays": b"\x9b\x46" + b"\xdc\x10\x00" * 20_000,
    "nested short arrays": b"\x9b\x46" + b"\x91" * 60_000,
    "many small arrays": b"\x9b\x46" + (b"\xdc\x10\x00" + b"\x91\xc0" * 4096) * 12,
    "huge count": b"\x9b\x46\xdd\xff\xff\xff\xff" + bytes(600),
    "huge bytes": b"\x9b\x46\xc6\xff\xff\xff\xff" + bytes(600),
    "huge text": b"\x9b\x46\xdb\xff\xff\xff\xff" + bytes(600),
    "huge map": b"\x9b\x46\xdf\xff\xff\xff\xff" + bytes(600),
    "many maps": b"\x9b\x46" + b"\x81\xc0" * 20_000,
    "small nested arrays": b"\x98\x46" + b"\xdc\x01\xf0" * 160,
    "small wide array": b"\x98\x46\xdc\x01\xf0" + b"\x90" * 500,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_less_than_a_megabyte(name: str) -> None:
    data = BOMBS[name]
    with pytest.raises(DecodeError):
        decode(data)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, f"{name} made {peak} bytes of objects from {len(data)}"
