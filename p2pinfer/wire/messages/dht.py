"""The messages of the DHT: who is near a key, what is stored under it, and keep this for me.

    asker                                   asked
      |--FindNodes(key, token or padding)---->|
      |<--FoundNodes(page 0, token)-----------|   as many pages as the answer takes, bounded;
      |<--FoundNodes(page 1, token)-----------|   to an unproved address no more bytes than it sent
      |--StoreRecord(record, token)---------->|
      |<--Stored(code)------------------------|

A token proves that the asker receives what is sent to its address (BEP-5). An asker without one pads its
question to the size of the answer it hopes for, so that a forged source address gains nothing by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Contact
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "CONTACTS_COUNT_MAX",
    "DhtPing",
    "DhtPong",
    "DhtRecord",
    "FindNodes",
    "FoundNodes",
    "PAGES_COUNT_MAX",
    "SUBKEY_SIZE_BYTES_MAX",
    "StoreRecord",
    "Stored",
    "TOKEN_SIZE_BYTES",
    "VALUE_SIZE_BYTES_MAX",
]

VALUE_SIZE_BYTES_MAX = 512
"""Bytes of a record's value: with key, sub-key, owner and signature it fits one datagram."""
SUBKEY_SIZE_BYTES_MAX = 64
"""Bytes of a sub-key, as of the salt in BEP-44."""
TOKEN_SIZE_BYTES = 8
PAGES_COUNT_MAX = 16
"""Pages of one answer that a message can name; `DhtConfig` sets how many are sent."""
CONTACTS_COUNT_MAX = 32


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class DhtRecord(Signed):
    """A value that its owner keeps under a key for others to find, until it expires.

    Many owners share one key; each owner has any number of sub-keys under it, every one with its own value
    and expiry. Only the owner can make a record; the higher `sequence` of the same (key, sub-key, owner)
    replaces the lower. It is void after `expires_ms`, whoever passes it on.
    """

    TAG: ClassVar[int] = 32

    public_key: Annotated[bytes, Exactly(32)]
    key: Annotated[bytes, Exactly(32)]
    subkey: Annotated[bytes, Size(SUBKEY_SIZE_BYTES_MAX)]
    value: Annotated[bytes, Size(VALUE_SIZE_BYTES_MAX)]
    sequence: int
    expires_ms: int
    """Milliseconds since the Unix epoch."""
    signature: Annotated[bytes, Size(64)] = b""


@registered
@dataclass(frozen=True, slots=True)
class DhtPing(Message):
    """Any peer to a contact that it has not heard from for long: still there? Answered by DhtPong."""

    TAG: ClassVar[int] = 33
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int


@registered
@dataclass(frozen=True, slots=True)
class DhtPong(Message):
    """The answer to DhtPing: `query` is the ping's."""

    TAG: ClassVar[int] = 34
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class FindNodes(Message):
    """Any peer to a contact: which peers do you know nearest to `key`? Answered by FoundNodes, in pages.

    With `records`, the answer also has what is stored under the key.
    """

    TAG: ClassVar[int] = 35
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    key: Annotated[bytes, Exactly(32)]
    records: bool = False
    token: Annotated[bytes, Size(TOKEN_SIZE_BYTES)] = b""
    """The token of an earlier FoundNodes; empty where there is none."""
    padding: Annotated[bytes, Size(1024)] = b""
    """Zeros, in place of a token: the answer is not longer than the question."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNodes(Message):
    """The answer to FindNodes, one page of it. Pages may come in any order and each may be lost."""

    TAG: ClassVar[int] = 36
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    page: Annotated[int, Between(0, PAGES_COUNT_MAX - 1)] = 0
    page_count: Annotated[int, Between(1, PAGES_COUNT_MAX)] = 1
    token: Annotated[bytes, Exactly(TOKEN_SIZE_BYTES)]
    """For the asker's next questions and its StoreRecord, from the same address, for some minutes."""
    again: bool = False
    """There is more, but not for an unproved address: ask again with this token."""
    contacts: Annotated[tuple[Contact, ...], Count(CONTACTS_COUNT_MAX)] = ()
    records: Annotated[tuple[DhtRecord, ...], Count(32)] = ()


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecord(Message):
    """A record's owner to one of the peers nearest to its key: keep this. Answered by Stored."""

    TAG: ClassVar[int] = 37
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    token: Annotated[bytes, Exactly(TOKEN_SIZE_BYTES)]
    record: DhtRecord


@registered
@dataclass(frozen=True, slots=True)
class Stored(Message):
    """The answer to StoreRecord.

    `code` is `stored` (kept, or already here), `old` (a higher sequence is here), `fork` (another value of
    this sequence is here), `full` (a quota is used up by records that expire later), `void` (expired, or
    expires later than this peer keeps anything) or `token` (ask FindNodes for a new one).
    """

    TAG: ClassVar[int] = 38
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    code: Annotated[str, Size(16)]
