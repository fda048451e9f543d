"""Reads settings: from the plain values of a file or a flag to a field's own type.

Each reader takes a value of the field's own type as it is, and raises `ValueError` for what it cannot read:
the message says what was expected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from p2pinfer.ids import Endpoint, Span

__all__ = [
    "one_of",
    "read_count",
    "read_endpoint",
    "read_endpoints",
    "read_path",
    "read_size_bytes",
    "read_span",
    "read_switch",
    "read_text",
    "read_texts",
]

SIZE_UNITS_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


def read_size_bytes(value: object) -> int:
    """Read a size such as 1073741824, "512MiB" or "1.5 GB" as a number of bytes.

    Raises:
        ValueError: The text is no size; the message says what was expected.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip()
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit() or unit not in SIZE_UNITS_BYTES:
        raise ValueError(f"{value!r} is not a size: write a number and a unit, as in 512MiB or 2GiB")
    return int(float(number) * SIZE_UNITS_BYTES[unit])


def read_text(value: object) -> str:
    """Take a text."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text: put it in quotes")
    return value


def read_texts(value: object) -> tuple[str, ...]:
    """Take several texts."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f'{value!r} is not a list: write ["...", "..."]')
    return tuple(read_text(item) for item in value)


def read_path(value: object) -> Path:
    """Read a path; a leading ~ is the user's home."""
    path = value if isinstance(value, Path) else Path(read_text(value))
    if path == Path(""):
        raise ValueError("the path is empty")
    return path.expanduser()


def read_endpoint(value: object) -> Endpoint:
    """Read an address as in 192.168.1.5:7946."""
    return value if isinstance(value, Endpoint) else Endpoint.parse(read_text(value))


def read_endpoints(value: object) -> tuple[Endpoint, ...]:
    """Read several addresses."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f'{value!r} is not a list: write ["...", "..."]')
    return tuple(read_endpoint(item) for item in value)


def read_span(value: object) -> Span | None:
    """Read a span as in 0:10; "auto" gives None."""
    if isinstance(value, Span) or value is None:
        return value
    return None if value == "auto" else Span.parse(read_text(value))


def read_count(value: object) -> int:
    """Read a whole number of 0 or more."""
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f"{value!r} is not a whole number of 0 or more")
    return int(text)


def read_switch(value: object) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def one_of(value: object, choices: Collection[str]) -> str:
    """Take one of a few texts."""
    if value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
    return str(value)
