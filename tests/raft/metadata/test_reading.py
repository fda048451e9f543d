"""Reading: each section as what it is, and never what is out of date."""

from __future__ import annotations

from p2pinfer.ids import Span
from p2pinfer.raft.metadata.commands import (
    delete,
    edit_model,
    next_version,
    put_policy,
    put_rule,
    put_setting,
    put_target,
    revoke_key,
)
from p2pinfer.raft.metadata.sections import POLICY_KEY, revoked_key, target_key
from p2pinfer.wire.messages.metadata_values import AccessRule, MembershipPolicy, RevokedKey
from tests.raft.metadata.replica import ANNA, BERT, Replica, put

POLICY = MembershipPolicy(admits=False, member_count_max=7)
RULE = AccessRule(subject="*", actions=("*",), resources=("*",), is_allowed=False)


def test_a_fresh_metadata_says_nothing() -> None:
    view = Replica().view
    assert (view.models(), view.targets(), view.rules(), view.settings()) == ({}, {}, {}, {})
    assert (view.policy(), view.setting("x"), view.model("a", "b"), view.lease("x")) == (None,) * 4
    assert (view.revoked(), view.leases(), view.keys(), view.get("app/x")) == (frozenset(), (), [], None)
    assert (view.revision, view.time_ms) == (0, 0)


def test_what_was_put_is_read_and_what_was_deleted_is_not() -> None:
    replica = Replica()
    view = replica.view
    version = next_version(ANNA, bytes(32), edited_ms=0, labels={"licence": "apache-2.0"})
    replica.do(
        edit_model(("a/b", "c"), version),
        put_target(ANNA, "a/b:c", Span(0, 3)),
        put_target(BERT, "a/b:c", Span(3, 6)),
        put_policy(POLICY),
        revoke_key(bytes(32)),
        revoke_key(bytes([1]) * 32),
        put_rule("nobody", RULE),
        put_setting("x", "1"),
    )
    assert {name: model.versions for name, model in view.models().items()} == {"a/b:c": (version,)}
    assert view.targets() == {(ANNA, "a/b:c"): Span(0, 3), (BERT, "a/b:c"): Span(3, 6)}
    assert view.targets(BERT) == {(BERT, "a/b:c"): Span(3, 6)}
    assert (view.policy(), view.rules(), view.settings()) == (POLICY, {"nobody": RULE}, {"x": "1"})
    assert view.revoked() == {bytes(32), bytes([1]) * 32}
    replica.do(delete(target_key(ANNA, "a/b:c")), delete(revoked_key(bytes(32))), delete(POLICY_KEY))
    assert view.targets() == {(BERT, "a/b:c"): Span(3, 6)}
    assert view.revoked() == {bytes([1]) * 32}
    assert view.policy() is None


def test_a_section_is_read_once_for_each_change_of_it() -> None:
    replica = Replica()
    replica.do(revoke_key(bytes(32)))
    before = replica.view._section("revoked", RevokedKey)
    replica.do(put("x"), put_setting("x", "1"))
    assert replica.view._section("revoked", RevokedKey) is before
    replica.do(revoke_key(bytes([1]) * 32))
    assert len(replica.view.revoked()) == 2


def test_a_view_follows_its_machine_through_a_restore() -> None:
    replica, other = Replica(), Replica()
    for each, number in ((replica, 1), (other, 2)):
        each.do(revoke_key(bytes([number]) * 32))
    assert replica.view.revoked() == {bytes([1]) * 32}
    replica.machine.restore(b"".join(other.machine.snapshot()))
    assert replica.view.revoked() == {bytes([2]) * 32}
    replica.machine.restore(b"".join(Replica().machine.snapshot()))
    assert replica.view.revoked() == set()
