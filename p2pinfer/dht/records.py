"""Records: how one is made, which of two is newer, and how long one counts.

Rules:

1. The higher sequence of the same (key, sub-key, owner) wins (BEP-44). The same statement again changes
   nothing.
2. Two statements under one sequence are a fork: their owner contradicts itself, or two devices with its key
   do. Everybody prefers the one with the smaller digest, so that all holders and readers agree whichever they
   saw first; both are kept as evidence, and served together, so that all readers see it.
3. A sequence is made from the owner's clock in milliseconds, so that a peer that restarts without its disk
   still replaces what it said before.
4. Nothing lives past its owner's expiry, and an expiry too far off is refused: otherwise whoever lies most
   boldly about it would be the last to be evicted.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

from p2pinfer.dht.config import RecordConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import SUBKEY_SIZE_BYTES_MAX, VALUE_SIZE_BYTES_MAX, DhtRecord

__all__ = [
    "Fork",
    "Place",
    "Standing",
    "check_put",
    "compare",
    "digest_of",
    "fork_of",
    "has_one_owner",
    "is_alive",
    "is_expected",
    "is_immutable",
    "is_timely",
    "newest",
    "place_of",
    "record_size_bytes",
]

Place = tuple[bytes, PeerId]
"""Where a record stands under its key: (sub-key, owner)."""

_FIXED_SIZE_BYTES = 180
"""Key, public key, signature, two large numbers, and the headers of all fields, at their most."""


class Standing(enum.Enum):
    """What a record is to the one already here."""

    NEWER = enum.auto()
    SAME = enum.auto()
    OLDER = enum.auto()
    FORK = enum.auto()


@dataclass(frozen=True, slots=True)
class Fork:
    """Evidence: two statements that one owner signed for one place under one sequence.

    Both carry its signature, so whoever is shown a fork can check it without believing anybody.
    """

    first: DhtRecord
    """The one that everybody prefers: it has the smaller digest."""
    second: DhtRecord

    @property
    def owner(self) -> PeerId:
        """Who contradicts itself."""
        return self.first.owner


def place_of(record: DhtRecord) -> Place:
    """Return the record's place under its key."""
    return record.subkey, record.owner


def record_size_bytes(record: DhtRecord) -> int:
    """An upper bound on the bytes that a record takes in a message; at most 772."""
    return _FIXED_SIZE_BYTES + len(record.namespace.encode()) + len(record.subkey) + len(record.value)


def is_alive(record: DhtRecord, now: float) -> bool:
    """Whether the record has not expired yet."""
    return record.expires_ms > now * 1000


def is_immutable(record: DhtRecord) -> bool:
    """Whether its key is the hash of its value, so that it can be no other."""
    return record.namespace == "content" and record.key == key_of("content", record.value)


def has_one_owner(record: DhtRecord) -> bool:
    """Whether its key is made from its owner's, so that nobody else can put anything there."""
    return record.namespace == "own" and record.key == key_of("own", record.public_key + record.subkey)


def is_timely(record: DhtRecord, config: RecordConfig, now: float) -> bool:
    """Whether the record is alive and does not claim to live longer than anything may."""
    longest_s = config.ttl_s_max + config.clock_skew_s
    return is_alive(record, now) and record.expires_ms <= (now + longest_s) * 1000


def is_expected(held: DhtRecord | None, expected: int) -> bool:
    """Whether a put that expects a sequence may replace what is held (BEP-44's `cas`).

    `expected` is the sequence of the held record, 0 for no record at all, and below 0 for no condition.
    """
    if expected < 0:
        return True
    return held is None if expected == 0 else held is not None and held.sequence == expected


def compare(record: DhtRecord, known: DhtRecord) -> Standing:
    """Say what `record` is to `known`, of the same key, sub-key and owner."""
    if record.sequence != known.sequence:
        return Standing.NEWER if record.sequence > known.sequence else Standing.OLDER
    return Standing.SAME if _statement(record) == _statement(known) else Standing.FORK


def digest_of(record: DhtRecord) -> bytes:
    """SHA-256 of what a record states, its signature left out: in this order forked records are preferred."""
    namespace, value, expires_ms = _statement(record)
    head = b"%d %d %d %d\0" % (record.sequence, expires_ms, len(namespace), len(record.subkey))
    who = record.public_key + record.key
    return hashlib.sha256(head + who + namespace.encode() + record.subkey + value).digest()


def fork_of(one: DhtRecord, other: DhtRecord) -> Fork | None:
    """The evidence that two records of one key give; None where they do not contradict each other."""
    if one.key != other.key or place_of(one) != place_of(other) or compare(one, other) is not Standing.FORK:
        return None
    first, second = sorted((one, other), key=digest_of)
    return Fork(first, second)


def newest(records: dict[Place, DhtRecord], record: DhtRecord) -> bool:
    """Put `record` at its place if it is newer than the one there, or preferred in a fork; say whether so."""
    place = place_of(record)
    known = records.get(place)
    if known is not None:
        standing = compare(record, known)
        is_preferred = standing is Standing.FORK and digest_of(record) < digest_of(known)
        if standing is not Standing.NEWER and not is_preferred:
            return False
    records[place] = record
    return True


def check_put(value: bytes, subkey: bytes, ttl_s: float, config: RecordConfig) -> None:
    """Refuse what no peer would keep.

    Raises:
        LocalProtocolError: Names what is wrong.
    """
    if len(value) > VALUE_SIZE_BYTES_MAX:
        raise LocalProtocolError(
            f"a value has at most {VALUE_SIZE_BYTES_MAX} bytes, not {len(value)}: store where it is instead"
        )
    if len(subkey) > SUBKEY_SIZE_BYTES_MAX:
        raise LocalProtocolError(
            f"a sub-key has at most {SUBKEY_SIZE_BYTES_MAX} bytes, not {len(subkey)}: take its hash"
        )
    if not 0 < ttl_s <= config.ttl_s_max:
        raise LocalProtocolError(f"ttl_s lies in (0, {config.ttl_s_max:g}], not {ttl_s}: put refreshes it")


def _statement(record: DhtRecord) -> tuple[str, bytes, int]:
    return record.namespace, record.value, record.expires_ms
