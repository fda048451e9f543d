"""How records lie in a segment file, and what a damaged place in one means.

    segment     head of 128 bytes | checkpoint | record | record | ... | zeros up to the size it was made with
    record      head of 24 bytes | body | mark 1
    its head    checksum 4 | length 4 | checksum of the body 4 | mark 1 | kind 1 | is last 1 | mask 1 | sync 8

Rules:

1. All checksums are CRC-32C. A head's covers the segment's random salt and the record's place as well, so
   that no bytes of another file, another place or an application's data pass for a record.
2. All records that shared a sync have its number, and the last of them says that it is the last. A sync began
   only when the one before had succeeded. So where a record of a later sync follows, a damaged one was
   durable once, and the damage is not a crash's doing.
3. What a crash can leave of the last sync is torn: file systems and disks write sectors of 512 bytes whole or
   not at all, in any order, and what was not written still has the zeros of before. So that a lost sector is
   known for one, no sector of a whole record is zeros: heads lie within one sector, a record ends with a
   mark, and a body with long runs of zeros is stored under a mask. A torn record is dropped with what follows
   it; nothing of it was promised. A torn write is taken to leave the earlier bytes of its first sector as
   they were (SQLite's "powersafe overwrite"); where a disk breaks that, rule 4 holds.
4. Every other damage is told, never mended: what was acknowledged may be gone, and a node that went on would
   break its word. (etcd judges by sectors of zeros as well, `wal/decoder.go`, and PostgreSQL by the end of
   valid records alone. Disks that keep writes from ever reaching them, without an error, are beyond what a
   log can notice.)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from google_crc32c import value as crc32c

__all__ = [
    "CHECKPOINT",
    "FORMAT_VERSION",
    "HEAD_SIZE_BYTES",
    "WRITE",
    "BadHead",
    "Reading",
    "Record",
    "SegmentHead",
    "frame",
    "read_head",
    "read_records",
]

FORMAT_VERSION = 1
HEAD_SIZE_BYTES = 128
"""The same in all versions, with the checksum in its last four bytes: so a newer version is known for one."""
CHECKPOINT, WRITE = 1, 2
"""The kinds of records."""

_MAGIC = b"p2praft\x00"
_SECTOR_SIZE_BYTES = 512
_ALIGNMENT_BYTES = 8
_MARK = 0xA5
_ZERO_RUN = 256
"""A run of zeros of this length is masked: every whole sector then has at least two bytes that are none, so
that no single damaged byte makes it look as if it had not been written."""

_SEGMENT_HEAD = struct.Struct("<8sH6xQQQQ16sQQQQ")
_CHECKSUM = struct.Struct("<I")
_RECORD_HEAD = struct.Struct("<IIIBBBBQ")
_PLACE = struct.Struct("<QQ")


class BadHead(ValueError):
    """The first bytes of a file are no segment's.

    Attributes:
        version: What a newer version of the format says of itself; None where the head is damaged.
    """

    def __init__(self, reason: str, version: int | None = None) -> None:
        super().__init__(reason)
        self.version = version


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHead:
    """What a segment says of itself and of the one before it.

    Attributes:
        size_bytes: What the file was made with; it may be cut to what is used once it is full.
        sequence: Its number, from 1.
        salt: Random; enters every checksum.
        node_id: Whose log it is.
        cluster_id: Of 16 bytes.
        previous: The segment to be read before this one; 0 if there is none.
        previous_end: Where that one ends. What lies behind was never promised.
        sync: The number of the last sync before this segment's first.
        synced_end: Up to here the file was synced before it got its name: no crash can tear that.
    """

    size_bytes: int
    sequence: int
    salt: int
    node_id: int
    cluster_id: bytes
    previous: int
    previous_end: int
    sync: int
    synced_end: int

    def pack(self) -> bytes:
        """Return the first bytes of the file."""
        packed = _SEGMENT_HEAD.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.size_bytes,
            self.sequence,
            self.salt,
            self.node_id,
            self.cluster_id,
            self.previous,
            self.previous_end,
            self.sync,
            self.synced_end,
        )
        packed += bytes(HEAD_SIZE_BYTES - _CHECKSUM.size - len(packed))
        return packed + _CHECKSUM.pack(crc32c(packed))


def read_head(data: bytes) -> SegmentHead:
    """Read the first bytes of a file.

    Raises:
        BadHead: They are no segment's, or of a newer version.
    """
    covered, checksum = data[: HEAD_SIZE_BYTES - _CHECKSUM.size], data[:HEAD_SIZE_BYTES][-_CHECKSUM.size :]
    if len(data) < HEAD_SIZE_BYTES or _CHECKSUM.pack(crc32c(covered)) != checksum:
        raise BadHead("its head is damaged")
    magic, version, size, sequence, salt, node, cluster, previous, previous_end, sync, synced_end = (
        _SEGMENT_HEAD.unpack_from(covered)
    )
    if magic != _MAGIC:
        raise BadHead("it is no segment of a log")
    if version != FORMAT_VERSION:
        raise BadHead(f"it has format {version}, and this version reads {FORMAT_VERSION}", version)
    return SegmentHead(
        size_bytes=size,
        sequence=sequence,
        salt=salt,
        node_id=node,
        cluster_id=cluster,
        previous=previous,
        previous_end=previous_end,
        sync=sync,
        synced_end=synced_end,
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record: where it lies, which sync wrote it, whether it is that one's last, and what it says."""

    offset: int
    end: int
    kind: int
    sync: int
    is_last: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a segment.

    Attributes:
        records: All that are whole, up to the first that is not.
        torn_bytes: What a crash left half-written after them, to be dropped.
        damage: What is wrong at `end`, if it is no crash's doing.
    """

    records: tuple[Record, ...]
    torn_bytes: int = 0
    damage: str | None = None

    @property
    def end(self) -> int:
        """Where the last whole record ends."""
        return self.records[-1].end if self.records else HEAD_SIZE_BYTES


def frame(bodies: Sequence[tuple[int, bytes]], offset: int, salt: int, sync: int) -> bytes:
    """Return the bytes, to be written at `offset`, of the records (kind, body) of one sync."""
    parts: list[bytes] = []
    at = offset
    for place, (kind, body) in enumerate(bodies, start=1):
        start = _next_start(at)
        mask = _mask_for(body)
        stored = body.translate(_masking(mask)) if mask else body
        rest = (len(stored), crc32c(stored), _MARK, kind, place == len(bodies), mask, sync)
        head = _RECORD_HEAD.pack(0, *rest)
        checksum = crc32c(_PLACE.pack(salt, start) + head[4:])
        parts += (bytes(start - at), _CHECKSUM.pack(checksum), head[4:], stored, _MARK_BYTE)
        at = start + _RECORD_HEAD.size + len(stored) + 1
    return b"".join(parts)


def read_records(data: bytes, head: SegmentHead, end: int | None = None) -> Reading:
    """Read a segment's records.

    Args:
        data: The file, from its first byte. What it lacks counts as zeros.
        head: As read from it.
        end: Where the next segment says that this one ends; None for the newest.
    """
    records: list[Record] = []
    at = HEAD_SIZE_BYTES
    while end is None or at < end:
        start = _next_start(at)
        record = _read_record(data, start, head.salt)
        if record is None:
            break
        records.append(record)
        at = record.end
        if record.sync not in _syncs_after(records[-2] if len(records) > 1 else None, head):
            return Reading(tuple(records[:-1]), damage="a record of another sync than the one due")
    if end is not None:
        damage = None if at == end else "a record is damaged, and later ones were written after it"
        return Reading(tuple(records), damage=damage)
    return _judge(data, head, tuple(records))


_MARK_BYTE = bytes([_MARK])


def _next_start(at: int) -> int:
    """Where a record begins that follows on `at`: aligned, with its head in one sector."""
    start = -(-at // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    left = _SECTOR_SIZE_BYTES - start % _SECTOR_SIZE_BYTES
    return start if left >= _RECORD_HEAD.size else start + left


def _mask_for(body: bytes) -> int:
    """Return a byte of which the body has no long run, 0 if it may be.

    Only a body above 64 KiB can have runs of all; it is stored as it is, and a crash's damage to it may be
    called another's, or the other way round.
    """
    return next((mask for mask in range(256) if bytes([mask]) * _ZERO_RUN not in body), 0)


@lru_cache(maxsize=256)
def _masking(mask: int) -> bytes:
    return bytes(value ^ mask for value in range(256))


def _read_record_head(data: bytes, start: int, salt: int) -> tuple[int, int, int, bool, int, int] | None:
    """Return length, body checksum, kind, is last, mask and sync; None where there is no sound head."""
    raw = data[start : start + _RECORD_HEAD.size]
    if len(raw) < _RECORD_HEAD.size or raw[12] != _MARK:
        return None
    checksum, length, body_checksum, _, kind, is_last, mask, sync = _RECORD_HEAD.unpack(raw)
    if checksum != crc32c(_PLACE.pack(salt, start) + raw[4:]):
        return None
    return length, body_checksum, kind, bool(is_last), mask, sync


def _read_record(data: bytes, start: int, salt: int) -> Record | None:
    found = _read_record_head(data, start, salt)
    if found is None:
        return None
    length, body_checksum, kind, is_last, mask, sync = found
    begin = start + _RECORD_HEAD.size
    stored = data[begin : begin + length]
    if len(stored) < length or crc32c(stored) != body_checksum:
        return None
    body = stored.translate(_masking(mask)) if mask else stored
    return Record(start, begin + length + 1, kind, sync, is_last, body)


def _syncs_after(before: Record | None, head: SegmentHead) -> tuple[int, ...]:
    """The sync numbers that the next record may have: a group is ended before the next begins."""
    if before is None:
        return (head.sync,)  # the checkpoint's
    return (before.sync + 1,) if before.is_last else (before.sync,)


def _judge(data: bytes, head: SegmentHead, records: tuple[Record, ...]) -> Reading:
    """Say what follows the last whole record of the newest segment: nothing, something torn, or damage."""
    last = records[-1] if records else None
    start = _next_start(last.end if last else HEAD_SIZE_BYTES)
    written = len(data.rstrip(b"\x00"))
    if start < head.synced_end:
        return Reading(records, damage="a record is damaged that was durable before the file was used")
    if start >= written:
        return Reading(records)
    due = _syncs_after(last, head)[0]
    if _has_later_sync(data, start + _ALIGNMENT_BYTES, head.salt, due):
        return Reading(records, damage="a record is damaged, and later ones were written after it")
    if _is_torn(data, start, head.salt, written):
        return Reading(records, torn_bytes=written - start)
    return Reading(records, damage="the last record is damaged, and not as a crash damages it")


def _has_later_sync(data: bytes, start: int, salt: int, sync: int) -> bool:
    """Whether the head of a record of a later sync lies anywhere from `start` on."""
    at = data.find(_MARK_BYTE, start + 12)
    while at >= 0:
        if at % _ALIGNMENT_BYTES == 12 % _ALIGNMENT_BYTES:
            found = _read_record_head(data, at - 12, salt)
            if found is not None and found[5] > sync:
                return True
        at = data.find(_MARK_BYTE, at + 1)
    return False


def _is_torn(data: bytes, start: int, salt: int, written: int) -> bool:
    """Whether the damaged record at `start` lacks a sector, or its end, as after a crash."""
    if written <= start + _RECORD_HEAD.size:
        return True  # the head itself is a beginning
    found = _read_record_head(data, start, salt)
    sector_end = start - start % _SECTOR_SIZE_BYTES + _SECTOR_SIZE_BYTES
    if found is None:
        return not any(data[start:sector_end])
    end = start + _RECORD_HEAD.size + found[0] + 1
    if end > written:
        return True  # its last byte, the mark, is not there
    while start < end:
        if not any(data[start : min(sector_end, end)]):
            return True
        start, sector_end = sector_end, sector_end + _SECTOR_SIZE_BYTES
    return False
