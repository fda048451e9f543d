"""Transactions: all or nothing, as etcd's Txn, against a twin that is as dumb as can be."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import CommandRefused, Retry
from p2pinfer.raft.metadata.commands import (
    delete,
    is_absent,
    is_fenced_by,
    is_unchanged,
    read_transaction,
    transaction,
)
from p2pinfer.wire.messages.metadata import (
    Changed,
    Compare,
    Delete,
    Found,
    Get,
    KeyValue,
    Operation,
    Put,
    Relation,
    Target,
)
from tests.raft.metadata.replica import SMALL, Replica, get, put


def test_a_key_knows_its_revisions_and_how_often_it_was_put() -> None:
    """etcd: create_revision, mod_revision, version; a deleted key begins anew."""
    replica = Replica()
    for value in (b"a", b"b"):
        replica.do(put("x", value))
    replica.do(put("y"))
    assert replica.view.get("app/x") == (b"b", 1, 2, 2, 0)
    replica.do(delete("app/x"))
    replica.do(put("x", b"c"))
    assert replica.view.get("app/x") == (b"c", 5, 5, 1, 0)


def test_compare_and_swap() -> None:
    replica = Replica()
    done = replica.do(put("x", b"a"), compares=[is_absent("app/x")])
    assert (done.succeeded, done.revision, done.answers) == (True, 1, (Changed(count=1),))
    lost = replica.do(put("x", b"b"), compares=[is_absent("app/x")], otherwise=[get("x")])
    assert (lost.succeeded, lost.revision) == (False, 1)
    (found,) = lost.answers
    assert found == Found(
        items=(KeyValue(key="app/x", value=b"a", created=1, modified=1, version=1, lease=0),),
        is_complete=True,
    )
    assert replica.do(put("x", b"b"), compares=[is_unchanged("app/x", 1)]).succeeded
    assert replica.all == {"app/x": b"b"}


def test_operations_see_those_before_them_and_compares_see_none() -> None:
    replica = Replica()
    replica.do(put("a/1"), put("a/2"))
    done = replica.do(
        put("a/3", b"new"),
        delete("app/a/1"),
        get("a/", is_prefix=True),
        get("a/1"),
        compares=[is_absent("app/a/3")],
    )
    seen, gone = done.answers[2:]
    assert isinstance(seen, Found)
    assert [item.key for item in seen.items] == ["app/a/2", "app/a/3"]
    assert seen.items[1].modified == done.revision == 2
    assert gone == Found(items=(), is_complete=True)


def test_nothing_happens_if_anything_is_refused() -> None:
    replica = Replica()
    replica.do(put("x", b"a"))
    assert replica.refused(put("y"), delete("app/x"), put("z", lease=7)) == "lease_lost"
    assert replica.all == {"app/x": b"a"}


def test_a_transaction_that_changes_nothing_makes_no_revision() -> None:
    replica = Replica()
    replica.do(put("x"))
    assert replica.do(delete("app/y"), get("x")).revision == 1
    assert replica.do(delete("app/y", is_prefix=True)).answers == (Changed(count=0),)


def test_all_changes_of_a_transaction_are_one_revision() -> None:
    replica = Replica()
    assert replica.do(put("x"), put("y"), put("z")).revision == 1
    assert replica.do(delete("app/", is_prefix=True)).answers == (Changed(count=3),)
    assert replica.view.revision == 2


@pytest.mark.parametrize(
    "operations",
    [
        [put("x"), put("x")],
        [put("x"), delete("app/x")],
        [put("x"), delete("app/", is_prefix=True)],
        [delete("app/old"), put("old")],
    ],
)
def test_a_key_is_changed_once(operations: list[Operation]) -> None:
    replica = Replica()
    replica.do(put("old"))
    assert replica.refused(*operations) == "changed_twice"


def test_a_key_that_is_not_there_has_zeros_and_no_value() -> None:
    """etcd: comparing a value on a key that does not exist always fails."""
    replica = Replica()
    for relation in Relation:
        assert not replica.do(
            compares=[Compare(key="app/x", target=Target.VALUE, relation=relation)]
        ).succeeded
    for target in (Target.VERSION, Target.CREATED, Target.MODIFIED, Target.LEASE):
        assert replica.do(compares=[Compare(key="app/x", target=target, relation=Relation.EQUAL)]).succeeded


def test_a_compare_on_a_prefix_holds_if_it_holds_for_every_key() -> None:
    replica = Replica()
    replica.do(put("a/1"), put("a/2"))
    replica.do(put("a/2"))
    all_at = [
        Compare(key="app/a/", target=Target.VERSION, relation=relation, number=number, is_prefix=True)
        for relation, number in ((Relation.GREATER, 0), (Relation.LESS, 2), (Relation.EQUAL, 1))
    ]
    assert [replica.do(compares=[each]).succeeded for each in all_at] == [True, False, False]
    none = Compare(key="app/b/", target=Target.VERSION, relation=Relation.EQUAL, is_prefix=True)
    assert replica.do(compares=[none]).succeeded


def test_a_reading_of_many_keys_says_if_it_is_complete() -> None:
    replica = Replica()
    for number in range(5):
        replica.do(put(f"{number}"))
    for limit, count in ((4, 4), (5, 5), (6, 5)):
        (found,) = replica.do(get("", is_prefix=True, limit=limit)).answers
        assert isinstance(found, Found)
        assert (len(found.items), found.is_complete) == (count, limit >= 5)
    (drafted,) = replica.do(put("00"), delete("app/4"), get("", is_prefix=True, limit=5)).answers[2:]
    assert isinstance(drafted, Found)
    assert [item.key for item in drafted.items] == ["app/0", "app/00", "app/1", "app/2", "app/3"]
    assert drafted.is_complete


def test_a_transaction_fenced_by_a_lease_that_was_lost_does_nothing() -> None:
    replica = Replica()
    token = replica.acquire("writer").token
    assert replica.do(put("x", b"1"), compares=[is_fenced_by("writer", token)]).succeeded
    later = replica.acquire("writer").token
    assert not replica.do(put("x", b"2"), compares=[is_fenced_by("writer", token)]).succeeded
    assert replica.do(put("x", b"3"), compares=[is_fenced_by("writer", later)]).succeeded
    assert not replica.do(compares=[is_fenced_by("nobody", later)]).succeeded


def test_too_many_keys_and_too_many_bytes_are_refused_and_deleting_goes_on() -> None:
    replica = Replica(SMALL)
    for number in range(12):
        replica.do(put(f"{number:02}"))
    assert replica.refused(put("more")) == "too_many_keys"
    replica.do(put("00", b"other"))
    assert replica.refused(put("00", bytes(1200))) == "too_large"
    replica.do(put("swap"), delete("app/00"))
    replica.do(delete("app/01"), delete("app/02"))
    replica.do(put("more", bytes(900)))
    assert replica.refused(put("01", bytes(300))) == "too_large"
    replica.do(put("more", bytes(899)))


def test_what_prefixes_touch_and_return_is_bounded() -> None:
    replica = Replica(SMALL)
    for number in range(5):
        replica.do(put(f"{number}", bytes(80)))
    for operation in (delete("app/", is_prefix=True), get("", is_prefix=True)):
        assert replica.refused(operation) == "too_many_touched"
    assert replica.refused(get("", is_prefix=True, limit=3)) == "result_too_large"
    assert replica.refused(get("0"), get("1"), get("2")) == "result_too_large"
    done = replica.do(get("", is_prefix=True, limit=2), delete("app/0", is_prefix=True))
    assert done.answers[1] == Changed(count=1)
    prefix = Compare(key="app/", target=Target.VERSION, relation=Relation.EQUAL, is_prefix=True)
    assert replica.do(compares=[prefix]).succeeded is False
    assert replica.refused(compares=[prefix, prefix]) == "too_many_touched"


def test_refusals_say_what_helps() -> None:
    replica = Replica(SMALL)
    for number in range(12):
        replica.do(put(f"{number:02}"))
    with pytest.raises(CommandRefused, match="at most 12 keys: delete some") as refused:
        replica.do(put("more"))
    assert refused.value.retry is Retry.LATER
    assert replica.machine.statistics()["refused_too_many_keys"] == 1


# The twin: every key in a dictionary, copied whole before each transaction.

Twin = dict[str, tuple[bytes, int, int, int]]
KEYS = ("a", "ab", "b")
RELATIONS: dict[int, Callable[[Any, Any], bool]] = {
    Relation.EQUAL: operator.eq,
    Relation.NOT_EQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.GREATER: operator.gt,
}


def twin_holds(twin: Twin, compare: Compare) -> bool:
    named = [key for key in twin if key.startswith(compare.key)] if compare.is_prefix else [compare.key]
    results = []
    for key in named or [compare.key + "\x00"]:
        value, *numbers = twin.get(key, (None, 0, 0, 0))
        if compare.target == Target.VALUE:
            results.append(value is not None and RELATIONS[compare.relation](value, compare.value))
        else:
            at = {Target.CREATED: 0, Target.MODIFIED: 1, Target.VERSION: 2}[Target(compare.target)]
            results.append(RELATIONS[compare.relation](numbers[at], compare.number))
    return all(results)


def twin_do(twin: Twin, revision: int, operations: list[Operation]) -> tuple[Twin, list[object]]:
    after, answers, changed = dict(twin), list[object](), set[str]()
    for operation in operations:
        assert isinstance(operation, Put | Delete | Get)
        is_prefix = not isinstance(operation, Put) and operation.is_prefix
        keys = sorted(
            key for key in after if key == operation.key or (is_prefix and key.startswith(operation.key))
        )
        if isinstance(operation, Get):
            answers.append([(key, after[key][0]) for key in keys])
            continue
        targets = [operation.key] if isinstance(operation, Put) else keys
        if isinstance(operation, Delete) and not is_prefix:
            targets = [operation.key]
        if changed & set(targets):
            raise CommandRefused("changed_twice", "")
        for key in targets:
            before = after.pop(key, None)
            if isinstance(operation, Put):
                created, version = (before[1], before[3] + 1) if before else (revision, 1)
                after[key] = (operation.value, created, revision, version)
            if isinstance(operation, Put) or before is not None:
                changed.add(key)
        answers.append(len(targets) if isinstance(operation, Put) else len([k for k in targets if k in twin]))
    return after, answers


names = st.sampled_from(KEYS).map(lambda name: f"app/{name}")
values = st.sampled_from([b"", b"x", b"y"])
operations = st.one_of(
    st.builds(Put, key=names, value=values),
    st.builds(Delete, key=names, is_prefix=st.booleans()),
    st.builds(Get, key=names, is_prefix=st.booleans()),
)
compares = st.builds(
    Compare,
    key=names,
    target=st.sampled_from([Target.VALUE, Target.VERSION, Target.CREATED, Target.MODIFIED]),
    relation=st.sampled_from(list(Relation)),
    number=st.integers(0, 4),
    value=values,
    is_prefix=st.booleans(),
)
transactions = st.tuples(
    st.lists(compares, max_size=2), st.lists(operations, max_size=4), st.lists(operations, max_size=3)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(transactions, max_size=12))
def test_it_does_what_a_dumb_twin_does(
    log: list[tuple[list[Compare], list[Operation], list[Operation]]],
) -> None:
    replica = Replica()
    twin: Twin = {}
    revision = 0
    for conditions, then, otherwise in log:
        holds = all(twin_holds(twin, each) for each in conditions)
        command = transaction(compares=conditions, then=then, otherwise=otherwise)
        try:
            after, answers = twin_do(twin, revision + 1, then if holds else otherwise)
        except CommandRefused:
            assert replica.refusal(command).code == "changed_twice"
            continue
        done = read_transaction(replica.apply(command))
        revision += after != twin
        twin = after
        assert (done.succeeded, done.revision) == (holds, revision)
        assert answers == [
            each.count if isinstance(each, Changed) else [(item.key, item.value) for item in each.items]
            for each in done.answers
        ]
        records = {key: replica.view.get(key) for key in replica.view.keys("")}
        assert {key: tuple(record)[:4] for key, record in records.items() if record} == twin
