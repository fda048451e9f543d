"""Which configuration follows on which, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.raft.confchange import leave_joint, plan_change
from p2pinfer.raft.packing import decode_configuration, encode_configuration
from p2pinfer.raft.types import Change, ChangeKind, Configuration
from tests.raft.cluster import contact, member

THREE = Configuration.of(member(1), member(2), member(3), learners=(member(4),))


def add(node: int) -> Change:
    return Change(ChangeKind.ADD_VOTER, node, contact(node))


def planned(before: Configuration, *changes: Change) -> Configuration:
    after = plan_change(before, changes)
    assert isinstance(after, Configuration), after
    return after


def test_a_new_voter_comes_through_a_joint_configuration() -> None:
    joint = planned(THREE, add(5))
    assert (joint.voters, joint.outgoing, joint.learners) == ((1, 2, 3, 5), (1, 2, 3), (4,))
    after = leave_joint(joint)
    assert (after.voters, after.outgoing, after.nodes) == ((1, 2, 3, 5), (), (1, 2, 3, 4, 5))


def test_a_removed_voter_gets_entries_until_the_joint_configuration_is_left() -> None:
    joint = planned(THREE, Change(ChangeKind.REMOVE, 1))
    assert (joint.voters, joint.outgoing, joint.nodes) == ((2, 3), (1, 2, 3), (1, 2, 3, 4))
    assert leave_joint(joint).nodes == (2, 3, 4)


def test_a_demoted_voter_learns_only_after_the_joint_configuration() -> None:
    joint = planned(THREE, Change(ChangeKind.ADD_LEARNER, 1))
    assert (joint.learners, joint.learners_next, joint.outgoing) == ((4,), (1,), (1, 2, 3))
    after = leave_joint(joint)
    assert (after.voters, after.learners, after.learners_next) == ((2, 3), (1, 4), ())


def test_a_promoted_learner_votes_in_the_incoming_half() -> None:
    joint = planned(THREE, Change(ChangeKind.ADD_VOTER, 4))
    assert (joint.voters, joint.learners) == ((1, 2, 3, 4), ())


def test_everything_may_be_replaced_at_once() -> None:
    changes = [add(node) for node in (7, 8, 9)] + [Change(ChangeKind.REMOVE, node) for node in (1, 2, 3)]
    joint = planned(THREE, *changes)
    assert (joint.voters, joint.outgoing) == ((7, 8, 9), (1, 2, 3))
    assert leave_joint(joint).nodes == (4, 7, 8, 9)


@pytest.mark.parametrize(
    "change",
    [
        Change(ChangeKind.ADD_LEARNER, 5, contact(5)),
        Change(ChangeKind.REMOVE, 4),
        Change(ChangeKind.UPDATE, 1, contact(9)),
    ],
)
def test_what_changes_no_voter_needs_no_joint_configuration(change: Change) -> None:
    after = planned(THREE, change)
    assert not after.is_joint
    assert after.voters == THREE.voters


def test_another_contact_promotes_nobody() -> None:
    after = planned(THREE, Change(ChangeKind.UPDATE, 4, contact(40)))
    assert (after.voters, after.learners, after.contact_of(4)) == ((1, 2, 3), (4,), contact(40))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([Change(ChangeKind.REMOVE, 9)], "does not belong"),
        ([Change(ChangeKind.UPDATE, 9, contact(9))], "does not belong"),
        ([Change(ChangeKind.UPDATE, 1)], "needs a contact"),
        ([Change(ChangeKind.ADD_VOTER, 9)], "needs a contact"),
        ([Change(ChangeKind.ADD_VOTER, 0, contact(1))], "no node id"),
        ([Change(ChangeKind.REMOVE, node) for node in (1, 2, 3)], "no voter would remain"),
        ([Change(ChangeKind.ADD_LEARNER, node) for node in (1, 2, 3)], "no voter would remain"),
        ([add(5), Change(ChangeKind.REMOVE, 5)], "changed twice"),
        ([Change(ChangeKind.ADD_VOTER, 1)], "nothing would change"),
        ([], "nothing would change"),
        ([Change(ChangeKind.ADD_LEARNER, node, contact(node)) for node in range(10, 300)], "at most"),
    ],
)
def test_a_change_without_sense_is_refused_with_its_reason(changes: list[Change], reason: str) -> None:
    refused = plan_change(THREE, changes)
    assert isinstance(refused, str)
    assert reason in refused


def test_a_joint_configuration_is_not_changed() -> None:
    assert plan_change(planned(THREE, add(5)), [add(6)]) == "another change of the membership is under way"


changes_drawn = st.lists(
    st.builds(Change, st.sampled_from(ChangeKind), st.integers(1, 6), st.integers(1, 6).map(contact)),
    max_size=4,
)


@given(st.lists(changes_drawn, max_size=5))
def test_however_it_changes_a_configuration_is_sound_and_survives_the_log(steps: list[list[Change]]) -> None:
    configuration = THREE
    for changes in steps:
        after = plan_change(configuration, changes)
        if isinstance(after, str):
            continue
        assert decode_configuration(encode_configuration(after)) == after
        if after.is_joint:
            assert after.outgoing == configuration.voters
            after = leave_joint(after)
            assert decode_configuration(encode_configuration(after)) == after
        else:
            assert after.voters == configuration.voters
        assert after.voters
        assert not set(after.voters) & set(after.learners)
        assert after.nodes == tuple(sorted({*after.voters, *after.learners}))
        configuration = after
