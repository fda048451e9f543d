"""The plainest state machine: it appends, and answers with how much it has. A command applied twice shows."""

from __future__ import annotations

from collections.abc import Iterator

from p2pinfer.errors import DecodeError

__all__ = ["Appender"]


class Appender:
    """Keeps every command, with the time at which it came."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []
        self.times_ms: list[int] = []
        self.indices: list[int] = []

    def apply(self, index: int, command: bytes, time_ms: int) -> bytes:
        self.indices.append(index)
        self.times_ms.append(time_ms)
        if command:
            self.applied.append(command)
        return bytes(int(command[1:])) if command[:1] == b"#" else b"%d" % len(self.applied)

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"appender", *(b"\n" + command.hex().encode() for command in self.applied)])

    def restore(self, data: bytes) -> None:
        name, *lines = data.split(b"\n")
        if name != b"appender":
            raise DecodeError("no snapshot of an appender")
        self.applied = [bytes.fromhex(line.decode()) for line in lines]
