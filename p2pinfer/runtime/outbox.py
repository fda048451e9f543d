"""What waits to be written to a stream, most urgent first. Pure.

Rules:

1. A message of a higher priority passes between the chunks of a lower one; within a priority the order is
   kept.
2. Bounded in bytes. A message is taken if there is any room, so the largest fits an empty outbox; control
   messages have a reserve, so that a full outbox does not silence them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from p2pinfer.effects import Priority
from p2pinfer.wire.framing import CHUNK_SIZE_BYTES, HEADER_SIZE_BYTES, cut

__all__ = ["CONTROL_RESERVE_SIZE_BYTES", "Outbox"]

CONTROL_RESERVE_SIZE_BYTES = 1 << 20
"""Room above the limit for control messages: thousands of them."""
_ID_COUNT = 1 << 32


class Outbox:
    """Frames by priority.

    Invariant: `size_bytes` is the sum of the encoded messages, or of their parts, that were not taken yet.
    """

    __slots__ = ("_large", "_next_id", "_queues", "_size_bytes_max", "size_bytes")

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._queues: tuple[deque[bytes], ...] = tuple(deque() for _ in Priority)
        self._large: list[Iterator[bytes] | None] = [None for _ in Priority]
        self._next_id = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return self.size_bytes > 0

    def has_room(self, priority: Priority) -> bool:
        """Whether a message of this priority would be taken."""
        reserve = CONTROL_RESERVE_SIZE_BYTES if priority is Priority.CONTROL else 0
        return self.size_bytes < self._size_bytes_max + reserve

    def add(self, data: bytes, priority: Priority) -> None:
        """Queue an encoded message. Whoever wants the limit kept asks `has_room` first."""
        self._queues[priority].append(data)
        self.size_bytes += len(data)

    def take(self) -> bytes:
        """Return the next bytes to write: as many whole small messages as a chunk holds, or one chunk."""
        taken: list[bytes] = []
        room = CHUNK_SIZE_BYTES
        for priority, queue in enumerate(self._queues):
            while room > 0 and (queue or self._large[priority]):
                frame, size = self._next_frame(priority, queue)
                if not size:
                    continue
                taken.append(frame)
                self.size_bytes -= size
                room -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _next_frame(self, priority: int, queue: deque[bytes]) -> tuple[bytes, int]:
        """Return a frame and how many bytes of messages it carries; none where a large message is through."""
        frames = self._large[priority]
        if frames is None:
            data = queue.popleft()
            self._next_id = (self._next_id + 1) % _ID_COUNT
            frames = cut(self._next_id, 0, data)
            if len(data) <= CHUNK_SIZE_BYTES:
                return next(frames), len(data)
            self._large[priority] = frames
        frame = next(frames, b"")
        if not frame:
            self._large[priority] = None
            return b"", 0
        return frame, len(frame) - HEADER_SIZE_BYTES
