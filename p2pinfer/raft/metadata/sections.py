"""The sections of the metadata: which keys there are, and what may stand under each.

Rules:

1. A key's section is what stands before its first slash. Each has one kind of value, whose form is checked
   before it is written, so that whoever reads finds nothing else.
2. The table below is a part of the format: a new section, or a value of another form, comes with a new format
   (`wire/messages/metadata.py`), and is refused by all replicas before that.
3. What a rule or a setting means is nobody's business here, but for the one setting that the registry reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from p2pinfer.effects import Message
from p2pinfer.errors import CommandRefused, DecodeError
from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.models import CONFLICT_RULES
from p2pinfer.wire.codec import decode
from p2pinfer.wire.messages.metadata_values import (
    AccessRule,
    MembershipPolicy,
    ModelRecord,
    PlacementTarget,
    RevokedKey,
    SettingValue,
)

__all__ = [
    "CONFLICTS_SETTING",
    "POLICY_KEY",
    "SECTIONS",
    "Section",
    "check_key",
    "check_lease_name",
    "check_value",
    "model_key",
    "revoked_key",
    "rule_key",
    "setting_key",
    "target_key",
]

POLICY_KEY = "policy/membership"
CONFLICTS_SETTING = "models.conflicts"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True)
class Section:
    """One section.

    Attributes:
        value_type: What its values are; None for any bytes.
        key_of: The key under which a value stands; None where the value does not say it.
        check: Looks at the key's rest and the value; returns what is wrong, or nothing.
        is_open: Whether Put writes it; the registry is written by EditModel alone.
        format: The first one that has this section.
    """

    value_type: type[Message] | None
    key_of: Callable[[Any], str] | None = None
    check: Callable[[str, Any], str] = lambda rest, value: ""
    is_open: bool = True
    format: int = 1


def model_key(name: str, tag: str) -> str:
    """Return where a model stands.

    Raises:
        CommandRefused: The name or tag is none.
    """
    parts = name.split("/")
    if not all(_is_name(part) for part in parts) or not _is_name(tag):
        raise CommandRefused(
            "wrong_key",
            f"{name!a} with {tag!a} names no model: both have letters, digits, dots, dashes and underscores, "
            "and the name slashes",
        )
    return f"model/{name}:{tag}"


def target_key(peer: PeerId, model: str) -> str:
    """Return where it stands which layers of a model (NAME:TAG) a peer shall hold."""
    return f"target/{peer}/{model}"


def revoked_key(public_key: bytes) -> str:
    """Return where it stands that a key is revoked."""
    return f"revoked/{public_key.hex()}"


def rule_key(name: str) -> str:
    """Return where an access rule stands."""
    return f"access/{name}"


def setting_key(name: str) -> str:
    """Return where a setting stands."""
    return f"setting/{name}"


def check_key(key: str) -> None:
    """Check that a key, or the beginning of keys, is printable ASCII without blanks: keys reach terminals.

    Raises:
        CommandRefused: It is not.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CommandRefused("wrong_key", "a key is printable ASCII without blanks")


def check_lease_name(name: str) -> None:
    """Check that a lease has a name that can be shown.

    Raises:
        CommandRefused: It has not.
    """
    check_key(name)
    if not name:
        raise CommandRefused("wrong_key", "a lease has a name")


def check_value(key: str, value: bytes, format_now: int) -> None:
    """Check that a value may be put under a key.

    Raises:
        CommandRefused: The key is none, or the value not of the form that its section has.
    """
    check_key(key)
    name, slash, rest = key.partition("/")
    section = SECTIONS.get(name)
    if section is None or not slash or not rest or section.format > format_now:
        raise CommandRefused(
            "wrong_key", f"{key} is in no section: {', '.join(SECTIONS)}, then a slash and a name"
        )
    if not section.is_open:
        raise CommandRefused("wrong_key", f"{key} is written by EditModel, which resolves edits that cross")
    if section.value_type is None:
        return
    try:
        read = decode(value)
    except DecodeError:
        read = None
    if type(read) is not section.value_type:
        raise CommandRefused("wrong_value", f"{key} takes a {section.value_type.__name__}")
    if section.key_of is not None and key != section.key_of(read):
        raise CommandRefused("wrong_key", f"this value stands under {section.key_of(read)}, not under {key}")
    problem = section.check(rest, read)
    if problem:
        raise CommandRefused("wrong_value", f"{key}: {problem}")


def _is_name(text: str) -> bool:
    return bool(text) and _NAME_CHARACTERS.issuperset(text) and text[0] != "."


def _is_line(text: str) -> bool:
    """Whether it can be shown in a line. `str.isprintable` would ask a table that differs between Pythons."""
    return not any(sign < " " or "\x7f" <= sign < "\xa0" or sign in "\u2028\u2029" for sign in text)


def _check_target(rest: str, value: PlacementTarget) -> str:
    name, _, tag = value.model.rpartition(":")
    if not all(_is_name(part) for part in name.split("/")) or not _is_name(tag):
        return "a model is named NAME:TAG"
    return ""


def _check_rule(rest: str, rule: AccessRule) -> str:
    if not _is_name(rest):
        return "a rule's name has letters, digits, dots, dashes and underscores"
    if not rule.actions or not rule.resources:
        return "a rule names at least one action and one resource"
    for word in (rule.subject, *rule.actions, *rule.resources):
        if not word or not word.isascii() or not word.isprintable() or " " in word or "*" in word[:-1]:
            return (
                "subject, actions and resources are words of printable ASCII, with a star at the end at most"
            )
    return ""


def _check_setting(rest: str, value: SettingValue) -> str:
    if not _is_name(rest):
        return "a setting's name has letters, digits, dots, dashes and underscores"
    if not _is_line(value.text):
        return "a setting is one line of text"
    if rest == CONFLICTS_SETTING and value.text not in CONFLICT_RULES:
        return f"it is one of {', '.join(CONFLICT_RULES)}"
    return ""


def _check_revoked(rest: str, value: RevokedKey) -> str:
    return "" if _is_line(value.reason) else "a reason is one line of text"


SECTIONS: dict[str, Section] = {
    "model": Section(ModelRecord, is_open=False),
    "target": Section(PlacementTarget, lambda value: target_key(value.peer, value.model), _check_target),
    "policy": Section(MembershipPolicy, lambda value: POLICY_KEY),
    "revoked": Section(RevokedKey, lambda value: revoked_key(value.public_key), _check_revoked),
    "access": Section(AccessRule, check=_check_rule),
    "setting": Section(SettingValue, check=_check_setting),
    "app": Section(None),
}
"""By name. An entry is never changed once a format has it."""
