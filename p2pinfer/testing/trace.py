"""One aligned line for every event of a simulated run, and a running hash over all lines.

Columns, left to right:

    time      seconds of the world's clock, six decimals
    host      the host at which it happens; `-` for the world itself
    what      start · recv · send · tick · call · write · synced · deliver · notify · misbehaved ·
              lost stream · compute · computed · drop · dup · refused · reset · crash · restart · pause ·
              resume · skew · disk error · fault
    details   the message or the fault; bytes are cut to their first four and their length

The text depends neither on PYTHONHASHSEED nor on `id()`: sets are sorted, and what has no fields shows its
type alone. Two runs with equal hashes did the same things in the same order.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from p2pinfer.effects import Message
from p2pinfer.ids import Contact, Endpoint, Span

__all__ = ["Trace", "brief"]

DETAILS_SIZE_MAX = 400
"""Characters of details in a line; the rest of a long message would hide the next one."""
TEXT_SIZE_MAX = 48
"""Characters of a text inside a message."""


class Trace:
    """Collects lines: the last few in memory, all in the hash, and all in a file where one is given."""

    def __init__(self, *, keep_count: int = 2000, file: TextIO | None = None) -> None:
        self.lines: deque[str] = deque(maxlen=keep_count)
        self.count = 0
        self._file = file
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def hash(self) -> str:
        """The hash of every line so far, in hexadecimal."""
        return self._hash.hexdigest()

    def line(self, now: float, host: str, what: str, *details: object) -> None:
        """Add one line; the details are made into text here, so that an untraced run never pays for it."""
        text = " ".join(item if type(item) is str else brief(item) for item in details)[:DETAILS_SIZE_MAX]
        line = f"{now:12.6f}  {host:<8}  {what:<11}  {text}".rstrip()
        self.count += 1
        self.lines.append(line)
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if self._file is not None:
            self._file.write(line + "\n")

    def tail(self, count: int = 40) -> str:
        """Return the last lines as one text."""
        return "\n".join(list(self.lines)[-count:])


def _brief_bytes(value: bytes) -> str:
    shown = bytes(value[:4]).hex()
    return shown if len(value) <= 4 else f"{shown}…{len(value)}B"


def _brief_text(value: str) -> str:
    return repr(value if len(value) <= TEXT_SIZE_MAX else value[:TEXT_SIZE_MAX] + "…")


def _brief_sequence(value: Any) -> str:
    return f"({','.join(brief(item) for item in value)})"


def _brief_set(value: Any) -> str:
    return "{" + ",".join(sorted(brief(item) for item in value)) + "}"


def _brief_mapping(value: Mapping[Any, Any]) -> str:
    return "{" + ",".join(f"{brief(key)}:{brief(item)}" for key, item in value.items()) + "}"


def _brief_contact(value: Contact) -> str:
    return f"{value.peer.short if value.peer else '?'}@{value.endpoint}"


_BY_TYPE: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (bool, str),
    (enum.Enum, lambda value: value.name),
    (int, str),
    (float, lambda value: f"{value:.9g}"),
    (str, _brief_text),
    ((bytes, bytearray, memoryview), _brief_bytes),
    (Contact, _brief_contact),
    (Endpoint, str),
    (Span, str),
    ((set, frozenset), _brief_set),
    ((tuple, list, deque), _brief_sequence),
    (Mapping, _brief_mapping),
)


_WRITERS: dict[type, Callable[[Any], str]] = {}


def _writer(kind: type) -> Callable[[Any], str]:
    """Return what writes values of that type."""
    for known, write in _BY_TYPE:
        if issubclass(kind, known):
            return write
    if issubclass(kind, BaseException):
        return lambda value: f"{kind.__name__}: {value}"
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
        return lambda value: (
            f"{kind.__name__}({' '.join(f'{name}={brief(getattr(value, name))}' for name in names)})"
        )
    if issubclass(kind, Message):
        return lambda value: kind.__name__
    return lambda value: getattr(value, "__qualname__", kind.__name__)


def brief(value: object) -> str:
    """Return a short text for a value, the same in every process."""
    if value is None:
        return "-"
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is None:
        write = _WRITERS[kind] = _writer(kind)
    return write(value)
