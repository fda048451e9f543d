"""What records say survives its bytes, and other bytes are refused as such."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.raft.storage.contents import Bounds, StoredState
from p2pinfer.raft.storage.records import (
    decode_checkpoint,
    decode_meta,
    decode_write,
    encode_checkpoint,
    encode_meta,
    encode_write,
)
from p2pinfer.raft.types import (
    NODE_ID_MAX,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogWrite,
    Member,
    Snapshot,
    SnapshotMeta,
)

NUMBERS = st.integers(0, (1 << 62) - 1)
NODES = st.integers(1, NODE_ID_MAX)
NODE_TUPLES = st.lists(NODES, max_size=3).map(tuple)
CONTACTS = st.builds(
    Contact,
    st.none() | st.binary(min_size=32, max_size=32).map(PeerId),
    st.builds(Endpoint, st.text(st.characters(codec="utf-8"), max_size=10), st.integers(0, 65535)),
)
MEMBERS = st.lists(st.builds(Member, NODES, CONTACTS), max_size=3).map(tuple)
CONFIGURATIONS = st.builds(Configuration, NODE_TUPLES, NODE_TUPLES, NODE_TUPLES, NODE_TUPLES, MEMBERS)
METAS = st.builds(
    SnapshotMeta, NUMBERS, NUMBERS, CONFIGURATIONS, NUMBERS, st.binary(min_size=16, max_size=16)
)
HARD_STATES = st.builds(HardState, NUMBERS, st.none() | NODES, NUMBERS)
CONTENT = st.lists(st.tuples(NUMBERS, st.binary(max_size=20), st.sampled_from(EntryKind)), max_size=4)


@given(
    st.none() | METAS,
    st.none() | NUMBERS,
    st.tuples(NUMBERS, CONTENT),
    st.none() | NUMBERS,
    st.none() | HARD_STATES,
)
def test_a_write_survives_without_its_number_and_data(
    meta: SnapshotMeta | None,
    truncate_from: int | None,
    run: tuple[int, list[tuple[int, bytes, EntryKind]]],
    compact_to: int | None,
    hard_state: HardState | None,
) -> None:
    first, content = run
    entries = tuple(Entry(first + place, *values) for place, values in enumerate(content))
    snapshot = None if meta is None else Snapshot(meta, b"")
    found = decode_write(encode_write(LogWrite(9, snapshot, truncate_from, entries, compact_to, hard_state)))
    assert found == LogWrite(0, snapshot, truncate_from, entries, compact_to, hard_state)
    assert all(type(entry.kind) is EntryKind for entry in found.entries)


@given(METAS, HARD_STATES, NUMBERS, NUMBERS)
def test_a_checkpoint_and_a_meta_survive(
    meta: SnapshotMeta, hard_state: HardState, above: int, below: int
) -> None:
    bounds = Bounds(min(below, meta.index), meta.index, max(above, meta.index), hard_state.term)
    state = StoredState(bounds, hard_state, meta)
    assert decode_checkpoint(encode_checkpoint(state)) == state
    assert decode_meta(encode_meta(meta)) == meta


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers(-5, 1 << 63) | st.binary(max_size=5) | st.text(max_size=3) | st.floats(),
        lambda inner: st.lists(inner, max_size=6),
    ).map(msgpack.packb)
)
def test_other_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for decode in (decode_write, decode_checkpoint, decode_meta):
        try:
            decode(data)
        except ValueError:
            continue


def test_bounds_that_contradict_each_other_are_refused() -> None:
    state = StoredState(Bounds(5, 0, 3, 0), HardState(), None)
    with pytest.raises(ValueError, match="contradict"):
        decode_checkpoint(encode_checkpoint(state))
