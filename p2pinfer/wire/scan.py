"""Walks over msgpack bytes without making an object: the answer is whether making them is safe.

msgpack allocates a list as soon as its header is read. A kilobyte of nested headers can ask for megabytes
that way, and a megabyte of empty arrays for a hundred. So longer messages are walked first.
"""

from __future__ import annotations

from p2pinfer.errors import DecodeError

__all__ = ["check_shape"]

_LENGTH_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_FIXED = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}


def _step_of(head: int) -> int:
    """How far the next value is where the first byte alone says so, else 0."""
    if head < 0x80 or head >= 0xE0:
        return 1
    return 1 + (head & 0x1F) if 0xA0 <= head < 0xC0 else _FIXED.get(head, 0)


_STEPS = tuple(_step_of(head) for head in range(256))


def check_shape(data: bytes | bytearray | memoryview, items_max: int, depth_max: int) -> None:
    """Refuse what unfolds into more than `items_max` values or is nested deeper than `depth_max` arrays.

    Lengths that point past the end are left to msgpack, which refuses them.

    Raises:
        DecodeError: Too many values, too deep, or a kind of value that the protocol does not use.
    """
    position, end = 0, len(data)
    left, room = 1, items_max - 1
    outer: list[int] = []
    while position < end:
        while not left:
            if not outer:
                return
            left = outer.pop()
        left -= 1
        head = data[position]
        step = _STEPS[head]
        if step:
            position += step
        elif head == 0xC4 and position + 1 < end:  # short bytes, of which most messages are made
            position += 2 + data[position + 1]
        elif head in _LENGTH_SIZES:
            width = _LENGTH_SIZES[head]
            position += 1 + width + int.from_bytes(data[position + 1 : position + 1 + width], "big")
        elif 0x90 <= head < 0xA0 or head in _ARRAYS:
            width = _ARRAYS.get(head, 0)
            count = int.from_bytes(data[position + 1 : position + 1 + width], "big") if width else head & 0x0F
            room -= count
            if room < 0:
                raise DecodeError(f"a message that unfolds into more than {items_max} values")
            outer.append(left)
            if len(outer) > depth_max:
                raise DecodeError(f"a message with more than {depth_max} arrays inside each other")
            left = count
            position += 1 + width
        else:
            raise DecodeError(f"maps and extensions are not part of the protocol (byte 0x{head:02x})")
