"""Snapshots as bytes: whole, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError
from p2pinfer.raft.frames import read_frames, write_frames
from p2pinfer.wire.messages.sessions import SavedResult

MAGIC = b"p2ptest\n"
PARTS = [SavedResult(sequence=number, result=bytes(number)) for number in range(3)]


def test_what_is_written_is_read_and_what_follows_is_left() -> None:
    data = b"".join(write_frames(MAGIC, PARTS))
    assert read_frames(MAGIC, data + b"more") == (PARTS, b"more")
    assert read_frames(MAGIC, b"".join(write_frames(MAGIC, []))) == ([], b"")


def test_large_ones_come_in_chunks_made_when_they_are_asked_for() -> None:
    made = []

    def parts() -> Iterator[Message]:
        for number in range(10):
            made.append(number)
            yield SavedResult(sequence=number, result=bytes(40_000))

    chunks = write_frames(MAGIC, parts())
    assert made == []
    first = next(chunks)
    assert (made, 65_536 <= len(first) <= 65_536 + 40_100) == ([0, 1], True)
    assert len(read_frames(MAGIC, b"".join([first, *chunks]))[0]) == 10


def test_every_cut_and_every_damaged_byte_is_noticed() -> None:
    data = b"".join(write_frames(MAGIC, PARTS))
    for cut in range(len(data)):
        with pytest.raises(DecodeError):
            read_frames(MAGIC, data[:cut])
    for place in range(len(data)):
        with pytest.raises(DecodeError):
            read_frames(MAGIC, data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])


def test_a_part_that_is_no_message_is_refused_although_the_digest_is_right() -> None:
    body = MAGIC + (3).to_bytes(4, "big") + b"odd" + bytes(4)
    with pytest.raises(DecodeError, match="no message"):
        read_frames(MAGIC, body + hashlib.blake2b(body, digest_size=32).digest())
