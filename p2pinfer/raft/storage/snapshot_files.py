"""Snapshots as files: whole or not there, and checked piece by piece wherever they are read.

    file      head | block | block | ...
    head      magic 8 | version 2 | unused 2 | meta length 4 | meta | CRC-32C of all that 4
    block     CRC-32C 4 | 64 KiB of data, the last one less

Rules:

1. A snapshot is written to a draft as it arrives, synced, compared with its digest, renamed, and the
   directory is synced. Only then may a record of the log speak of it.
2. Its name has index, term and digest, so that another snapshot never takes the place of one that is spoken
   of.
"""

from __future__ import annotations

import hashlib
import struct

from google_crc32c import value as crc32c

from p2pinfer.errors import DamagedStorage, LocalProtocolError, NewerFormat, StorageError
from p2pinfer.raft.storage.files import Files, storage_errors
from p2pinfer.raft.storage.records import decode_meta, encode_meta
from p2pinfer.raft.types import Snapshot, SnapshotMeta

__all__ = ["DRAFT", "REMEDY", "SNAPSHOT", "SnapshotDraft", "SnapshotFiles", "read_snapshot_head"]

DRAFT = ".draft"
"""Ends the name of a file that is being written; what a crash leaves of those is removed."""
SNAPSHOT = ".snapshot"
REMEDY = (
    "move the directory away and start with an empty one: the node then joins as another one and is sent what"
    " it lacks, and the old one is removed from the cluster"
)
"""What to do about damage: never to go on, since what was promised may be gone."""

_MAGIC = b"p2psnap\x00"
_VERSION = 1
_HEAD = struct.Struct("<8sH2xI")
_CHECKSUM = struct.Struct("<I")
_ORDER = 33
"""So many characters of a name are index and term."""
_META_SIZE_BYTES_MAX = 1 << 20
"""Far above a configuration with all the members that there may be."""
_PIECE_SIZE_BYTES = 1 << 20
"""What is copied at once where a whole snapshot is in memory."""
_BLOCK_SIZE_BYTES = 64 << 10
"""What is read and checked at once: the checksum has 4 bytes of it."""


class SnapshotDraft:
    """A snapshot on its way to the disk. End it with `finish` or `discard`.

    Args:
        files: The directory.
        meta: What it will be.
        whole: Gets its file's name when it is durable.

    Raises:
        StorageError: The disk refused; so do `append` and `finish`.
    """

    def __init__(self, files: Files, meta: SnapshotMeta, whole: set[str]) -> None:
        packed = encode_meta(meta)
        head = _HEAD.pack(_MAGIC, _VERSION, len(packed)) + packed
        head += _CHECKSUM.pack(crc32c(head))
        self._files = files
        self._meta = meta
        self._name = _name_of(meta)
        self._whole = whole
        with storage_errors(files, "a snapshot was not stored"):
            self._file = files.create(self._name + DRAFT)
        self._offset = 0
        self._pending = bytearray()
        self._digest = hashlib.blake2b(digest_size=16)
        self._size_bytes = 0
        self._put(head)

    @property
    def size_bytes(self) -> int:
        """How much data has arrived: where the next piece belongs."""
        return self._size_bytes

    def append(self, data: bytes) -> None:
        """Take the next piece of the data, of any length.

        Raises:
            LocalProtocolError: That is more than the snapshot has.
        """
        if self._size_bytes + len(data) > self._meta.size_bytes:
            raise LocalProtocolError(f"the snapshot at {self._meta.index} has {self._meta.size_bytes} bytes")
        self._size_bytes += len(data)
        self._digest.update(data)
        self._pending += data
        while len(self._pending) >= _BLOCK_SIZE_BYTES:
            self._put_block(_BLOCK_SIZE_BYTES)

    def finish(self) -> None:
        """Make it durable under its name.

        Raises:
            LocalProtocolError: The data is not what its meta says; the draft is discarded.
        """
        try:
            if self._size_bytes != self._meta.size_bytes or self._digest.digest() != self._meta.digest:
                raise LocalProtocolError(f"the snapshot at {self._meta.index} is not what its digest says")
            if self._pending:
                self._put_block(len(self._pending))
            with storage_errors(self._files, "a snapshot was not stored"):
                self._file.sync()
                self._file.close()
                self._files.rename(self._name + DRAFT, self._name)
                self._files.sync_names()
        except (StorageError, LocalProtocolError):
            self.discard()
            raise
        self._whole.add(self._name)

    def discard(self) -> None:
        """Forget it. What cannot be removed is at the next start."""
        try:
            self._file.close()
            self._files.remove(self._name + DRAFT)
        except OSError:
            pass

    def _put_block(self, size_bytes: int) -> None:
        block = bytes(self._pending[:size_bytes])
        del self._pending[:size_bytes]
        self._put(_CHECKSUM.pack(crc32c(block)) + block)

    def _put(self, data: bytes) -> None:
        with storage_errors(self._files, "a snapshot was not stored"):
            self._file.write(self._offset, data)
        self._offset += len(data)


