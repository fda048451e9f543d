"""Changes of the membership: what configuration follows on which.

Rules:

1. Whatever changes the voters goes through a joint configuration, in which both halves decide, so that no two
   disjoint majorities exist however many change at once (extended paper, section 6; thesis 4.3).
2. A voter that becomes a learner stays a voter until the joint configuration is left (etcd's
   `learners_next`).
3. What changes no voter needs no joint one: the majorities before and after are the same.
4. A joint configuration can only be left, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pinfer.ids import Contact
from p2pinfer.raft.types import Change, ChangeKind, Configuration, Member, NodeId
from p2pinfer.wire.messages.raft import MEMBER_COUNT_MAX, NODE_ID_MAX

__all__ = ["leave_joint", "plan_change"]


def plan_change(configuration: Configuration, changes: Sequence[Change]) -> Configuration | str:
    """Return the configuration to append, joint if voters change; or why the change is refused."""
    if configuration.is_joint:
        return "another change of the membership is under way"
    contacts = {each.node: each.contact for each in configuration.members}
    voters, learners = set(configuration.voters), set(configuration.learners)
    touched: set[NodeId] = set()
    for change in changes:
        if change.node in touched:
            return f"node {change.node} is changed twice"
        touched.add(change.node)
        reason = _apply(change, voters, learners, contacts)
        if reason:
            return reason
    return _joint(configuration, voters, learners, contacts)


def _apply(
    change: Change, voters: set[NodeId], learners: set[NodeId], contacts: dict[NodeId, Contact]
) -> str:
    """Do one change; return why it is refused, or nothing."""
    node, belongs = change.node, change.node in contacts
    if not 1 <= node <= NODE_ID_MAX:
        return f"{node} is no node id"
    if change.kind in (ChangeKind.REMOVE, ChangeKind.UPDATE) and not belongs:
        return f"node {node} does not belong to the cluster"
    if change.kind is ChangeKind.REMOVE:
        voters.discard(node)
        learners.discard(node)
        del contacts[node]
        return ""
    if change.contact is not None:
        contacts[node] = change.contact
    elif not belongs or change.kind is ChangeKind.UPDATE:
        return f"node {node} needs a contact"
    if change.kind is ChangeKind.ADD_VOTER:
        learners.discard(node)
        voters.add(node)
    elif change.kind is ChangeKind.ADD_LEARNER:
        voters.discard(node)
        learners.add(node)
    return ""


def _joint(
    before: Configuration, voters: set[NodeId], learners: set[NodeId], contacts: dict[NodeId, Contact]
) -> Configuration | str:
    if not voters:
        return "no voter would remain"
    old = set(before.voters)
    everybody = {**{each.node: each.contact for each in before.members if each.node in old}, **contacts}
    if len(everybody) > MEMBER_COUNT_MAX:
        return f"a cluster has at most {MEMBER_COUNT_MAX} members"
    changes_voters = voters != old
    demoted = learners & old
    after = Configuration(
        voters=tuple(sorted(voters)),
        outgoing=before.voters if changes_voters else (),
        learners=tuple(sorted(learners - demoted)),
        learners_next=tuple(sorted(demoted)),
        members=tuple(Member(node, everybody[node]) for node in sorted(everybody)),
    )
    return "nothing would change" if after == before else after


def leave_joint(joint: Configuration) -> Configuration:
    """Return what a joint configuration ends in."""
    learners = tuple(sorted({*joint.learners, *joint.learners_next}))
    stays = {*joint.voters, *learners}
    members = tuple(each for each in joint.members if each.node in stays)
    return replace(joint, outgoing=(), learners=learners, learners_next=(), members=members)
