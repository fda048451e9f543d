"""Frames: cut, read in any pieces, put together, and refused when they break a limit."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError, DecodeError, FrameTooLarge, LocalProtocolError, RemoteProtocolError
from p2pinfer.wire.framing import (
    HEADER_SIZE_BYTES,
    Assembled,
    Assembler,
    Frame,
    FrameReader,
    FramingLimits,
    cut,
)

LIMITS = FramingLimits(
    frame_size_bytes_max=100, message_size_bytes_max=1000, total_size_bytes_max=1500, messages_count_max=3
)


def header(length: int, kind: int = 1, flags: int = 0, message_id: int = 1) -> bytes:
    return struct.pack("!IBBI", length, kind, flags, message_id)


def split(data: bytes, rng: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = rng.choice((1, 2, 9, 10, 11, 50, 5000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=400)), min_size=1, max_size=3),
    st.integers(1, 100),
    st.integers(0, 1 << 32),
)
def test_interleaved_messages_arrive_whole_however_the_stream_is_split(
    sent: list[tuple[int, bytes]], chunk_size_bytes: int, seed: int
) -> None:
    rng = random.Random(seed)
    queues = [list(cut(i, kind, data, chunk_size_bytes)) for i, (kind, data) in enumerate(sent)]
    stream = b""
    while any(queues):
        stream += rng.choice([queue for queue in queues if queue]).pop(0)
    reader, assembler = FrameReader(LIMITS), Assembler(LIMITS)
    arrived: dict[int, Assembled] = {}
    for piece in split(stream, rng):
        for frame in reader.feed(piece):
            message = assembler.add(frame)
            if message:
                arrived[message.message_id] = message
    assert [(arrived[i].kind, bytes(arrived[i].data)) for i in range(len(sent))] == sent
    assert (reader.waiting_bytes, len(assembler), assembler.waiting_bytes) == (0, 0, 0)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.binary(max_size=300), st.integers(0, 1 << 32))
def test_garbage_is_frames_or_a_remote_error_and_is_never_hoarded(data: bytes, seed: int) -> None:
    reader, assembler = FrameReader(LIMITS), Assembler(LIMITS)
    try:
        for piece in split(data, random.Random(seed)):
            for frame in reader.feed(piece):
                assembler.add(frame)
            assert reader.waiting_bytes < HEADER_SIZE_BYTES + 100
            assert assembler.waiting_bytes <= 1500
    except RemoteProtocolError:
        pass


def test_a_length_is_refused_with_its_header_before_any_payload() -> None:
    reader = FrameReader(LIMITS)
    assert reader.feed(header(101)[:9]) == []
    with pytest.raises(FrameTooLarge, match="100 bytes, not 101"):
        reader.feed(header(101)[9:])
    assert reader.waiting_bytes == 0
    with pytest.raises(DecodeError, match="out of step"):
        reader.feed(header(0, flags=1))


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(DecodeError, match="flags 0x02"):
        FrameReader(LIMITS).feed(header(0, flags=2))


def test_a_message_is_refused_as_soon_as_it_is_too_large() -> None:
    assembler = Assembler(LIMITS)
    for _ in range(10):
        assert assembler.add(Frame(1, 0, 7, bytes(100))) is None
    with pytest.raises(FrameTooLarge, match="message has at most 1000"):
        assembler.add(Frame(1, 1, 7, b"x"))


def test_messages_in_progress_share_a_limit() -> None:
    assembler = Assembler(LIMITS)
    for message_id in (1, 2):
        for _ in range(7):
            assembler.add(Frame(1, 0, message_id, bytes(100)))
    assembler.add(Frame(1, 0, 1, bytes(100)))
    with pytest.raises(FrameTooLarge, match="in progress have at most 1500"):
        assembler.add(Frame(1, 1, 2, b"x"))


def test_too_many_messages_in_progress_are_refused() -> None:
    assembler = Assembler(LIMITS)
    for message_id in range(3):
        assembler.add(Frame(1, 0, message_id, b"x"))
    assert assembler.add(Frame(1, 1, 3, b"whole")) == Assembled(1, 3, b"whole"), (
        "a whole one waits for nothing"
    )
    with pytest.raises(DecodeError, match="more than 3"):
        assembler.add(Frame(1, 0, 4, b"x"))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([Frame(1, 0, 1, b"x"), Frame(2, 0, 1, b"x")], "changes its kind"),
        ([Frame(1, 0, 1, b"")], "empty frame"),
        ([Frame(1, 0, 1, b"x"), Frame(1, 0, 1, b"")], "empty frame"),
    ],
)
def test_frames_that_do_not_fit_together_are_refused(frames: list[Frame], reason: str) -> None:
    assembler = Assembler(LIMITS)
    for frame in frames[:-1]:
        assembler.add(frame)
    with pytest.raises(DecodeError, match=reason):
        assembler.add(frames[-1])


def test_an_empty_message_is_one_frame() -> None:
    assert list(cut(3, 2, b"")) == [header(0, 2, 1, 3)]


def test_an_id_may_be_used_again_once_its_message_is_complete() -> None:
    assembler = Assembler(LIMITS)
    for text in (b"one", b"two"):
        assembler.add(Frame(1, 0, 9, text))
        message = assembler.add(Frame(1, 1, 9, b"!"))
        assert message is not None
        assert bytes(message.data) == text + b"!"


def test_a_large_message_is_cut_without_a_second_copy() -> None:
    data = bytes(8 << 20)
    tracemalloc.start()
    try:
        total = sum(len(chunk) for chunk in cut(1, 1, data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == len(data) + 256 * HEADER_SIZE_BYTES
    assert peak < 200_000


@pytest.mark.parametrize(
    ("message_id", "kind", "chunk"), [(-1, 0, 1), (1 << 32, 0, 1), (0, 256, 1), (0, 0, 0)]
)
def test_what_fits_no_header_is_the_callers_fault(message_id: int, kind: int, chunk: int) -> None:
    with pytest.raises(LocalProtocolError):
        cut(message_id, kind, b"x", chunk)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="total_size_bytes_max"):
        FramingLimits(message_size_bytes_max=2, total_size_bytes_max=1)
    with pytest.raises(ConfigError, match="frame_size_bytes_max"):
        FramingLimits(frame_size_bytes_max=0)
