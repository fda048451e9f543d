"""Entries, proposals and configurations as bytes.

Rules:

1. A batch of entries is packed once and sent to all followers; its entries have no index, since the message
   says where the first one stands.
2. What does not unpack exactly is refused with `DecodeError`, before anything is changed by it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from p2pinfer.errors import DecodeError
from p2pinfer.raft.types import Configuration, Entry, EntryKind, Member
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.raft import TERM_MAX, ConfigurationRecord, MemberRecord

__all__ = [
    "ENTRY_OVERHEAD_BYTES",
    "configuration_of",
    "decode_configuration",
    "encode_configuration",
    "pack_commands",
    "pack_entries",
    "record_of",
    "unpack_commands",
    "unpack_entries",
]

_HEADER = struct.Struct(">QBI")
_LENGTH = struct.Struct(">I")
ENTRY_OVERHEAD_BYTES = _HEADER.size
"""What an entry takes in a batch besides its data: term, kind and length."""
_KINDS = tuple(EntryKind(value) for value in range(len(EntryKind)))
_VOTER, _OUTGOING, _LEARNER, _LEARNER_NEXT = 1, 2, 4, 8


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Return entries that follow one another as one batch."""
    parts: list[bytes] = []
    pack = _HEADER.pack
    for _, term, data, kind in entries:
        parts.append(pack(term, kind, len(data)))
        parts.append(data)
    return b"".join(parts)


def unpack_entries(batch: bytes, first_index: int, term_max: int = TERM_MAX) -> tuple[Entry, ...]:
    """Return the entries of a batch.

    Raises:
        DecodeError: It is cut off, has an unknown kind, or terms that fall or exceed `term_max`.
    """
    entries: list[Entry] = []
    position, index, before, size = 0, first_index, 0, len(batch)
    unpack, overhead = _HEADER.unpack_from, ENTRY_OVERHEAD_BYTES
    try:
        while position < size:
            term, kind, length = unpack(batch, position)
            position += overhead
            end = position + length
            if end > size or not before <= term <= term_max:
                raise DecodeError("a batch of entries is cut off, or its terms are not in order")
            entries.append(Entry(index, term, batch[position:end], _KINDS[kind]))
            position, before = end, term
            index += 1
    except (struct.error, IndexError) as error:
        raise DecodeError(f"not a batch of entries: {error}") from error
    return tuple(entries)


def pack_commands(commands: Iterable[bytes]) -> bytes:
    """Return proposals as one batch."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(_LENGTH.pack(len(command)))
        parts.append(command)
    return b"".join(parts)


def unpack_commands(batch: bytes, count_max: int) -> list[bytes]:
    """Return the proposals of a batch.

    Raises:
        DecodeError: It is cut off or has more than `count_max`.
    """
    commands: list[bytes] = []
    position, size = 0, len(batch)
    try:
        while position < size:
            (length,) = _LENGTH.unpack_from(batch, position)
            position += _LENGTH.size
            if position + length > size or len(commands) >= count_max:
                raise DecodeError("a batch of proposals is cut off or has too many")
            commands.append(batch[position : position + length])
            position += length
    except struct.error as error:
        raise DecodeError(f"not a batch of proposals: {error}") from error
    return commands


def record_of(configuration: Configuration) -> ConfigurationRecord:
    """Return a configuration as a part of a message."""
    roles = dict.fromkeys(configuration.nodes, 0)
    for bit, nodes in (
        (_VOTER, configuration.voters),
        (_OUTGOING, configuration.outgoing),
        (_LEARNER, configuration.learners),
        (_LEARNER_NEXT, configuration.learners_next),
    ):
        for node in nodes:
            roles[node] |= bit
    return ConfigurationRecord(
        members=tuple(
            MemberRecord(node=each.node, contact=each.contact, roles=roles[each.node])
            for each in configuration.members
        )
    )


def configuration_of(record: ConfigurationRecord) -> Configuration:
    """Return the configuration that a message holds.

    Raises:
        DecodeError: A node has no role or roles that exclude each other, or they are not in order.
    """
    nodes = [each.node for each in record.members]
    if nodes != sorted(set(nodes)):
        raise DecodeError("the nodes of a configuration are not in order")
    for each in record.members:
        learns = each.roles & _LEARNER
        if not each.roles or (learns and each.roles != _LEARNER):
            raise DecodeError(f"node {each.node} has roles that exclude each other")
        if each.roles & _LEARNER_NEXT and each.roles != _LEARNER_NEXT | _OUTGOING:
            raise DecodeError(f"node {each.node} is to become a learner and is no outgoing voter")

    def having(bit: int) -> tuple[int, ...]:
        return tuple(each.node for each in record.members if each.roles & bit)

    voters = having(_VOTER)
    if not voters:
        raise DecodeError("a configuration has no voter")
    return Configuration(
        voters=voters,
        outgoing=having(_OUTGOING),
        learners=having(_LEARNER),
        learners_next=having(_LEARNER_NEXT),
        members=tuple(Member(each.node, each.contact) for each in record.members),
    )


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the data of a configuration entry."""
    return encode(record_of(configuration))


def decode_configuration(data: bytes) -> Configuration:
    """Return the configuration that an entry holds.

    Raises:
        DecodeError: It holds none.
    """
    record = decode(data)
    if not isinstance(record, ConfigurationRecord):
        raise DecodeError("a configuration entry holds something else")
    return configuration_of(record)
