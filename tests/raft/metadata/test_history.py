"""Watching: every change once and in order, or an honest word that some are gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import LocalProtocolError
from p2pinfer.raft.metadata.commands import delete
from p2pinfer.raft.metadata.history import Change, Compacted
from p2pinfer.raft.metadata.reading import Watch
from tests.raft.metadata.replica import SMALL, Replica, put


def polled(watch: Watch, count_max: int = 256) -> list[Change]:
    changes = watch.poll(count_max)
    assert isinstance(changes, list)
    return changes


def test_a_watch_replays_from_a_revision_and_goes_on() -> None:
    replica = Replica()
    for value in (b"a", b"b"):
        replica.do(put("x", value))
    watch = replica.view.watch(revision=2)
    replica.do(delete("app/x"))
    changes = polled(watch)
    assert [(change.revision, change.key, change.record and change.record.value) for change in changes] == [
        (2, "app/x", b"b"),
        (3, "app/x", None),
    ]
    assert polled(watch) == []
    assert watch.revision == 4


def test_a_watch_sees_its_prefix_alone_and_nothing_before_it_began() -> None:
    replica = Replica()
    replica.do(put("a/1"))
    watch = replica.view.watch("app/a/")
    replica.do(put("b/1"), put("a/2"))
    replica.do(put("b/2"))
    assert [change.key for change in polled(watch)] == ["app/a/2"]
    assert watch.revision == 4


def test_a_revision_comes_whole() -> None:
    replica = Replica()
    replica.do(put("x"), put("y"), put("z"))
    replica.do(put("x"))
    watch = replica.view.watch(revision=1)
    assert [len(polled(watch, 1)) for _ in range(3)] == [3, 1, 0]


def test_what_is_gone_is_said_by_name_with_the_revision_to_start_from() -> None:
    replica = Replica(SMALL)
    watch = replica.view.watch(revision=1)
    for number in range(20):
        replica.do(put("x", b"%d" % number))
    assert replica.machine.statistics()["history"] == 8
    assert watch.poll() == Compacted(compacted=12, revision=20)
    replica.do(put("x", b"next"))
    assert [change.revision for change in polled(watch)] == [21]
    assert [change.revision for change in polled(replica.view.watch(revision=14))] == list(range(14, 22))
    assert replica.view.watch(revision=13).poll() == Compacted(compacted=13, revision=21)


def test_the_history_is_bounded_in_bytes_too_and_drops_whole_revisions() -> None:
    replica = Replica(SMALL)
    replica.do(put("x", bytes(350)), put("y", bytes(350)))
    replica.do(put("z", bytes(350)))
    assert [change.key for change in polled(replica.view.watch(revision=2))] == ["app/z"]
    assert replica.view.watch(revision=1).poll() == Compacted(compacted=1, revision=2)
    assert replica.machine.statistics()["history"] == 1


def test_a_restored_history_ends_where_it_did() -> None:
    replica = Replica(SMALL)
    for _ in range(3):
        replica.do(put("x", bytes(400)))
    other = replica.restored()
    for each in (replica, other):
        assert each.view.watch(revision=1).poll() == Compacted(compacted=1, revision=3)
        each.do(put("x", bytes(400)))
        assert each.machine.statistics()["history"] == 2


def test_a_revision_larger_than_the_history_leaves_none_and_that_is_said() -> None:
    replica = Replica(SMALL)
    watch = replica.view.watch()
    replica.do(put("x", bytes(1300)))
    assert watch.poll() == Compacted(compacted=1, revision=1)
    assert polled(watch) == []


def test_a_watch_goes_on_at_another_replica_and_through_a_restore() -> None:
    replica = Replica()
    watch = replica.view.watch()
    replica.do(put("x"))
    behind = replica.restored()
    elsewhere = behind.view.watch(revision=watch.revision)
    assert polled(elsewhere) == polled(watch)
    for _ in range(3):
        replica.do(put("x"))
    behind.machine.restore(b"".join(replica.machine.snapshot()))
    assert polled(elsewhere) == polled(watch) != []


def test_a_watch_is_told_when_the_metadata_was_set_back() -> None:
    replica = Replica()
    replica.do(put("x"))
    backup = b"".join(replica.machine.snapshot())
    for _ in range(4):
        replica.do(put("x"))
    watch = replica.view.watch()
    replica.machine.restore(backup)
    assert watch.poll() == Compacted(compacted=0, revision=1)
    replica.do(put("y"))
    assert [change.key for change in polled(watch)] == ["app/y"]


@pytest.mark.parametrize("revision", [-1, 0, 3])
def test_a_watch_begins_at_a_revision_that_is_there_or_next(revision: int) -> None:
    replica = Replica()
    replica.do(put("x"))
    replica.view.watch(revision=2)
    with pytest.raises(LocalProtocolError, match="from 1 to 2"):
        replica.view.watch(revision=revision)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=3, unique=True), st.booleans()), max_size=30),
    st.sets(st.integers(0, 30)),
    st.integers(1, 4),
)
def test_whoever_follows_a_watch_has_what_is_there(
    log: list[tuple[list[int], bool]], polls: set[int], count_max: int
) -> None:
    """A cache that reads the keys after Compacted and applies the changes otherwise."""
    replica = Replica(SMALL)
    watch, cache = replica.view.watch(), dict[str, bytes]()

    def follow() -> None:
        nonlocal cache
        while True:
            changes = watch.poll(count_max)
            if isinstance(changes, Compacted):
                assert changes.revision == replica.view.revision
                cache = replica.all
                continue
            if not changes:
                return
            for change in changes:
                if change.record is None:
                    del cache[change.key]
                else:
                    cache[change.key] = change.record.value

    for place, (names, deletes) in enumerate(log):
        keys = [f"{name}" for name in names]
        replica.do(*(delete(f"app/{key}") if deletes else put(key, b"%d" % place) for key in keys))
        if place in polls:
            follow()
            assert cache == replica.all
    follow()
    assert cache == replica.all
