"""Commands to a swarm's replicated metadata, and the results that every replica gives.

    MetadataCommand(format, Transaction | AcquireLease | RenewLease | ReleaseLease | RaiseFormat)
                            -> TransactionDone | LeaseDone | FormatDone | sessions.Refusal

Commands are the data of log entries, inside a SessionCommand; they never travel alone. Replicas of different
age must read one log alike, so that nothing here ever changes:

1. A structure has its fields exactly (`Exact`). Another field makes another structure, with a tag of its own.
2. A command names the format it is written for, and the swarm has one format at a time, itself a part of the
   state. A command of a higher format is skipped by all replicas, old or new, with the same refusal; after
   RaiseFormat all of them apply it, and a replica whose software is too old for the format stops there.

Keys are printable ASCII without blanks; the part before the first slash is the section, which says what
values it takes (`metadata_values.py`).

Source: transactions and revisions as in etcd's v3 API (`rpc.proto`: Txn, Compare, mod_revision).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.metadata_values import Key, ModelVersion
from p2pinfer.wire.messages.sessions import COMMAND_SIZE_BYTES_MAX
from p2pinfer.wire.schema import Between, Count, Exact, Size, registered

__all__ = [
    "COMPARES_COUNT_MAX",
    "FORMAT_MAX",
    "LEASE_NAME_SIZE_BYTES_MAX",
    "OPERATIONS_COUNT_MAX",
    "VALUE_SIZE_BYTES_MAX",
    "AcquireLease",
    "Changed",
    "Compare",
    "ConflictRule",
    "Delete",
    "EditModel",
    "FormatDone",
    "Found",
    "Get",
    "KeyValue",
    "LeaseDone",
    "MetadataCommand",
    "Operation",
    "Put",
    "RaiseFormat",
    "Relation",
    "ReleaseLease",
    "RenewLease",
    "Target",
    "Transaction",
    "TransactionDone",
]

FORMAT_MAX = 65535
VALUE_SIZE_BYTES_MAX = 1 << 16
COMPARES_COUNT_MAX = 128
OPERATIONS_COUNT_MAX = 128
"""In each half of a transaction. etcd's `--max-txn-ops` is 128."""
FOUND_COUNT_MAX = 1024
LEASE_NAME_SIZE_BYTES_MAX = 128

LeaseName = Annotated[str, Size(LEASE_NAME_SIZE_BYTES_MAX)]


class Target(enum.IntEnum):
    """What a Compare looks at. A key that is not there has 0 everywhere, and no value."""

    VALUE = 0
    """The bytes. Of a key that is not there no comparison of values holds, as in etcd."""
    VERSION = 1
    """How often the key was put since it was created."""
    CREATED = 2
    """The revision that created it."""
    MODIFIED = 3
    """The revision that put it last: equal to what was read, it is as it was read."""
    LEASE = 4
    """The token of the lease that the key is attached to."""
    TOKEN = 5
    """`key` names a lease: the token that holds it now. A transaction fenced by its own lease's token does
    nothing once another holds the lease."""


class Relation(enum.IntEnum):
    """How what is there must stand to what the Compare says."""

    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    GREATER = 3


class ConflictRule(enum.IntEnum):
    """What becomes of versions of a model that were edited without knowledge of each other."""

    SETTING = 0
    """What the setting `models.conflicts` says; KEEP_BOTH if nothing."""
    KEEP_BOTH = 1
    NEWEST = 2
    """The one edited last stays, by the editors' clocks; equal stamps go to the higher peer."""
    MERGE = 3
    """As NEWEST, with the labels of all; where several have one label, the newest's."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Compare(Exact):
    """A condition of a Transaction on one key, or on every key that begins with `key`."""

    TAG: ClassVar[int] = 152

    key: Key
    target: Annotated[int, Between(0, 5)]
    relation: Annotated[int, Between(0, 3)]
    number: int = 0
    """What versions, revisions and tokens are compared with."""
    value: Annotated[bytes, Size(VALUE_SIZE_BYTES_MAX)] = b""
    """What values are compared with."""
    is_prefix: bool = False


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Put(Exact):
    """Write a value. Answered by Changed."""

    TAG: ClassVar[int] = 153

    key: Key
    value: Annotated[bytes, Size(VALUE_SIZE_BYTES_MAX)]
    lease: int = 0
    """A lease's token: the key goes when the lease ends. 0 attaches it to none."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Exact):
    """Delete one key, or every key that begins with `key`; none is no failure. Answered by Changed."""

    TAG: ClassVar[int] = 154

    key: Key
    is_prefix: bool = False


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Get(Exact):
    """Read one key, or the first that begin with `key`, after the operations before. Answered by Found."""

    TAG: ClassVar[int] = 155

    key: Key
    is_prefix: bool = False
    limit: Annotated[int, Between(1, FOUND_COUNT_MAX)] = FOUND_COUNT_MAX


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class EditModel(Exact):
    """Register a version of a model under a name and tag, beside or instead of those that are there.

    Answered by Changed. See `raft/metadata/models.py`.
    """

    TAG: ClassVar[int] = 156

    name: Annotated[str, Size(128)]
    tag: Annotated[str, Size(64)]
    version: ModelVersion
    rule: Annotated[int, Between(0, 3)] = 0
    """A `ConflictRule`."""


