"""Builds GGUF headers byte by byte, for headers that no proper writer would write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

__all__ = ["RawGGUF"]


@dataclass
class RawGGUF:
    """A header under construction; counts are right unless they are given."""

    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    keys: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)

    def key(self, name: bytes, type_: int, value: bytes) -> RawGGUF:
        self.keys.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", type_) + value)
        return self

    def string_key(self, name: str, value: str) -> RawGGUF:
        return self.key(name.encode(), 8, struct.pack("<Q", len(value.encode())) + value.encode())

    def array(self, name: bytes, type_: int, count: int, elements: bytes) -> RawGGUF:
        return self.key(name, 9, struct.pack("<IQ", type_, count) + elements)

    def tensor(self, name: str, dimensions: tuple[int, ...], type_: int = 0, offset: int = 0) -> RawGGUF:
        raw = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dimensions))
        raw += b"".join(struct.pack("<Q", dimension) for dimension in dimensions)
        self.tensors.append(raw + struct.pack("<IQ", type_, offset))
        return self

    def to_bytes(self) -> bytes:
        """The header, then weights for two tensors of 64 bytes."""
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + struct.pack("<IQQ", self.version, tensor_count, key_count)
        head += b"".join(self.keys) + b"".join(self.tensors)
        return head + b"\0" * (-len(head) % 32 + 128 if self.tensors else 0)
