"""Version vectors: the laws that make "edited in knowledge of" mean something (Parker et al. 1983)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.clocks import Order, VersionVector
from p2pinfer.wire.messages.metadata_values import VectorCount
from tests.raft.metadata.replica import ANNA, BERT, CARL

PEERS = (ANNA, BERT, CARL)
vectors = st.dictionaries(st.sampled_from(PEERS), st.integers(1, 3)).map(
    lambda counts: VersionVector(tuple(sorted(counts.items())))
)


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ({}, {}, Order.EQUAL),
        ({}, {ANNA: 1}, Order.BEFORE),
        ({ANNA: 2}, {ANNA: 1}, Order.AFTER),
        ({ANNA: 1}, {ANNA: 1, BERT: 1}, Order.BEFORE),
        ({ANNA: 1}, {BERT: 1}, Order.CONCURRENT),
        ({ANNA: 2, BERT: 1}, {ANNA: 1, BERT: 2}, Order.CONCURRENT),
        ({ANNA: 2, BERT: 1}, {ANNA: 2, BERT: 1}, Order.EQUAL),
    ],
)
def test_a_vector_is_before_another_if_no_count_is_higher(
    one: dict[PeerId, int], other: dict[PeerId, int], order: Order
) -> None:
    first, second = (VersionVector(tuple(sorted(counts.items()))) for counts in (one, other))
    assert first.compare(second) is order


@given(vectors, vectors, vectors)
def test_it_is_a_partial_order(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    assert a.is_within(a)
    assert (a.is_within(b) and b.is_within(a)) == (a == b)
    if a.is_within(b) and b.is_within(c):
        assert a.is_within(c)
    mirrored = {Order.BEFORE: Order.AFTER, Order.AFTER: Order.BEFORE}
    assert b.compare(a) is mirrored.get(a.compare(b), a.compare(b))


@given(vectors, vectors, vectors)
def test_merging_gives_the_least_vector_that_both_are_within(
    a: VersionVector, b: VersionVector, c: VersionVector
) -> None:
    merged = a.merge(b)
    assert a.is_within(merged)
    assert b.is_within(merged)
    if a.is_within(c) and b.is_within(c):
        assert merged.is_within(c)


@given(vectors, vectors, vectors)
def test_merging_knows_no_order_and_no_repetition(
    a: VersionVector, b: VersionVector, c: VersionVector
) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(b).merge(b) == a.merge(b)


@given(vectors, st.sampled_from(PEERS), st.integers(0, 5))
def test_an_edit_comes_after_all_that_its_editor_knew(
    vector: VersionVector, editor: PeerId, last: int
) -> None:
    edited = vector.advance(editor, last)
    assert edited.compare(vector) is Order.AFTER
    assert edited.count_of(editor) > max(last, vector.count_of(editor))


@given(vectors, vectors)
def test_two_edits_of_one_state_by_different_peers_are_concurrent(a: VersionVector, b: VersionVector) -> None:
    start = a.merge(b)
    assert start.advance(ANNA).compare(start.advance(BERT)) is Order.CONCURRENT


@given(vectors)
def test_it_travels(vector: VersionVector) -> None:
    assert VersionVector.of(vector.parts) == vector


@pytest.mark.parametrize("actors", [(BERT, ANNA), (ANNA, ANNA)])
def test_what_is_out_of_order_or_named_twice_is_no_vector(actors: tuple[PeerId, ...]) -> None:
    with pytest.raises(ValueError, match="sorted by peer"):
        VersionVector.of(VectorCount(actor, 1) for actor in actors)
