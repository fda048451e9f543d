"""The messages of the DHT: who is near a key, what is stored under it, and keep this for me.

    asker                                   asked
      |--FindNodes(keys, token or padding)--->|
      |<--FoundNodes(page 0, token)-----------|   as many pages as the answer takes, bounded;
      |<--FoundNodes(page 1, token)-----------|   to an unproved address no more bytes than it sent
      |--StoreRecords(records, token)-------->|
      |<--Stored(codes)-----------------------|

A token proves that the asker receives what is sent to its address (BEP-5). An asker without one pads its
question to the size of the answer it hopes for, so that a forged source address gains nothing by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import INT_MAX, Between, Count, Exactly, Size, registered

__all__ = [
    "CONTACTS_COUNT_MAX",
    "DhtPing",
    "DhtPong",
    "DhtRecord",
    "FindNodes",
    "FoundNodes",
    "KEYS_COUNT_MAX",
    "NAMESPACE_SIZE_BYTES_MAX",
    "PAGES_COUNT_MAX",
    "RECORDS_COUNT_MAX",
    "SAVED_COUNT_MAX",
    "SUBKEY_SIZE_BYTES_MAX",
    "SavedContacts",
    "StoreRecords",
    "Stored",
    "TOKEN_SIZE_BYTES",
    "VALUE_SIZE_BYTES_MAX",
]

VALUE_SIZE_BYTES_MAX = 512
"""Bytes of a record's value: with key, sub-key, owner and signature it fits one datagram."""
SUBKEY_SIZE_BYTES_MAX = 64
"""Bytes of a sub-key, as of the salt in BEP-44."""
NAMESPACE_SIZE_BYTES_MAX = 16
TOKEN_SIZE_BYTES = 8
PAGES_COUNT_MAX = 16
"""Pages of one answer that a message can name; `DhtConfig` sets how many are sent."""
CONTACTS_COUNT_MAX = 32
KEYS_COUNT_MAX = 16
"""Keys of one question: half of a datagram."""
RECORDS_COUNT_MAX = 8
"""Records of one StoreRecords; small ones, since they share a datagram."""
SAVED_COUNT_MAX = 512
"""Contacts kept over a restart: 30 kB, and enough that some of them still run after a week."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class DhtRecord(Signed):
    """A value that its owner keeps under a key for others to find, until it expires.

    Many owners share one key; each owner has any number of sub-keys under it, every one with its own value
    and expiry. Only the owner can make a record; the higher `sequence` of the same (key, sub-key, owner)
    replaces the lower. It is void after `expires_ms`, whoever passes it on. `namespace` says what values
    there may be (`dht/namespaces.py`).
    """

    TAG: ClassVar[int] = 32

    public_key: Annotated[bytes, Exactly(32)]
    namespace: Annotated[str, Size(NAMESPACE_SIZE_BYTES_MAX)]
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
    """Any peer to a contact that it has not heard from for long: still there? Answered by DhtPong.

    With the contact's token it says: here I am, as your token that reached me proves. Not answered.
    """

    TAG: ClassVar[int] = 33
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    token: Annotated[bytes, Size(TOKEN_SIZE_BYTES)] = b""


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
    """Any peer to a contact: which peers do you know nearest to these keys? Answered by FoundNodes, in pages.

    With `records`, the answer also has what is stored under the keys.
    """

    TAG: ClassVar[int] = 35
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    keys: Annotated[tuple[Annotated[bytes, Exactly(32)], ...], Count(KEYS_COUNT_MAX)]
    records: bool = False
    token: Annotated[bytes, Size(TOKEN_SIZE_BYTES)] = b""
    """The token of an earlier FoundNodes; empty where there is none."""
    padding: Annotated[bytes, Size(1024)] = b""
    """Zeros, in place of a token: the answer is not longer than the question."""
    brief: bool = False
    """No more than the k nearest contacts; where there are records, those and a few contacts beside them on
    one page, and `again` says that not all records fit it."""
    wide: bool = False
    """Twice as many contacts as else, for many of them do not answer."""


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
    """For the asker's next questions and its StoreRecords, from the same address, for some minutes."""
    seen: Endpoint
    """Where the question came from: behind a NAT the asker learns its own address by it."""
    records_count: Annotated[int, Between(0, 1 << 20)] = 0
    """Records held under the keys, told here or not: whether there are more than the pages have."""
    again: bool = False
    """There is more, but not for an unproved address or not on one page: ask again with this token."""
    contacts: Annotated[tuple[Contact, ...], Count(CONTACTS_COUNT_MAX)] = ()
    records: Annotated[tuple[DhtRecord, ...], Count(32)] = ()


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecords(Message):
    """Whoever has records to one of the peers nearest to their keys: keep them. Answered by Stored.

    With `expected`, the first record is kept only if the one it replaces has that sequence, 0 standing for
    none at all (compare-and-swap, BEP-44).
    """

    TAG: ClassVar[int] = 37
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    token: Annotated[bytes, Exactly(TOKEN_SIZE_BYTES)]
    records: Annotated[tuple[DhtRecord, ...], Count(RECORDS_COUNT_MAX)]
    expected: Annotated[int, Between(-1, INT_MAX)] = -1
    """The sequence that must be held; -1 for no such condition."""


@registered
@dataclass(frozen=True, slots=True)
class Stored(Message):
    """The answer to StoreRecords: a code for each record, in their order.

    A code is `stored` (kept, or already here), `old` (a higher sequence is here), `fork` (another value of
    this sequence is here), `cas` (what is here has not the expected sequence), `full` (a quota is used up by
    what is worth more), `void` (expired, or expires later than this peer keeps anything), `invalid` (not what
    its namespace allows) or `token` (ask FindNodes for a new one).
    """

    TAG: ClassVar[int] = 38
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    query: int
    codes: Annotated[tuple[Annotated[str, Size(16)], ...], Count(RECORDS_COUNT_MAX)]
    held: Annotated[tuple[DhtRecord, ...], Count(1)] = ()
    """The record that stood in the way, of the first code that is `old`, `fork` or `cas`."""


@registered
@dataclass(frozen=True, slots=True)
class SavedContacts(Message):
    """What a peer keeps of its table on disk, the good ones first. It is never sent."""

    TAG: ClassVar[int] = 39

    contacts: Annotated[tuple[Contact, ...], Count(SAVED_COUNT_MAX)]
