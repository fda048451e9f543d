"""Records: how one is made, which of two is newer, and how long one counts.

Rules:

1. The higher sequence of the same (key, sub-key, owner) wins (BEP-44). Two values under one sequence are a
   fork: the first is kept. The same statement again changes nothing.
2. A sequence is made from the owner's clock in milliseconds, so that a peer that restarts without its disk
   still replaces what it said before.
3. Nothing lives past its owner's expiry, and an expiry too far off is refused: otherwise whoever lies most
   boldly about it would be the last to be evicted.
"""

from __future__ import annotations

import enum

from p2pinfer.dht.config import RecordConfig
from p2pinfer.dht.keyspace import key_of
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import SUBKEY_SIZE_BYTES_MAX, VALUE_SIZE_BYTES_MAX, DhtRecord

__all__ = [
    "Place",
    "Standing",
    "check_put",
    "compare",
    "has_one_owner",
    "is_alive",
    "is_immutable",
    "is_timely",
    "newest",
    "place_of",
]

Place = tuple[bytes, PeerId]
"""Where a record stands under its key: (sub-key, owner)."""


class Standing(enum.Enum):
    """What a record is to the one already here."""

    NEWER = enum.auto()
    SAME = enum.auto()
    OLDER = enum.auto()
    FORK = enum.auto()


def place_of(record: DhtRecord) -> Place:
    """Return the record's place under its key."""
    return record.subkey, record.owner


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


def compare(record: DhtRecord, known: DhtRecord) -> Standing:
    """Say what `record` is to `known`, of the same key, sub-key and owner."""
    if record.sequence != known.sequence:
        return Standing.NEWER if record.sequence > known.sequence else Standing.OLDER
    is_same = (record.value, record.expires_ms) == (known.value, known.expires_ms)
    return Standing.SAME if is_same else Standing.FORK


def newest(records: dict[Place, DhtRecord], record: DhtRecord) -> bool:
    """Put `record` at its place in `records` if it is newer than the one there; say whether it was."""
    place = place_of(record)
    known = records.get(place)
    if known is not None and compare(record, known) is not Standing.NEWER:
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