class SnapshotFiles:
    """The snapshots in a store's directory: the one that the log speaks of, and one that is to replace it.

    Its methods raise `OSError` where the disk refuses.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._whole: set[str] = set()

    def begin(self, meta: SnapshotMeta) -> SnapshotDraft:
        """Start to write one whose data is still to come."""
        return SnapshotDraft(self._files, meta, self._whole)

    def store(self, snapshot: Snapshot) -> None:
        """Make a snapshot durable; nothing is done where it is already, finished as a draft, say.

        Raises:
            LocalProtocolError: Its data is not what its digest says.
        """
        if _name_of(snapshot.meta) in self._whole:
            return
        draft = self.begin(snapshot.meta)
        try:
            for offset in range(0, len(snapshot.data), _PIECE_SIZE_BYTES):
                draft.append(snapshot.data[offset : offset + _PIECE_SIZE_BYTES])
        except (StorageError, LocalProtocolError):
            draft.discard()
            raise
        draft.finish()

    def load(self, meta: SnapshotMeta) -> Snapshot:
        """Return the snapshot that the log speaks of, all of it checked.

        Raises:
            DamagedStorage: It is not there, or not what was written.
            NewerFormat: A newer version wrote it.
        """
        name = _name_of(meta)
        if name not in self._files.names():
            raise DamagedStorage(f"{self._files.place}: the snapshot {name} is missing: {REMEDY}")
        snapshot = Snapshot(meta, self.read(meta, 0, meta.size_bytes))
        if not snapshot.is_intact:
            raise _damaged(self._files, name, "its digest is another")
        self._whole.add(name)
        return snapshot

    def read(self, meta: SnapshotMeta, offset: int, size_bytes: int) -> bytes:
        """Return a piece of a snapshot's data, checked block by block.

        Raises:
            DamagedStorage: That piece is not what was written.
            NewerFormat: A newer version wrote it.
        """
        name = _name_of(meta)
        begin = self._read_head(name, meta)
        end = min(offset + size_bytes, meta.size_bytes)
        if offset >= end:
            return b""
        step = _CHECKSUM.size + _BLOCK_SIZE_BYTES
        first, last = offset // _BLOCK_SIZE_BYTES, (end - 1) // _BLOCK_SIZE_BYTES
        raw = self._files.read(name, begin + first * step, (last + 1 - first) * step)
        blocks = []
        for place in range(first, last + 1):
            size = min(_BLOCK_SIZE_BYTES, meta.size_bytes - place * _BLOCK_SIZE_BYTES)
            at = (place - first) * step
            block = raw[at + _CHECKSUM.size : at + _CHECKSUM.size + size]
            if len(block) != size or raw[at : at + _CHECKSUM.size] != _CHECKSUM.pack(crc32c(block)):
                raise _damaged(
                    self._files, name, f"the block at byte {begin + place * step} is not what was written"
                )
            blocks.append(block)
        skip = offset - first * _BLOCK_SIZE_BYTES
        return b"".join(blocks)[skip : skip + end - offset]

    def remove_others(self, meta: SnapshotMeta | None, *, newer: bool = False) -> None:
        """Remove older snapshots than this one, and if asked newer ones, of which the log does not speak."""
        kept = "" if meta is None else _name_of(meta)
        for name in self._files.names():
            if name.endswith(SNAPSHOT) and name != kept and (newer or name[:_ORDER] <= kept[:_ORDER]):
                self._whole.discard(name)
                self._files.remove(name)

    def _read_head(self, name: str, meta: SnapshotMeta) -> int:
        """Check the head of a file; return where its data begins."""
        packed = read_snapshot_head(self._files, name)
        try:
            same = decode_meta(packed) == meta
        except ValueError:
            same = False
        if not same:
            raise _damaged(self._files, name, "it is another snapshot than its name says")
        return _HEAD.size + len(packed) + _CHECKSUM.size


def read_snapshot_head(files: Files, name: str) -> bytes:
    """Return what a file says that its snapshot is, for `decode_meta`.

    Raises:
        DamagedStorage: Its head is not what was written.
        NewerFormat: A newer version wrote it.
        OSError: The disk refused.
    """
    fixed = files.read(name, 0, _HEAD.size)
    length = _HEAD.unpack(fixed)[2] if len(fixed) == _HEAD.size else 0
    raw = files.read(name, 0, _HEAD.size + min(length, _META_SIZE_BYTES_MAX) + _CHECKSUM.size)
    covered, checksum = raw[: -_CHECKSUM.size], raw[-_CHECKSUM.size :]
    if len(covered) != _HEAD.size + length or checksum != _CHECKSUM.pack(crc32c(covered)):
        raise _damaged(files, name, "its head is not what was written")
    magic, version, _ = _HEAD.unpack_from(covered)
    if magic != _MAGIC:
        raise _damaged(files, name, "it is no snapshot")
    if version > _VERSION:
        raise NewerFormat(
            f"{files.place}: {name} has format {version}, and this version reads {_VERSION}: update p2pinfer"
        )
    return covered[_HEAD.size :]


def _damaged(files: Files, name: str, what: str) -> DamagedStorage:
    return DamagedStorage(f"{files.place}: the snapshot {name} is damaged, {what}: {REMEDY}")


def _name_of(meta: SnapshotMeta) -> str:
    return f"{meta.index:016x}-{meta.term:016x}-{meta.digest.hex()}{SNAPSHOT}"
