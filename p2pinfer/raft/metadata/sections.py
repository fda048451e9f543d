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
from p2pinfer.errors import DecodeError
from p2pinfer.ids import PeerId
from p2pinfer.raft.metadata.models import CONFLICT_RULES
from p2pinfer.raft.refusals import refused
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
        is_sound: Looks at what follows the section in the key, and at the value.
        is_open: Whether Put writes it; the registry is written by EditModel alone.
        format: The first one that has this section.
    """

    value_type: type[Message] | None
    key_of: Callable[[Any], str] | None = None
    is_sound: Callable[[str, Any], bool] = lambda rest, value: True
    is_open: bool = True
    format: int = 1


def model_key(name: str, tag: str) -> str:
    """Return where a model stands.

    Raises:
        CommandRefused: The name or tag is none.
    """
    if not _is_model(f"{name}:{tag}"):
        raise refused("wrong_model", f"{name}:{tag}")
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
        raise refused("wrong_key", key)


def check_lease_name(name: str) -> None:
    """Check that a lease has a name that can be shown.

    Raises:
        CommandRefused: It has not.
    """
    check_key(name)
    if not name:
        raise refused("wrong_key")


def check_value(key: str, value: bytes, format_now: int) -> None:
    """Check that a value may be put under a key.

    Raises:
        CommandRefused: The key is none, or the value not of the form that its section has.
    """
    check_key(key)
    name, slash, rest = key.partition("/")
    section = SECTIONS.get(name)
    if section is None or not slash or not rest or section.format > format_now:
        raise refused("wrong_section", key)
    if not section.is_open:
        raise refused("managed_key", key)
    if section.value_type is None:
        return
    try:
        read = decode(value)
    except DecodeError:
        read = None
    if type(read) is not section.value_type:
        raise refused("wrong_value", key)
    if section.key_of is not None and key != section.key_of(read):
        raise refused("wrong_place", section.key_of(read))
    if not section.is_sound(rest, read):
        raise refused("wrong_value", key)


def _is_name(text: str) -> bool:
    return bool(text) and _NAME_CHARACTERS.issuperset(text) and text[0] != "."


def _is_line(text: str) -> bool:
    """Whether it can be shown in a line. `str.isprintable` would ask a table that differs between Pythons."""
    return not any(sign < " " or "\x7f" <= sign < "\xa0" or sign in "\u2028\u2029" for sign in text)


def _is_model(text: str) -> bool:
    name, _, tag = text.rpartition(":")
    return all(_is_name(part) for part in name.split("/")) and _is_name(tag)


def _is_rule(rest: str, rule: AccessRule) -> bool:
    words = (rule.subject, *rule.actions, *rule.resources)
    return _is_name(rest) and bool(rule.actions and rule.resources) and all(_is_word(each) for each in words)


def _is_word(text: str) -> bool:
    """Whether it is printable ASCII without blanks, with a star at the end at most."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text and "*" not in text[:-1]


def _is_setting(rest: str, value: SettingValue) -> bool:
    if rest == CONFLICTS_SETTING and value.text not in CONFLICT_RULES:
        return False
    return _is_name(rest) and _is_line(value.text)


SECTIONS: dict[str, Section] = {
    "model": Section(ModelRecord, is_open=False),
    "target": Section(
        PlacementTarget,
        key_of=lambda value: target_key(value.peer, value.model),
        is_sound=lambda _, value: _is_model(value.model),
    ),
    "policy": Section(MembershipPolicy, key_of=lambda value: POLICY_KEY),
    "revoked": Section(
        RevokedKey,
        key_of=lambda value: revoked_key(value.public_key),
        is_sound=lambda _, value: _is_line(value.reason),
    ),
    "access": Section(AccessRule, is_sound=_is_rule),
    "setting": Section(SettingValue, is_sound=_is_setting),
    "app": Section(None),
}
"""By name. An entry is never changed once a format has it."""
