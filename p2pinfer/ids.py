"""Value types that name things: peers, swarms, sessions, places and runs of layers.

They have algebra and no behaviour, are immutable and hashable, and compare in one total order, so that
every tie in the project is broken the same way on every peer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["PEER_ID_SIZE_BYTES", "Contact", "Endpoint", "PeerId", "SessionId", "Span", "SwarmId"]

PEER_ID_SIZE_BYTES = 32
SESSION_ID_SIZE_BYTES = 16
_IDS_KEPT_COUNT = 16_384
"""Ids of keys: every statement that is heard names its owner by key. Four megabytes at most."""


class _FixedBytes(bytes):
    """Bytes of one fixed length that print as hexadecimal."""

    __slots__ = ()
    SIZE_BYTES = 0

    def __new__(cls, value: bytes) -> _FixedBytes:
        if len(value) != cls.SIZE_BYTES:
            raise ValueError(f"{cls.__name__} has {cls.SIZE_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @property
    def short(self) -> str:
        """The first eight hexadecimal digits: for people, never for comparison."""
        return self[:4].hex()

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short}…)"


class PeerId(_FixedBytes):
    """A peer's name: the SHA-256 of its Ed25519 public key.

    A hash, so that a place in the DHT's key space cannot be chosen freely (S/Kademlia, section 4.1).
    """

    __slots__ = ()
    SIZE_BYTES = PEER_ID_SIZE_BYTES

    @classmethod
    def from_public_key(cls, public_key: bytes) -> PeerId:
        """Return the id that belongs to a 32-byte Ed25519 public key."""
        return _id_of(public_key)


@lru_cache(maxsize=_IDS_KEPT_COUNT)
def _id_of(public_key: bytes) -> PeerId:
    return PeerId(hashlib.sha256(public_key).digest())


class SwarmId(_FixedBytes):
    """A swarm's name: its owner's Ed25519 public key, so that membership needs no other fact to check."""

    __slots__ = ()
    SIZE_BYTES = 32


class SessionId(_FixedBytes):
    """The name of one generation and its caches, drawn by the peer that opened it."""

    __slots__ = ()
    SIZE_BYTES = SESSION_ID_SIZE_BYTES


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a peer listens: one port number, used for datagrams (UDP) and streams (TCP) alike."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `host:port` or `[v6]:port`.

        Raises:
            ValueError: The text is not of that form; the message says what was expected.
        """
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise ValueError(f"{text!r} is not host:port, as in 192.168.1.5:7946")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:7946")
        if not host:
            raise ValueError(f"{text!r} names no host, as in 192.168.1.5:7946")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody to send to: an endpoint and, once known, who answers there.

    `peer` is None only where an address was given by a person and nobody has answered there yet.
    """

    peer: PeerId | None
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"{self.peer.short if self.peer else '?'}@{self.endpoint}"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open run of layers, [start, end). Layers are counted from 0 over the whole model."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span is start:end with 0 <= start < end, not {self.start}:{self.end}")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.end

    def __str__(self) -> str:
        return f"[{self.start},{self.end})"

    def covers(self, other: Span) -> bool:
        """Whether every layer of `other` lies in this span."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: Span) -> bool:
        """Whether at least one layer lies in both."""
        return self.start < other.end and other.start < self.end

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read `start:end` (half-open), as on the command line.

        Raises:
            ValueError: The text is not of that form.
        """
        start, separator, end = text.partition(":")
        if not separator or not start.isascii() or not (start + end).isdigit() or not end or not start:
            raise ValueError(f"{text!r} is not a span: write start:end, as in 0:10 for layers 0 to 9")
        return cls(int(start), int(end))
