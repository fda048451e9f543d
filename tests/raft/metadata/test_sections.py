"""Sections: every key has a place, and under it stands what belongs there."""

from __future__ import annotations

import dataclasses

import pytest

from p2pinfer.effects import Message
from p2pinfer.ids import Span
from p2pinfer.raft.metadata.commands import (
    edit_model,
    next_version,
    put_policy,
    put_rule,
    put_setting,
    put_target,
    revoke_key,
    transaction,
)
from p2pinfer.raft.metadata.sections import SECTIONS, Section, target_key
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.metadata import Operation, Put
from p2pinfer.wire.messages.metadata_values import (
    AccessRule,
    MembershipPolicy,
    PlacementTarget,
    RevokedKey,
    SettingValue,
)
from tests.raft.metadata.replica import ANNA, BERT, Replica, put

RULE = AccessRule(subject="peer:*", actions=("generate",), resources=("model/*",), is_allowed=True)
POLICY = MembershipPolicy(admits=True, member_count_max=100)


def test_every_section_takes_its_values() -> None:
    replica = Replica()
    operations: list[Operation] = [
        edit_model(("org/smollm2", "135m"), next_version(ANNA, bytes(32), edited_ms=0)),
        put_target(ANNA, "org/smollm2:135m", Span(0, 10)),
        put_policy(POLICY),
        revoke_key(bytes(32), "lost"),
        put_rule("everybody", RULE),
        put_setting("balancer", "least-loaded"),
        put("anything", b"\x00\xff"),
    ]
    replica.do(*operations)
    assert sorted(key.partition("/")[0] for key in replica.all) == sorted(SECTIONS)


@pytest.mark.parametrize("key", ["app/a b", "app/ä", "app/\n", "app/\x7f"])
def test_a_key_that_cannot_be_shown_is_refused(key: str) -> None:
    assert Replica().refused(Put(key=key, value=b"")) == "wrong_key"


@pytest.mark.parametrize("key", ["", "app", "app/", "/x", "other/x", "App/x"])
def test_a_key_in_no_section_is_refused(key: str) -> None:
    assert Replica().refused(Put(key=key, value=b"")) == "wrong_section"


def test_the_registry_is_written_by_edits_alone() -> None:
    assert Replica().refused(Put(key="model/a:b", value=b"")) == "managed_key"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (target_key(BERT, "a:b"), PlacementTarget(peer=ANNA, model="a:b", span=Span(0, 1))),
        (target_key(ANNA, "a:b"), PlacementTarget(peer=ANNA, model="a:c", span=Span(0, 1))),
        ("policy/other", POLICY),
        (f"revoked/{'00' * 32}", RevokedKey(public_key=bytes([1]) * 32)),
    ],
)
def test_a_value_stands_under_the_key_that_it_names(key: str, value: Message) -> None:
    assert Replica().refused(Put(key=key, value=encode(value))) == "wrong_place"


@pytest.mark.parametrize(
    "operation",
    [
        Put(key="policy/membership", value=b""),
        Put(key="policy/membership", value=b"garbage"),
        Put(key="policy/membership", value=encode(SettingValue("x"))),
        Put(key="policy/membership", value=encode(POLICY) + b"\x00"),
        Put(key="policy/membership", value=b"\x92\xcc\xae\xc3"),
        put_target(ANNA, "nameless", Span(0, 1)),
        put_target(ANNA, ".a:c", Span(0, 1)),
        put_rule("a/b", RULE),
        put_rule("x", dataclasses.replace(RULE, subject="")),
        put_rule("x", dataclasses.replace(RULE, subject="two words")),
        put_rule("x", dataclasses.replace(RULE, subject="a*b")),
        put_rule("x", dataclasses.replace(RULE, actions=())),
        put_rule("x", dataclasses.replace(RULE, resources=())),
        put_rule("x", dataclasses.replace(RULE, actions=("ä",))),
        put_setting("a/b", "x"),
        put_setting("x", "two\nlines"),
        put_setting("x", "\x1b[31m"),
        put_setting("x", "a\u2028b"),
        put_setting("x", "\x9b31m"),
        put_setting("models.conflicts", "by chance"),
        revoke_key(bytes(32), "two\nlines"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(operation: Operation) -> None:
    assert Replica().refused(operation) == "wrong_value"


def test_a_setting_may_be_any_line_of_text() -> None:
    replica = Replica()
    for text in ("", "ä ß 日本", "\U0001fae9", 'a "quoted" word'):
        replica.do(put_setting("x", text))
        assert replica.view.setting("x") == text


def test_a_section_of_a_later_format_is_refused_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    command = transaction(then=[Put(key="later/x", value=b"")])
    by_old_software = Replica().apply(command)
    monkeypatch.setitem(SECTIONS, "later", Section(None, format=2))
    replica = Replica()
    assert replica.apply(command) == by_old_software
    replica.machine.state.format = 2
    replica.do(Put(key="later/x", value=b""))
