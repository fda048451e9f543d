"""Hypothesis strategies for every registered message, read from the same annotations as the codec.

They are written apart from `wire/fields.py` on purpose: two readings of the schema that must agree.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hypothesis import given, settings
from hypothesis import strategies as st

import p2pinfer.wire.codec  # registers every message
from p2pinfer.effects import Message
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span, SwarmId
from p2pinfer.wire.schema import Between, Count, Exactly, Size, message_types

__all__ = ["all_types", "any_message", "messages", "smallest"]

ITEMS_DRAWN_MAX = 3
"""Longer tuples are tested by name: drawing them costs time and finds nothing more."""
BYTES_DRAWN_MAX = 80


def all_types() -> list[type[Message]]:
    """Every type that the product registers, by tag; not those of other tests."""
    assert p2pinfer.wire.codec is not None
    return [kind for _, kind in sorted(message_types().items()) if kind.__module__.startswith("p2pinfer.")]


def any_message() -> st.SearchStrategy[Message]:
    return st.sampled_from(all_types()).flatmap(messages)


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return st.builds(kind, **{field.name: _of(hints[field.name], ()) for field in fields})


def smallest(kind: type[Message]) -> Message:
    """One message of the kind, the same each time."""
    drawn: list[Message] = []

    @settings(deadline=None, max_examples=1, derandomize=True, database=None)
    @given(messages(kind))
    def draw(message: Message) -> None:
        drawn.append(message)

    draw()
    return drawn[0]


def _bound(bounds: tuple[Any, ...], kind: type) -> Any:
    return next((each for each in bounds if isinstance(each, kind)), None)


def _of(hint: Any, bounds: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *extras = get_args(hint)
        return _of(base, (*bounds, *extras))
    if origin in (Union, types.UnionType):
        return st.one_of([_of(option, bounds) for option in get_args(hint)])
    if origin is tuple:
        count = _bound(bounds, Count)
        items = _of(get_args(hint)[0], ())
        most = min(count.items_max if count else 64, ITEMS_DRAWN_MAX)
        return st.lists(items, max_size=most).map(tuple)
    if isinstance(hint, type) and issubclass(hint, Message):
        return messages(hint)
    return _scalar(hint, bounds)


def _scalar(hint: Any, bounds: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    between, exactly, size = (_bound(bounds, kind) for kind in (Between, Exactly, Size))
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is int:
        low, high = (int(between.low), int(between.high)) if between else (0, (1 << 63) - 1)
        return st.integers(low, high)
    if hint is float:
        ends = (between.low, between.high) if between else (None, None)
        return st.floats(*ends, allow_nan=False, allow_infinity=False)
    if hint is str:
        most = size.bytes_max if size else 256
        texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=min(most, BYTES_DRAWN_MAX))
        return texts.filter(lambda text: len(text.encode()) <= most)
    if hint is bytes:
        if exactly:
            return st.binary(min_size=exactly.bytes_count, max_size=exactly.bytes_count)
        return st.binary(max_size=min(size.bytes_max if size else 1024, BYTES_DRAWN_MAX))
    return _named(hint)


def _named(hint: Any) -> st.SearchStrategy[Any]:
    if hint in (PeerId, SwarmId, SessionId):
        return st.binary(min_size=hint.SIZE_BYTES, max_size=hint.SIZE_BYTES).map(hint)
    if hint is Endpoint:
        hosts = st.from_regex(r"[a-z0-9:.\-]{1,40}", fullmatch=True)
        return st.builds(Endpoint, hosts, st.integers(0, 65535))
    if hint is Contact:
        return st.builds(Contact, st.none() | _named(PeerId), _named(Endpoint))
    if hint is Span:
        return st.integers(0, 1000).flatmap(
            lambda start: st.builds(Span, st.just(start), st.integers(start + 1, 1024))
        )
    raise TypeError(f"no strategy for {hint!r}")
