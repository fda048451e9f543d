"""What stands in a store's directory, for people: every record, and every damage with its place.

1. Nothing is changed, locked or believed: it may look at a log that a running process writes, or that is
   refused.
2. A damaged place ends what is said of its file, not of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2pinfer.errors import StorageError
from p2pinfer.raft.storage.files import Files, storage_errors
from p2pinfer.raft.storage.framing import CHECKPOINT, BadHead, Record, SegmentHead, read_head, read_records
from p2pinfer.raft.storage.records import decode_checkpoint, decode_meta, decode_write
from p2pinfer.raft.storage.replay import segment_sequences
from p2pinfer.raft.storage.segments import segment_name
from p2pinfer.raft.storage.snapshot_files import SNAPSHOT, SnapshotFiles, read_snapshot_head
from p2pinfer.raft.types import HardState, LogWrite, SnapshotMeta

__all__ = ["Line", "describe_store"]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that stands in a file.

    Attributes:
        file: Its name.
        offset: At which byte.
        text: What it is, on one line.
        is_damage: Whether a start would be refused because of it.
    """

    file: str
    offset: int
    text: str
    is_damage: bool = False

    def __str__(self) -> str:
        return f"{self.file} {self.offset:8} {'DAMAGED: ' if self.is_damage else ''}{self.text}"


def describe_store(files: Files) -> Iterator[Line]:
    """Give a line for every segment, record and snapshot, in order; call it on `DirectoryFiles(path)`.

    Raises:
        StorageError: The directory cannot be read.
    """
    with storage_errors(files, "it cannot be read"):
        contents = {sequence: files.read(segment_name(sequence)) for sequence in segment_sequences(files)}
        snapshots = sorted(name for name in files.names() if name.endswith(SNAPSHOT))
    heads: dict[int, SegmentHead | BadHead] = {}
    for sequence, data in contents.items():
        try:
            heads[sequence] = read_head(data)
        except BadHead as error:
            heads[sequence] = error
    ends = {head.previous: head.previous_end for head in heads.values() if isinstance(head, SegmentHead)}
    for sequence, data in contents.items():
        head = heads[sequence]
        if isinstance(head, BadHead):
            yield Line(segment_name(sequence), 0, str(head), is_damage=True)
        else:
            yield from _describe_segment(segment_name(sequence), data, head, ends.get(sequence))
    for name in snapshots:
        yield _describe_snapshot(files, name)


def _describe_segment(name: str, data: bytes, head: SegmentHead, end: int | None) -> Iterator[Line]:
    follows = f"follows on {segment_name(head.previous)}" if head.previous else "the first"
    owner = f"node {head.node_id} in cluster {head.cluster_id.hex()}"
    yield Line(name, 0, f"segment of {owner}, {follows}, {head.size_bytes} bytes")
    reading = read_records(data, head, end)
    for record in reading.records:
        try:
            yield Line(name, record.offset, f"sync {record.sync}: {_describe_record(record)}")
        except ValueError as error:
            yield Line(name, record.offset, str(error), is_damage=True)
    if reading.damage is not None:
        yield Line(name, reading.end, reading.damage, is_damage=True)
    elif reading.torn_bytes:
        yield Line(name, reading.end, f"{reading.torn_bytes} bytes that a crash left half-written")


def _describe_record(record: Record) -> str:
    if record.kind == CHECKPOINT:
        state = decode_checkpoint(record.body)
        bounds = state.bounds
        parts = [
            "checkpoint",
            _describe_hard_state(state.hard_state),
            f"entries {bounds.compacted + 1} to {bounds.last}"
            if bounds.last > bounds.compacted
            else "no entries",
        ]
        return ", ".join(parts + ([] if state.meta is None else [_describe_meta(state.meta)]))
    return ", ".join(_describe_write(decode_write(record.body))) or "nothing"


def _describe_write(write: LogWrite) -> Iterator[str]:
    if write.snapshot is not None:
        yield _describe_meta(write.snapshot.meta)
    if write.truncate_from is not None:
        yield f"drops entries from {write.truncate_from} on"
    if write.entries:
        first, last = write.entries[0], write.entries[-1]
        size = sum(len(entry.data) for entry in write.entries)
        yield f"entries {first.index} to {last.index} of terms {first.term} to {last.term} with {size} bytes"
    if write.compact_to is not None:
        yield f"compacted up to {write.compact_to}"
    if write.hard_state is not None:
        yield _describe_hard_state(write.hard_state)


def _describe_hard_state(state: HardState) -> str:
    vote = "no vote" if state.vote is None else f"vote for {state.vote}"
    return f"term {state.term}, {vote}, commit {state.commit}"


def _describe_meta(meta: SnapshotMeta) -> str:
    voters = len(meta.configuration.voters)
    return f"snapshot at {meta.index} of term {meta.term} with {meta.size_bytes} bytes and {voters} voters"


def _describe_snapshot(files: Files, name: str) -> Line:
    try:
        with storage_errors(files, f"{name} cannot be read"):
            meta = decode_meta(read_snapshot_head(files, name))
            SnapshotFiles(files).load(meta)
    except (StorageError, ValueError) as error:
        return Line(name, 0, str(error), is_damage=True)
    return Line(name, 0, _describe_meta(meta))
