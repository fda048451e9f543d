"""Ways to damage valid bytes, for the property tests and the fuzzer. All randomness is handed in."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["mutate"]

LENGTH_BOMBS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xde\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd4\xff\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xc1",
    b"\x80",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa3\xed\xa0\x80",
    b"\xc0",
    b"\xc3",
    b"\x91" * 40,
    b"\xdc\x02\x00" * 40,
)


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return the bytes with one to four kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _once(data, others, rng)
    return data


def _once(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    kind = rng.randrange(9)
    if kind == 0 and data:
        place = rng.randrange(len(data))
        return data[:place] + bytes((data[place] ^ 1 << rng.randrange(8),)) + data[place + 1 :]
    if kind == 1:
        return data[:start]
    if kind == 2:
        other = rng.choice(others)
        return data[:start] + other[rng.randint(0, len(other)) :]
    if kind == 3:
        return data[:start] + rng.choice(LENGTH_BOMBS) + data[start:]
    if kind == 4:
        return data[:start] + rng.choice(LENGTH_BOMBS) + data[stop:]
    if kind == 5:
        return data[:start] + data[stop:]
    if kind == 6:
        return data[:stop] + data[start:stop] * rng.randint(1, 4) + data[stop:]
    if kind == 7:
        return data[:start] + rng.randbytes(rng.randint(1, 16)) + data[stop:]
    return data[:start] + bytes((rng.randrange(256),)) + data[start + 1 :]
