"""Compare-and-swap: conditions on what is there, then one of two lists of operations, all or nothing.

Rules:

1. Compares see the keys before the transaction, operations what those before them in the list did.
2. A key is changed once in a list: what came first would be lost to every watcher.
3. Whatever cannot be done refuses the whole, and nothing happened.

Source: etcd's v3 API, Txn; as there a key that is not there has zeros and no value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from p2pinfer.raft.metadata.keyspace import ABSENT, Draft, KeySpace, Record
from p2pinfer.raft.metadata.leases import LeaseTable
from p2pinfer.raft.metadata.models import CONFLICT_RULES, check_version, edited
from p2pinfer.raft.metadata.sections import (
    CONFLICTS_SETTING,
    check_key,
    check_value,
    model_key,
    setting_key,
)
from p2pinfer.raft.refusals import refused
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.metadata import (
    VALUE_SIZE_BYTES_MAX,
    Changed,
    Compare,
    ConflictRule,
    Delete,
    EditModel,
    Found,
    Get,
    KeyValue,
    Operation,
    Put,
    Relation,
    Target,
    Transaction,
)
from p2pinfer.wire.messages.metadata_values import ModelRecord, SettingValue

__all__ = ["Evaluation", "record_of_message", "record_to_message"]

_RELATIONS: dict[int, Callable[[Any, Any], bool]] = {
    Relation.EQUAL: operator.eq,
    Relation.NOT_EQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.GREATER: operator.gt,
}


def record_to_message(key: str, record: Record) -> KeyValue:
    """Return a key as it travels, and as it stands in a snapshot."""
    return KeyValue(
        key=key,
        value=record.value,
        created=record.created,
        modified=record.modified,
        version=record.version,
        lease=record.lease,
    )


def record_of_message(item: KeyValue) -> Record:
    """Return what stands under a key that came in a message."""
    return Record(item.value, item.created, item.modified, item.version, item.lease)


class Evaluation:
    """One transaction, worked out on a draft that nobody has seen yet.

    Attributes:
        draft: What it would change.
        succeeded: Whether its compares held.
        answers: One for each operation that was done.
    """

    def __init__(self, space: KeySpace, leases: LeaseTable, format_now: int, time_ms: int) -> None:
        self._space = space
        self._leases = leases
        self._format = format_now
        self._time_ms = time_ms
        self._result_size_bytes = 0
        self.draft = Draft(space)
        self.succeeded = False
        self.answers: list[Found | Changed] = []

    def run(self, transaction: Transaction) -> None:
        """Work it out.

        Raises:
            CommandRefused: Some of it cannot be done: the draft is to be thrown away.
        """
        # Each is looked at: a condition that cannot be asked refuses the transaction wherever it stands.
        held = [self._holds(compare) for compare in transaction.compares]
        self.succeeded = all(held)
        for operation in transaction.then if self.succeeded else transaction.otherwise:
            self.answers.append(self._do(operation))
        self.draft.check_room()
        self._check_leases()

    def _holds(self, compare: Compare) -> bool:
        relation = _RELATIONS[compare.relation]
        check_key(compare.key)
        if compare.target == Target.TOKEN:
            lease = self._leases.get(compare.key)
            return relation(lease.token if lease else 0, compare.number)
        if compare.is_prefix:
            records = [self._space.get(key) for key in self.draft.keys(compare.key)] or [None]
        else:
            records = [self._space.get(compare.key)]
        return all(_holds_for(record, compare, relation) for record in records)

    def _do(self, operation: Operation) -> Found | Changed:
        match operation:
            case Put():
                check_value(operation.key, operation.value, self._format)
                return self._put(operation.key, operation.value, operation.lease)
            case Delete():
                return self._delete(operation)
            case EditModel():
                return self._edit(operation)
            case Get():
                return self._find(operation)

    def _put(self, key: str, value: bytes, lease: int) -> Changed:
        self._check_unchanged(key)
        self.draft.put(key, value, lease)
        return Changed(count=1)

    def _delete(self, operation: Delete) -> Changed:
        check_key(operation.key)
        keys = self.draft.keys(operation.key) if operation.is_prefix else [operation.key]
        for key in keys:
            self._check_unchanged(key)
        return Changed(count=sum([self.draft.delete(key) for key in keys]))

    def _edit(self, operation: EditModel) -> Changed:
        check_version(operation.version)
        key = model_key(operation.name, operation.tag)
        before = self.draft.get(key)
        rule = self._rule() if operation.rule == ConflictRule.SETTING else ConflictRule(operation.rule)
        versions = decode(before.value) if before else None
        after = edited(
            key,
            versions if isinstance(versions, ModelRecord) else None,
            operation.version,
            rule,
            self._time_ms,
        )
        if after is None:
            return Changed(count=0)
        value = encode(after)
        if len(value) > VALUE_SIZE_BYTES_MAX:
            raise refused("model_too_large", key, VALUE_SIZE_BYTES_MAX)
        return self._put(key, value, 0)

    def _rule(self) -> ConflictRule:
        record = self._space.get(setting_key(CONFLICTS_SETTING))
        value = decode(record.value) if record else None
        said = value.text if isinstance(value, SettingValue) else ""
        return CONFLICT_RULES.get(said, ConflictRule.KEEP_BOTH)

    def _find(self, operation: Get) -> Found:
        check_key(operation.key)
        is_complete = True
        if operation.is_prefix:
            keys = self.draft.keys(operation.key, operation.limit)
            is_complete = len(keys) == self.draft.count(operation.key)
        else:
            keys = [operation.key]
        items = []
        for key in keys:
            record = self.draft.get(key)
            if record is not None:
                items.append(record_to_message(key, record))
                self._result_size_bytes += len(key) + len(record.value) + 64
        if self._result_size_bytes > self._space.limits.result_size_bytes_max:
            raise refused("result_too_large", number=self._space.limits.result_size_bytes_max)
        return Found(items=tuple(items), is_complete=is_complete)

    def _check_unchanged(self, key: str) -> None:
        if key in self.draft.changes:
            raise refused("changed_twice", key)

    def _check_leases(self) -> None:
        """Check that every lease that gets keys is held, and has room for them."""
        more: dict[int, int] = {}
        for key, record in self.draft.changes.items():
            if record is not None and record.lease:
                before = self._space.get(key)
                is_new = before is None or before.lease != record.lease
                more[record.lease] = more.get(record.lease, 0) + is_new
        for token, count in more.items():
            self._leases.check_attach(token, count)


def _holds_for(record: Record | None, compare: Compare, relation: Callable[[Any, Any], bool]) -> bool:
    if compare.target == Target.VALUE:
        return record is not None and relation(record.value, compare.value)
    of = record or ABSENT
    number = {
        Target.VERSION: of.version,
        Target.CREATED: of.created,
        Target.MODIFIED: of.modified,
        Target.LEASE: of.lease,
    }[Target(compare.target)]
    return relation(number, compare.number)
