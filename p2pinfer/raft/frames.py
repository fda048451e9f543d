"""How a snapshot is written: messages one after another, each with its length, then a digest of them all.

    magic (8 bytes) | length (4 bytes), message | ... | 0 (4 bytes), BLAKE2b of all before (32 bytes)

Rules:

1. Messages are the wire's, so that what is read has its types and bounds, whatever the bytes are.
2. What follows the digest belongs to somebody else: snapshots of machines inside each other stand in a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError
from p2pinfer.wire.codec import decode, encode

__all__ = ["read_frames", "write_frames"]

MAGIC_SIZE_BYTES = 8
LENGTH_SIZE_BYTES = 4
DIGEST_SIZE_BYTES = 32
CHUNK_SIZE_BYTES = 1 << 16
"""Chunks have about this size: few enough calls, and no large copies."""


def write_frames(magic: bytes, messages: Iterable[Message]) -> Iterator[bytes]:
    """Give the bytes of a snapshot, chunk by chunk, made while they are asked for."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE_BYTES)
    waiting, size = [magic], len(magic)
    for message in messages:
        data = encode(message)
        waiting += (len(data).to_bytes(LENGTH_SIZE_BYTES, "big"), data)
        size += LENGTH_SIZE_BYTES + len(data)
        if size >= CHUNK_SIZE_BYTES:
            chunk = b"".join(waiting)
            digest.update(chunk)
            yield chunk
            waiting, size = [], 0
    last = b"".join((*waiting, bytes(LENGTH_SIZE_BYTES)))
    digest.update(last)
    yield last + digest.digest()


def read_frames(magic: bytes, data: bytes) -> tuple[list[Message], bytes]:
    """Return the messages of a snapshot, and what follows it.

    Raises:
        DecodeError: It does not begin with `magic`, is cut, damaged, or holds what is no message.
    """
    if data[: len(magic)] != magic:
        raise DecodeError(f"a snapshot that begins with {magic!r} was expected")
    end = _end_of(data, len(magic))
    digest = hashlib.blake2b(memoryview(data)[:end], digest_size=DIGEST_SIZE_BYTES).digest()
    if data[end : end + DIGEST_SIZE_BYTES] != digest:
        raise DecodeError("the snapshot is damaged: its digest is not that of its contents")
    messages = []
    position = len(magic)
    while size := _length_at(data, position):
        position += LENGTH_SIZE_BYTES
        messages.append(decode(memoryview(data)[position : position + size]))
        position += size
    return messages, data[end + DIGEST_SIZE_BYTES :]


def _end_of(data: bytes, position: int) -> int:
    """Return where the digest stands, which is checked before any message is read."""
    while size := _length_at(data, position):
        position += LENGTH_SIZE_BYTES + size
    return position + LENGTH_SIZE_BYTES


def _length_at(data: bytes, position: int) -> int:
    if position + LENGTH_SIZE_BYTES > len(data):
        raise DecodeError("the snapshot is cut: its end is missing")
    return int.from_bytes(data[position : position + LENGTH_SIZE_BYTES], "big")
