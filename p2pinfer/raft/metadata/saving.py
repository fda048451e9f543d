"""The metadata as a snapshot, and back: everything in one order, so that equal states have equal bytes."""

from __future__ import annotations

from collections.abc import Iterator

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError
from p2pinfer.raft.metadata.history import Change
from p2pinfer.raft.metadata.keyspace import Record
from p2pinfer.raft.metadata.leases import Lease
from p2pinfer.raft.metadata.limits import Limits
from p2pinfer.raft.metadata.state import State
from p2pinfer.raft.metadata.transactions import record_of_message, record_to_message
from p2pinfer.wire.messages.metadata import KeyValue
from p2pinfer.wire.messages.metadata_values import SavedChange, SavedLease, SavedMetadata

__all__ = ["MAGIC", "read_state", "saved_state"]

MAGIC = b"p2pmeta\n"


def saved_state(state: State) -> Iterator[Message]:
    """Capture a state now, and give the messages of its snapshot while they are asked for."""
    leases, items, changes = state.leases.all, state.keys.items(), state.history.changes
    header = SavedMetadata(
        format=state.format,
        limits=state.keys.limits.digest,
        revision=state.keys.revision,
        compacted=state.history.compacted,
        time_ms=state.time_ms,
        token_count=state.leases.token_count,
        lease_count=len(leases),
        key_count=len(state.keys),
        change_count=len(changes),
    )

    def messages() -> Iterator[Message]:
        yield header
        for lease in leases:
            yield SavedLease(
                name=lease.name,
                holder=lease.holder,
                token=lease.token,
                ttl_ms=lease.ttl_ms,
                expires_ms=lease.expires_ms,
            )
        for key, record in items:
            yield record_to_message(key, record)
        for change in changes:
            yield _saved_change(change)

    return messages()


def read_state(messages: list[Message], limits: Limits) -> State:
    """Return the state that a snapshot's messages stand for.

    Raises:
        DecodeError: They are not what `saved_state` gives, or were made under other limits.
    """
    header = messages[0] if messages else None
    if not isinstance(header, SavedMetadata):
        raise DecodeError("a snapshot of the metadata begins with what is in it")
    if header.limits != limits.digest:
        raise DecodeError("the snapshot was made under other limits than this software has")
    if len(messages) != 1 + header.lease_count + header.key_count + header.change_count:
        raise DecodeError("a snapshot of the metadata has as many parts as it says")
    ends = 1 + header.lease_count, 1 + header.lease_count + header.key_count
    leases = [_lease_of(message) for message in messages[1 : ends[0]]]
    items = [_item_of(message) for message in messages[ends[0] : ends[1]]]
    changes = [_change_of(message) for message in messages[ends[1] :]]
    _check_order(header, leases, items, changes)
    state = State(limits)
    state.format, state.time_ms = header.format, header.time_ms
    state.leases.load(leases, header.token_count)
    state.keys.load(items, header.revision)
    for key, record in items:
        if record.lease:
            state.leases.attach(key, record.lease)
    state.history.load(changes, header.compacted)
    return state


def _check_order(
    header: SavedMetadata,
    leases: list[Lease],
    items: list[tuple[str, Record]],
    changes: list[Change],
) -> None:
    """Refuse what would make a state that no log leads to."""
    names, keys = [lease.name for lease in leases], [key for key, _ in items]
    if names != sorted(set(names)) or keys != sorted(set(keys)):
        raise DecodeError("a snapshot of the metadata has every name and key once, in order")
    tokens = {lease.token for lease in leases}
    if len(tokens) != len(leases) or any(token > header.token_count for token in tokens):
        raise DecodeError("a snapshot of the metadata has tokens that were given, each once")
    if any(record.lease and record.lease not in tokens for _, record in items):
        raise DecodeError("a snapshot of the metadata attaches keys to leases that are held")
    revisions = [change.revision for change in changes]
    bounds = [header.compacted + 1, *revisions, header.revision] if revisions else []
    if bounds != sorted(bounds) or any(record.modified > header.revision for _, record in items):
        raise DecodeError("a snapshot of the metadata has revisions up to its own, in order")


def _saved_change(change: Change) -> SavedChange:
    record = change.record
    if record is None:
        return SavedChange(revision=change.revision, key=change.key, value=None)
    return SavedChange(
        revision=change.revision,
        key=change.key,
        value=record.value,
        created=record.created,
        version=record.version,
        lease=record.lease,
    )


def _lease_of(message: Message) -> Lease:
    if not isinstance(message, SavedLease):
        raise DecodeError("a lease was expected")
    return Lease(message.name, message.holder, message.token, message.ttl_ms, message.expires_ms)


def _item_of(message: Message) -> tuple[str, Record]:
    if not isinstance(message, KeyValue):
        raise DecodeError("a key was expected")
    return message.key, record_of_message(message)


def _change_of(message: Message) -> Change:
    if not isinstance(message, SavedChange):
        raise DecodeError("a change was expected")
    if message.value is None:
        return Change(message.revision, message.key, None)
    record = Record(message.value, message.created, message.revision, message.version, message.lease)
    return Change(message.revision, message.key, record)
