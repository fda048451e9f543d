"""Reading a log back: from the newest segment along the links to the oldest, then forward.

Rules:

1. A segment ends where its successor says; only the newest may end in something torn.
2. What the newest segment's last sync wrote is not believed yet: the process before may have died between
   writing and syncing, or because the sync failed, and what is read may be in memory alone. The same holds
   for a segment's name until something was appended. It is handed over separately, to be written anew before
   anybody acts on it.
3. Nothing is changed here, so that a log that is refused can be looked at as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.errors import DamagedStorage, LocalProtocolError, NewerFormat
from p2pinfer.raft.storage.contents import Contents, StoredState
from p2pinfer.raft.storage.files import Files
from p2pinfer.raft.storage.framing import (
    CHECKPOINT,
    FORMAT_VERSION,
    HEAD_SIZE_BYTES,
    WRITE,
    BadHead,
    Reading,
    Record,
    SegmentHead,
    read_head,
    read_records,
)
from p2pinfer.raft.storage.records import decode_checkpoint, decode_write, encode_checkpoint
from p2pinfer.raft.storage.segments import SEGMENT, Batch, OldSegment, segment_name
from p2pinfer.raft.storage.snapshot_files import REMEDY
from p2pinfer.raft.types import LogWrite

__all__ = ["Replayed", "replay", "segment_sequences"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A log as it was read.

    Attributes:
        ids: The node's and the cluster's.
        contents: All of it, what is not believed yet included.
        proven: The state without that.
        unproven: That.
        old: The segments that hold what is proven, oldest first.
        sync: The number of the last sync in those.
        newest: The segment that was appended to last.
        surplus_bytes: What that one's file has behind its last whole record.
        torn_bytes: How many of those a crash left half-written.
    """

    ids: tuple[int, bytes]
    contents: Contents
    proven: StoredState
    unproven: Batch
    old: tuple[OldSegment, ...]
    sync: int
    newest: OldSegment
    surplus_bytes: int
    torn_bytes: int


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    head: SegmentHead
    reading: Reading
    size_bytes: int


def segment_sequences(files: Files) -> list[int]:
    """Return the numbers of all segments in the directory, in order."""
    found = []
    for name in files.names():
        stem = name.removesuffix(SEGMENT)
        if stem != name and len(stem) == 16 and not set(stem) - set("0123456789abcdef"):
            found.append(int(stem, 16))
    return sorted(found)


def replay(files: Files) -> Replayed | None:
    """Read the log in a directory; None if there is none.

    Raises:
        DamagedStorage: What is there was not written like that.
        NewerFormat: A newer version wrote it.
        OSError: The disk refused.
    """
    sequences = segment_sequences(files)
    if not sequences:
        return None
    chain = _read_chain(files, sequences)
    newest = chain[-1]
    records = newest.reading.records
    first_unproven = _first_unproven(newest)
    contents = Contents(_checkpoint_of(files, chain[0]))
    old: list[OldSegment] = []
    for segment in chain[:-1]:
        entry_max = _apply(files, contents, segment, segment.reading.records)
        old.append(OldSegment(segment.head.sequence, segment.reading.end, entry_max))
    entry_max = _apply(files, contents, newest, records[:first_unproven])
    if first_unproven > 1:
        old.append(OldSegment(newest.head.sequence, records[first_unproven - 1].end, entry_max))
    proven = contents.state
    unproven_max = _apply(files, contents, newest, records[first_unproven:])
    if contents.missing:
        raise DamagedStorage(
            f"{files.place}: entries {contents.missing[0]} to {contents.missing[-1]} are missing, a segment"
            f" file was lost: {REMEDY}"
        )
    return Replayed(
        ids=(newest.head.node_id, newest.head.cluster_id),
        contents=contents,
        proven=proven,
        unproven=Batch([record.body for record in records[first_unproven:]], unproven_max),
        old=tuple(old),
        sync=records[first_unproven - 1].sync,
        newest=OldSegment(newest.head.sequence, newest.reading.end, max(entry_max, unproven_max)),
        surplus_bytes=max(newest.size_bytes - newest.reading.end, 0),
        torn_bytes=newest.reading.torn_bytes,
    )


