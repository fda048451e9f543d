"""Entries, proposals and configurations as bytes and back; garbage is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.errors import DecodeError
from p2pinfer.raft.confchange import plan_change
from p2pinfer.raft.packing import (
    configuration_of,
    decode_configuration,
    encode_configuration,
    pack_commands,
    pack_entries,
    record_of,
    unpack_commands,
    unpack_entries,
)
from p2pinfer.raft.types import Change, ChangeKind, Configuration, Entry, EntryKind
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.raft import TERM_MAX, ConfigurationRecord, MemberRecord
from tests.raft.cluster import contact, member

entry_lists = st.lists(
    st.tuples(st.integers(1, TERM_MAX), st.binary(max_size=40), st.sampled_from(EntryKind)), max_size=8
).map(
    lambda drawn: tuple(
        Entry(index, term, data, kind)
        for index, (term, data, kind) in enumerate(sorted(drawn, key=lambda each: each[0]), 5)
    )
)


@given(entry_lists)
def test_entries_come_back_as_they_were(entries: tuple[Entry, ...]) -> None:
    assert unpack_entries(pack_entries(entries), 5) == entries


@given(entry_lists, st.data())
def test_a_damaged_batch_is_refused_or_another_batch(entries: tuple[Entry, ...], data: st.DataObject) -> None:
    batch = pack_entries(entries)
    cut = data.draw(st.integers(0, len(batch)))
    try:
        found = unpack_entries(batch[:cut] + data.draw(st.binary(max_size=20)), 5)
    except DecodeError:
        return
    assert [each.index for each in found] == list(range(5, 5 + len(found)))
    assert [each.term for each in found] == sorted(each.term for each in found)


def test_terms_that_fall_or_exceed_the_message_are_refused() -> None:
    with pytest.raises(DecodeError, match="order"):
        unpack_entries(pack_entries((Entry(1, 3), Entry(2, 2))), 1)
    with pytest.raises(DecodeError, match="order"):
        unpack_entries(pack_entries((Entry(1, 3),)), 1, term_max=2)


def test_an_unknown_kind_is_refused() -> None:
    batch = bytearray(pack_entries((Entry(1, 1),)))
    batch[8] = 77
    with pytest.raises(DecodeError, match="not a batch"):
        unpack_entries(bytes(batch), 1)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_proposals_come_back_as_they_were(commands: list[bytes]) -> None:
    assert unpack_commands(pack_commands(commands), 8) == commands


@given(st.binary(max_size=60))
def test_garbage_is_no_batch_of_proposals_or_one_that_packs_to_it(garbage: bytes) -> None:
    try:
        commands = unpack_commands(garbage, 8)
    except DecodeError:
        return
    assert pack_commands(commands) == garbage


def test_too_many_proposals_are_refused() -> None:
    with pytest.raises(DecodeError, match="too many"):
        unpack_commands(pack_commands([b""] * 3), 2)


def test_a_joint_configuration_comes_back_as_it_was() -> None:
    before = Configuration.of(member(1), member(2), member(3), learners=(member(4),))
    changes = [
        Change(ChangeKind.REMOVE, 1),
        Change(ChangeKind.ADD_LEARNER, 2),
        Change(ChangeKind.ADD_VOTER, 4),
        Change(ChangeKind.ADD_VOTER, 9, contact(9)),
    ]
    joint = plan_change(before, changes)
    assert isinstance(joint, Configuration)
    assert joint.is_joint
    assert decode_configuration(encode_configuration(joint)) == joint
    assert configuration_of(record_of(before)) == before


@pytest.mark.parametrize(
    "roles",
    [
        {1: 0, 2: 1},
        {1: 5, 2: 1},
        {1: 8, 2: 1},
        {1: 9, 2: 1},
        {1: 4},
        {2: 1, 1: 1},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(roles: dict[int, int]) -> None:
    members = tuple(
        MemberRecord(node=node, contact=contact(node), roles=value) for node, value in roles.items()
    )
    with pytest.raises(DecodeError):
        configuration_of(ConfigurationRecord(members=members))


def test_another_message_is_no_configuration() -> None:
    other = MemberRecord(node=1, contact=contact(1), roles=1)
    with pytest.raises(DecodeError, match="something else"):
        decode_configuration(encode(other))
