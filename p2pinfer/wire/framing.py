"""Frames of a stream, without input or output: messages are cut into chunks and put together again.

    length u32 | kind u8 | flags u8 | message id u32 | payload of `length` bytes        (big-endian)

A large message travels as several frames with one message id, so that small ones pass between them. Rules:

1. A length is checked when its header is complete, before anything of its payload is kept.
2. What a connection keeps is bounded: by message, by all messages in progress together, and by their number.
3. After an error nothing more is read: the stream is out of step, and the connection ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2pinfer.errors import ConfigError, DecodeError, FrameTooLarge, LocalProtocolError, RemoteProtocolError

__all__ = [
    "CHUNK_SIZE_BYTES",
    "FLAG_LAST",
    "HEADER_SIZE_BYTES",
    "Assembled",
    "Assembler",
    "Frame",
    "FrameReader",
    "FramingLimits",
    "cut",
]

CHUNK_SIZE_BYTES = 32768
"""Two TLS records: at 100 Mbit/s a small frame waits under 3 ms for the chunk before it."""
FLAG_LAST = 1
"""The message is complete with this frame."""
_FLAGS_KNOWN = FLAG_LAST
_HEADER = struct.Struct("!IBBI")
HEADER_SIZE_BYTES = _HEADER.size
MESSAGE_ID_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FramingLimits:
    """What a connection accepts."""

    frame_size_bytes_max: int = 65536
    """Payload of one frame; above `CHUNK_SIZE_BYTES`, so that peers may choose other chunks."""
    message_size_bytes_max: int = (64 << 20) + 65536
    """One message: the largest tensor and what is around it."""
    total_size_bytes_max: int = 128 << 20
    """All messages in progress together."""
    messages_count_max: int = 64
    """Messages in progress at a time."""

    def __post_init__(self) -> None:
        for name in ("frame_size_bytes_max", "message_size_bytes_max", "messages_count_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.total_size_bytes_max < self.message_size_bytes_max:
            raise ConfigError("total_size_bytes_max is at least message_size_bytes_max")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came."""

    kind: int
    flags: int
    message_id: int
    payload: bytes

    @property
    def is_last(self) -> bool:
        """Whether the message is complete with this frame."""
        return bool(self.flags & FLAG_LAST)


class FrameReader:
    """Bytes in, frames out.

    Invariant: less than one frame is kept between calls.
    """

    __slots__ = ("_broken", "_buffer", "_limits")

    def __init__(self, limits: FramingLimits | None = None) -> None:
        self._limits = limits or FramingLimits()
        self._buffer = bytearray()
        self._broken: str | None = None

    @property
    def waiting_bytes(self) -> int:
        """Bytes kept of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take what the stream gave and return the frames that are complete.

        Raises:
            FrameTooLarge: A frame announces more than it may have.
            DecodeError: A header is not in order, or the stream was broken before.
        """
        if self._broken is not None:
            raise DecodeError(f"the stream is out of step: {self._broken}")
        source: bytes | bytearray | memoryview = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        try:
            frames, used = self._take(source)
        except RemoteProtocolError as error:
            self._broken = str(error)
            self._buffer = bytearray()
            raise
        if source is self._buffer:
            del self._buffer[:used]
        elif used < len(data):
            self._buffer += memoryview(data)[used:]
        return frames

    def _take(self, source: bytes | bytearray | memoryview) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        start, end, limit = 0, len(source), self._limits.frame_size_bytes_max
        with memoryview(source) as view:
            while end - start >= HEADER_SIZE_BYTES:
                length, kind, flags, message_id = _HEADER.unpack_from(view, start)
                if length > limit:
                    raise FrameTooLarge(f"a frame has at most {limit} bytes, not {length}")
                if flags & ~_FLAGS_KNOWN:
                    raise DecodeError(f"a frame with unknown flags 0x{flags:02x}")
                stop = start + HEADER_SIZE_BYTES + length
                if stop > end:
                    break
                frames.append(Frame(kind, flags, message_id, bytes(view[start + HEADER_SIZE_BYTES : stop])))
                start = stop
        return frames, start


@dataclass(frozen=True, slots=True)
class Assembled:
    """A whole message, in one piece; nobody else holds `data`."""

    kind: int
    message_id: int
    data: bytes | bytearray


class Assembler:
    """Puts the chunks of a connection's messages together.

    Invariant: `waiting_bytes` is the sum of what is kept, and within the limits.
    """

    __slots__ = ("_kinds", "_limits", "_parts", "waiting_bytes")

    def __init__(self, limits: FramingLimits | None = None) -> None:
        self._limits = limits or FramingLimits()
        self._parts: dict[int, bytearray] = {}
        self._kinds: dict[int, int] = {}
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, frame: Frame) -> Assembled | None:
        """Take the next frame; return the message that it completes, if it does.

        Raises:
            FrameTooLarge: The message, or all in progress together, are larger than they may be.
            DecodeError: The frame does not continue what came before, or too many messages are in progress.
        """
        limits, payload, message_id = self._limits, frame.payload, frame.message_id
        known = self._parts.get(message_id)
        if known is None and frame.is_last:
            if len(payload) > limits.message_size_bytes_max:
                raise FrameTooLarge(f"a message has at most {limits.message_size_bytes_max} bytes")
            return Assembled(frame.kind, message_id, payload)
        if not payload and not frame.is_last:
            raise DecodeError("an empty frame that does not end its message")
        if known is None:
            if len(self._parts) >= limits.messages_count_max:
                raise DecodeError(f"more than {limits.messages_count_max} messages are in progress")
            known = self._parts[message_id] = bytearray()
            self._kinds[message_id] = frame.kind
        elif self._kinds[message_id] != frame.kind:
            raise DecodeError(f"message {message_id} changes its kind on its way")
        if len(known) + len(payload) > limits.message_size_bytes_max:
            raise FrameTooLarge(f"a message has at most {limits.message_size_bytes_max} bytes")
        if self.waiting_bytes + len(payload) > limits.total_size_bytes_max:
            raise FrameTooLarge(f"messages in progress have at most {limits.total_size_bytes_max} bytes")
        known += payload
        self.waiting_bytes += len(payload)
        if not frame.is_last:
            return None
        del self._parts[message_id], self._kinds[message_id]
        self.waiting_bytes -= len(known)
        return Assembled(frame.kind, message_id, known)


def cut(
    message_id: int,
    kind: int,
    data: bytes | bytearray | memoryview,
    chunk_size_bytes: int = CHUNK_SIZE_BYTES,
) -> Iterator[bytes]:
    """Give the frames that carry a message, one by one: header and chunk in one piece, copied once.

    Raises:
        LocalProtocolError: The id, the kind or the chunk's size cannot be put into a header.
    """
    if not 0 <= message_id <= MESSAGE_ID_MAX or not 0 <= kind <= 255 or chunk_size_bytes < 1:
        raise LocalProtocolError(f"no frame has id {message_id}, kind {kind}, chunk size {chunk_size_bytes}")
    return _frames(message_id, kind, memoryview(data), chunk_size_bytes)


def _frames(message_id: int, kind: int, view: memoryview, chunk_size_bytes: int) -> Iterator[bytes]:
    size = len(view)
    for start in range(0, size or 1, chunk_size_bytes):
        chunk = view[start : start + chunk_size_bytes]
        flags = FLAG_LAST if start + chunk_size_bytes >= size else 0
        yield b"".join((_HEADER.pack(len(chunk), kind, flags, message_id), chunk))