def _first_unproven(newest: _Segment) -> int:
    """Return which of its records is the first that is not believed yet; the checkpoint always is."""
    records = newest.reading.records
    if records[-1].end <= newest.head.synced_end:
        return 1  # nothing was appended, so not even the file's name is sure to be on the disk
    return next(place for place, record in enumerate(records) if record.sync == records[-1].sync)


def _read_chain(files: Files, sequences: list[int]) -> list[_Segment]:
    """Read segments from the newest back; return them oldest first."""
    chain = [_read_segment(files, sequences[-1], None)]
    while chain[0].head.previous in sequences:
        after = chain[0].head
        if after.previous >= after.sequence:
            raise DamagedStorage(f"{files.place}: {chain[0].name} follows on a later one: {REMEDY}")
        segment = _read_segment(files, after.previous, after.previous_end)
        if (segment.head.node_id, segment.head.cluster_id) != (after.node_id, after.cluster_id):
            raise DamagedStorage(f"{files.place}: {segment.name} is of another node: {REMEDY}")
        chain.insert(0, segment)
    return chain


def _read_segment(files: Files, sequence: int, end: int | None) -> _Segment:
    name = segment_name(sequence)
    data = files.read(name)
    try:
        head = read_head(data)
    except BadHead as error:
        if error.version is not None and error.version > FORMAT_VERSION:
            raise NewerFormat(f"{files.place}: {name}: {error}: update p2pinfer") from error
        raise DamagedStorage(f"{files.place}: {name} is damaged, {error}: {REMEDY}") from error
    if head.sequence != sequence:
        raise DamagedStorage(
            f"{files.place}: {name} is number {head.sequence} under another's name: {REMEDY}"
        )
    reading = read_records(data, head, end)
    if reading.damage is None and not reading.records:
        reading = Reading((), damage="it has no checkpoint")
    if reading.damage is not None:
        raise DamagedStorage(f"{files.place}: {name} at byte {reading.end}: {reading.damage}: {REMEDY}")
    return _Segment(name, head, reading, len(data))


def _checkpoint_of(files: Files, segment: _Segment) -> StoredState:
    record = segment.reading.records[0]
    try:
        if record.kind != CHECKPOINT:
            raise ValueError("a checkpoint was expected")
        return decode_checkpoint(record.body)
    except ValueError as error:
        raise _unreadable(files, segment, record, error) from error


def _apply(files: Files, contents: Contents, segment: _Segment, records: tuple[Record, ...]) -> int:
    """Do what a segment's records say; return the highest index of an entry in them, or 0."""
    entry_max = 0
    for record in records:
        try:
            if record.offset <= HEAD_SIZE_BYTES:
                if record.kind != CHECKPOINT or record.body != encode_checkpoint(contents.state):
                    raise ValueError("its checkpoint is not what the segments before amount to")
                continue
            write = _decoded(record)
            contents.apply(write)
        except (ValueError, LocalProtocolError) as error:
            raise _unreadable(files, segment, record, error) from error
        if write.entries:
            entry_max = max(entry_max, write.entries[-1].index)
    return entry_max


def _decoded(record: Record) -> LogWrite:
    if record.kind != WRITE:
        raise ValueError(f"kind {record.kind} of record is unknown")
    return decode_write(record.body)


def _unreadable(files: Files, segment: _Segment, record: Record, error: Exception) -> DamagedStorage:
    return DamagedStorage(
        f"{files.place}: {segment.name}: the record at byte {record.offset} is whole and contradicts what is"
        f" known, {error}: update p2pinfer if a newer one wrote it, else {REMEDY}"
    )
