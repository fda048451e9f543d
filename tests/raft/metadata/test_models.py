"""The registry: edits that knew each other replace, edits that crossed are resolved by rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import CommandRefused, Retry
from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.clocks import Order, VersionVector
from p2pinfer.raft.metadata.commands import delete, edit_model, next_version, put_setting, transaction
from p2pinfer.raft.metadata.models import edited, newest
from p2pinfer.raft.metadata.reading import Model
from p2pinfer.wire.messages.metadata import ConflictRule
from p2pinfer.wire.messages.metadata_values import Label, ModelRecord, ModelVersion, VectorCount
from tests.raft.metadata.replica import ANNA, BERT, CARL, Replica

NAME = ("smollm2", "135m")
KEEP, NEWEST, MERGE = ConflictRule.KEEP_BOTH, ConflictRule.NEWEST, ConflictRule.MERGE


def version(
    editor: PeerId = ANNA, manifest: int = 1, at: int = 0, *known: ModelVersion, **labels: str
) -> ModelVersion:
    return next_version(editor, bytes([manifest]) * 32, known=known, edited_ms=at, labels=labels)


def model_of(replica: Replica) -> Model:
    model = replica.view.model(*NAME)
    assert model is not None
    return model


def test_an_edit_in_knowledge_of_another_replaces_it() -> None:
    replica = Replica()
    first = version(ANNA, 1)
    replica.do(edit_model(NAME, first))
    second = version(BERT, 2, 0, first)
    replica.do(edit_model(NAME, second))
    assert model_of(replica).versions == (second,)
    assert not model_of(replica).is_contested


def test_edits_that_crossed_stay_beside_each_other_until_one_knows_both() -> None:
    replica = Replica()
    replica.time_ms = 100
    one, other = version(ANNA, 1, 5), version(BERT, 2, 9)
    for each in (one, other):
        replica.do(edit_model(NAME, each))
    assert model_of(replica).versions == (other, one)
    assert model_of(replica).is_contested
    assert model_of(replica).newest == other
    decided = version(CARL, 3, 0, *model_of(replica).versions)
    replica.do(edit_model(NAME, decided))
    assert model_of(replica).versions == (decided,)


@pytest.mark.parametrize("is_swapped", [False, True])
def test_the_newest_wins_whoever_comes_first_and_knows_the_others_edit(is_swapped: bool) -> None:
    replica = Replica()
    replica.time_ms = 100
    one, other = version(ANNA, 1, 5, a="1"), version(BERT, 2, 9, b="2")
    for each in (other, one) if is_swapped else (one, other):
        replica.do(edit_model(NAME, each, NEWEST))
    (kept,) = model_of(replica).versions
    assert (kept.manifest, kept.editor, kept.labels) == (bytes([2]) * 32, BERT, (Label("b", "2"),))
    assert VersionVector.of(kept.vector).counts == ((ANNA, 1), (BERT, 1))
    assert replica.refusal(transaction(then=[edit_model(NAME, one)])).code == "superseded"


@pytest.mark.parametrize("is_swapped", [False, True])
def test_merging_takes_the_labels_of_both_and_the_newest_where_they_differ(is_swapped: bool) -> None:
    replica = Replica()
    replica.time_ms = 100
    one, other = version(ANNA, 1, 9, a="1", both="new"), version(BERT, 2, 5, b="2", both="old")
    for each in (other, one) if is_swapped else (one, other):
        replica.do(edit_model(NAME, each, MERGE))
    (kept,) = model_of(replica).versions
    assert kept.manifest == bytes([1]) * 32
    assert kept.labels == (Label("a", "1"), Label("b", "2"), Label("both", "new"))


def test_versions_stand_in_one_order_however_they_came() -> None:
    replica, other = Replica(), Replica()
    edits = [version(ANNA, 1, 5), version(BERT, 2, 9), version(CARL, 3, 7)]
    for each, order in ((replica, (0, 1, 2)), (other, (2, 0, 1))):
        each.time_ms = 100
        for place in order:
            each.do(edit_model(NAME, edits[place]))
    assert model_of(replica).versions == model_of(other).versions == (edits[1], edits[2], edits[0])


def test_the_swarms_setting_says_what_an_edit_does_not() -> None:
    replica = Replica()
    replica.do(put_setting("models.conflicts", "newest"))
    for each in (version(ANNA, 1), version(BERT, 2)):
        replica.do(edit_model(NAME, each))
    assert not model_of(replica).is_contested
    replica.do(edit_model(NAME, version(CARL, 3), KEEP))
    assert model_of(replica).is_contested


def test_an_edit_that_comes_twice_is_one_and_one_out_of_date_is_refused() -> None:
    replica = Replica()
    first = version(ANNA, 1)
    assert replica.do(edit_model(NAME, first)).answers[0].count == 1  # type: ignore[union-attr]
    revision = replica.view.revision
    assert replica.do(edit_model(NAME, first)).answers[0].count == 0  # type: ignore[union-attr]
    assert replica.view.revision == revision
    replica.do(edit_model(NAME, version(BERT, 2, 0, first)))
    refused = replica.refusal(transaction(then=[edit_model(NAME, first)]))
    assert (refused.code, refused.retry) == ("superseded", Retry.REREAD)


def test_a_peer_that_lost_count_is_told_and_nothing_is_lost() -> None:
    """Its disk was wiped, so it numbers another edit as one that it made before."""
    replica = Replica()
    replica.do(edit_model(NAME, version(ANNA, 1)))
    refused = replica.refusal(transaction(then=[edit_model(NAME, version(ANNA, 2))]))
    assert (refused.code, refused.retry) == ("vector_used", Retry.REREAD)
    replica.do(edit_model(NAME, version(ANNA, 2, 0, *model_of(replica).versions)))
    assert model_of(replica).newest.manifest == bytes([2]) * 32


def test_a_withdrawn_model_is_not_brought_back_by_an_old_edit() -> None:
    replica = Replica()
    first = version(ANNA, 1)
    replica.do(edit_model(NAME, first))
    replica.do(edit_model(NAME, next_version(BERT, b"", known=[first], edited_ms=0)))
    assert model_of(replica).is_withdrawn
    assert replica.refused(edit_model(NAME, first)) == "superseded"
    replica.do(delete("model/smollm2:135m"))
    assert replica.view.model(*NAME) is None


def test_a_stamp_from_the_future_is_cut_to_the_logs_time() -> None:
    replica = Replica()
    replica.time_ms = 50
    replica.do(edit_model(NAME, version(ANNA, 1, 1 << 60), NEWEST))
    replica.time_ms = 60
    replica.do(edit_model(NAME, version(BERT, 2, 55), NEWEST))
    assert model_of(replica).newest.editor == BERT


def test_eight_versions_stand_beside_each_other_and_no_ninth() -> None:
    replica = Replica()
    for number in range(8):
        replica.do(edit_model(NAME, version(PeerId(bytes([number]) * 32), number)))
    ninth = version(PeerId(bytes([9]) * 32), 9)
    refused = replica.refusal(transaction(then=[edit_model(NAME, ninth)]))
    assert (refused.code, refused.retry) == ("too_many_versions", Retry.REREAD)
    replica.do(edit_model(NAME, ninth, NEWEST))
    assert len(model_of(replica).versions) == 1


def test_versions_that_fill_a_value_refuse_another() -> None:
    replica = Replica()
    labels = {f"label-{number:02}": "x" * 256 for number in range(32)}
    for number in range(7):
        replica.do(edit_model(NAME, version(PeerId(bytes([number]) * 32), number, 0, **labels)))
    assert (
        replica.refused(edit_model(NAME, version(PeerId(bytes([8]) * 32), 8, 0, **labels)))
        == "model_too_large"
    )


def test_a_model_that_too_many_peers_edited_takes_no_more() -> None:
    peers = [PeerId(bytes([number]) * 32) for number in range(65)]
    parts = tuple(VectorCount(peer, 1) for peer in peers[:64])
    before = ModelRecord((dataclasses.replace(version(peers[0]), vector=parts),))
    with pytest.raises(CommandRefused) as refused:
        edited("model/a:b", before, version(peers[64]), NEWEST, 0)
    assert refused.value.code == "too_many_editors"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vector", ()),
        ("vector", (VectorCount(BERT, 1),)),
        ("vector", (VectorCount(BERT, 1), VectorCount(ANNA, 1))),
        ("manifest", b"short"),
        ("labels", (Label("b", ""), Label("a", ""))),
        ("labels", (Label("a", ""), Label("a", ""))),
        ("labels", (Label("", ""),)),
    ],
)
def test_a_version_of_the_wrong_form_is_refused(field: str, value: Any) -> None:
    bad = dataclasses.replace(version(), **{field: value})
    assert Replica().refused(edit_model(NAME, bad)) == f"wrong_{field}"


@pytest.mark.parametrize(
    "name",
    [
        ("", "a"),
        ("a", ""),
        ("a:b", "c"),
        ("a", "b:c"),
        ("a b", "c"),
        ("a//b", "c"),
        ("../a", "b"),
        ("ä", "b"),
    ],
)
def test_a_name_that_is_none_is_refused(name: tuple[str, str]) -> None:
    assert Replica().refused(edit_model(name, version())) == "wrong_model"


peers = st.sampled_from([ANNA, BERT, CARL])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(peers, st.integers(0, 7), st.integers(0, 9), st.sampled_from([KEEP, NEWEST, MERGE])))
)
def test_what_stands_under_a_name_is_concurrent_and_knows_all_that_was_accepted(
    edits: list[tuple[PeerId, int, int, ConflictRule]],
) -> None:
    """Each editor knows some of what stands there, by the bits of `knows`, and all of its own edits."""
    record: ModelRecord | None = None
    accepted = VersionVector()
    last: dict[PeerId, int] = {}
    for number, (editor, knows, at, rule) in enumerate(edits):
        standing = record.versions if record else ()
        known = [each for place, each in enumerate(standing) if knows >> place & 1]
        vector = VersionVector()
        for each in known:
            vector = vector.merge(VersionVector.of(each.vector))
        vector = vector.advance(editor, last.get(editor, 0))
        new = dataclasses.replace(version(editor, number % 256, at), vector=vector.parts)
        record = edited("model/a:b", record, new, rule, 100)
        assert record is not None
        last[editor] = vector.count_of(editor)
        accepted = accepted.merge(vector)
        vectors = [VersionVector.of(each.vector) for each in record.versions]
        for place, one in enumerate(vectors):
            assert all(one.compare(other) is Order.CONCURRENT for other in vectors[place + 1 :])
        together = VersionVector()
        for each_vector in vectors:
            together = together.merge(each_vector)
        assert together == accepted
        if rule in (NEWEST, MERGE):
            assert newest(record.versions).edited_ms >= at