Operation = Put | Delete | Get | EditModel


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction(Exact):
    """If all compares hold, do `then`, else `otherwise`: all of it in one revision, or nothing.

    Answered by TransactionDone, or by a Refusal if any of it is not possible.
    """

    TAG: ClassVar[int] = 157

    compares: Annotated[tuple[Compare, ...], Count(COMPARES_COUNT_MAX)] = ()
    then: Annotated[tuple[Operation, ...], Count(OPERATIONS_COUNT_MAX)] = ()
    otherwise: Annotated[tuple[Operation, ...], Count(OPERATIONS_COUNT_MAX)] = ()


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireLease(Exact):
    """Hold a name for a while. Answered by LeaseDone with a token higher than any lease had before.

    Its own holder is given a new token as well, and the old one ends: a process that was started again does
    not share one with the process before.
    """

    TAG: ClassVar[int] = 158

    name: LeaseName
    holder: PeerId
    ttl_ms: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class RenewLease(Exact):
    """Hold it for `ttl_ms` from now on. Answered by LeaseDone, or refused if the lease was lost."""

    TAG: ClassVar[int] = 159

    name: LeaseName
    token: int
    ttl_ms: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLease(Exact):
    """End a lease, with the keys attached to it. Answered by LeaseDone, or refused if the lease was lost."""

    TAG: ClassVar[int] = 160

    name: LeaseName
    token: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseFormat(Exact):
    """From here on commands of the next format are applied. Answered by FormatDone.

    To be proposed only once every member's software knows that format: one that does not stops here.
    """

    TAG: ClassVar[int] = 161

    format: Annotated[int, Between(1, FORMAT_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCommand(Exact):
    """Any of the above, with the format that it is written for."""

    TAG: ClassVar[int] = 162

    format: Annotated[int, Between(1, FORMAT_MAX)]
    command: Annotated[bytes, Size(COMMAND_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue(Exact):
    """A key as it is."""

    TAG: ClassVar[int] = 163

    key: Key
    value: Annotated[bytes, Size(VALUE_SIZE_BYTES_MAX)]
    created: int
    modified: int
    version: int
    lease: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Exact):
    """What a Get found, in the order of the keys."""

    TAG: ClassVar[int] = 164

    items: Annotated[tuple[KeyValue, ...], Count(FOUND_COUNT_MAX)]
    is_complete: bool
    """There are no more than these."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(Exact):
    """How many keys a Put, Delete or EditModel changed."""

    TAG: ClassVar[int] = 165

    count: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionDone(Exact):
    """A transaction happened."""

    TAG: ClassVar[int] = 166

    succeeded: bool
    """Whether the compares held."""
    revision: int
    """Of the metadata after it; a transaction that changes nothing leaves it as it was."""
    answers: Annotated[tuple[Found | Changed, ...], Count(OPERATIONS_COUNT_MAX)]
    """One for each operation, in their order."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseDone(Exact):
    """A lease was acquired, renewed or released."""

    TAG: ClassVar[int] = 167

    token: int
    time_ms: int
    """The log's time."""
    expires_ms: int
    """When the lease ends unless it is renewed, in the log's time; after a release, the time of that."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class FormatDone(Exact):
    """The metadata has this format now."""

    TAG: ClassVar[int] = 168

    format: int
