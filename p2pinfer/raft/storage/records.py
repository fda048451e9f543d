"""What a record of the log says: a `LogWrite` without its snapshot's bytes, or a checkpoint.

1. Both are msgpack arrays of plain values. Their framing, checksum and order are `framing`'s business.
2. A checkpoint opens every segment and says all that earlier segments amount to, but for the entries: so hard
   state and snapshot survive when those are deleted.
3. What has its checksum right and cannot be read was written by a newer version or by a bug: `ValueError`,
   never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.raft.storage.contents import Bounds, StoredState
from p2pinfer.raft.types import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogWrite,
    Member,
    Snapshot,
    SnapshotMeta,
)

__all__ = [
    "decode_checkpoint",
    "decode_meta",
    "decode_write",
    "encode_checkpoint",
    "encode_meta",
    "encode_write",
]

_KINDS = tuple(EntryKind(number) for number in range(len(EntryKind)))


def encode_write(write: LogWrite) -> bytes:
    """Return the record of one write; its number is not kept, for it means nothing to the next process."""
    entries = write.entries
    meta = None if write.snapshot is None else _pack_meta(write.snapshot.meta)
    values = (
        _pack_hard_state(write.hard_state),
        write.truncate_from,
        write.compact_to,
        meta,
        entries[0].index if entries else 0,
        [(entry.term, entry.data, int(entry.kind)) for entry in entries],
    )
    return msgpack.packb(values)  # type: ignore[no-any-return]


def decode_write(body: bytes) -> LogWrite:
    """Return what `encode_write` was given; of a snapshot the meta, with no data, and 0 as its number.

    Raises:
        ValueError: The bytes say something else.
    """
    with _only_value_errors():
        hard_state, truncate_from, compact_to, meta, first, entries = _unpack(body)
        return LogWrite(
            number=0,
            snapshot=None if meta is None else Snapshot(_unpack_meta(meta), b""),
            truncate_from=_optional_int(truncate_from),
            entries=tuple(_entry(first + place, *values) for place, values in enumerate(entries)),
            compact_to=_optional_int(compact_to),
            hard_state=None if hard_state is None else _unpack_hard_state(hard_state),
        )


def encode_checkpoint(state: StoredState) -> bytes:
    """Return the record of a state."""
    bounds = state.bounds
    meta = None if state.meta is None else _pack_meta(state.meta)
    values = (_pack_hard_state(state.hard_state), bounds.compacted, bounds.last, meta)
    return msgpack.packb(values)  # type: ignore[no-any-return]


def decode_checkpoint(body: bytes) -> StoredState:
    """Return the state.

    Raises:
        ValueError: The bytes say something else.
    """
    with _only_value_errors():
        packed, compacted, last, packed_meta = _unpack(body)
        hard_state = _unpack_hard_state(packed)
        meta = None if packed_meta is None else _unpack_meta(packed_meta)
        bounds = Bounds(_int(compacted), 0 if meta is None else meta.index, _int(last), hard_state.term)
        if not bounds.compacted <= bounds.snapshot <= bounds.last:
            raise ValueError("a log whose bounds contradict each other")
        return StoredState(bounds, hard_state, meta)


def encode_meta(meta: SnapshotMeta) -> bytes:
    """Return what the file of a snapshot says of it."""
    return msgpack.packb(_pack_meta(meta))  # type: ignore[no-any-return]


def decode_meta(body: bytes) -> SnapshotMeta:
    """Return what `encode_meta` was given.

    Raises:
        ValueError: The bytes say something else.
    """
    with _only_value_errors():
        return _unpack_meta(_unpack(body))


@contextmanager
def _only_value_errors() -> Iterator[None]:
    """Whatever goes wrong with values of another shape is one kind of error."""
    try:
        yield
    except (TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"a record of another shape: {error}") from error


def _unpack(body: bytes) -> Any:
    return msgpack.unpackb(body, use_list=False, max_map_len=0, max_ext_len=0)


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of an entry or term")
    return value


def _optional_int(value: Any) -> int | None:
    return None if value is None else _int(value)


def _entry(index: int, term: Any, data: Any, kind: Any) -> Entry:
    if type(data) is not bytes or type(term) is not int:
        raise ValueError(f"entry {index} has no term or no data")
    return Entry(index, term, data, _KINDS[kind])


def _pack_hard_state(state: HardState | None) -> Any:
    return None if state is None else (state.term, state.vote, state.commit)


def _unpack_hard_state(values: Any) -> HardState:
    term, vote, commit = values
    return HardState(_int(term), _optional_int(vote), _int(commit))


def _pack_meta(meta: SnapshotMeta) -> Any:
    configuration = meta.configuration
    members = [
        (each.node, each.contact.peer, each.contact.endpoint.host, each.contact.endpoint.port)
        for each in configuration.members
    ]
    roles = (
        configuration.voters,
        configuration.outgoing,
        configuration.learners,
        configuration.learners_next,
    )
    return (meta.index, meta.term, meta.size_bytes, meta.digest, roles, members)


def _unpack_meta(values: Any) -> SnapshotMeta:
    index, term, size_bytes, digest, roles, members = values
    voters, outgoing, learners, learners_next = (tuple(_int(node) for node in nodes) for nodes in roles)
    configuration = Configuration(
        voters, outgoing, learners, learners_next, tuple(_member(*each) for each in members)
    )
    if type(digest) is not bytes:
        raise ValueError("a snapshot without its digest")
    return SnapshotMeta(_int(index), _int(term), configuration, _int(size_bytes), digest)


def _member(node: Any, peer: Any, host: Any, port: Any) -> Member:
    if type(host) is not str:
        raise ValueError("a member without its address")
    contact = Contact(None if peer is None else PeerId(peer), Endpoint(host, _int(port)))
    return Member(_int(node), contact)
