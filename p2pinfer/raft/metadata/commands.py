"""A client's side of the metadata: commands as the bytes to propose, and results as what came of them.

    proposal = transaction(compares=[is_unchanged(key, modified)], then=[put_target(peer, model, span)])
    done = read_transaction(result)

Every function that makes a command may raise `LocalProtocolError`, where what it is given does not fit the
fields; what is wrong beyond that is refused by the replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from p2pinfer.effects import Message
from p2pinfer.errors import DecodeError
from p2pinfer.ids import PeerId, Span
from p2pinfer.raft.metadata.clocks import VersionVector
from p2pinfer.raft.metadata.sections import POLICY_KEY, revoked_key, rule_key, setting_key, target_key
from p2pinfer.raft.refusals import error_of
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.metadata import (
    AcquireLease,
    Compare,
    ConflictRule,
    Delete,
    EditModel,
    FormatDone,
    LeaseDone,
    MetadataCommand,
    Operation,
    Put,
    RaiseFormat,
    Relation,
    ReleaseLease,
    RenewLease,
    Target,
    Transaction,
    TransactionDone,
)
from p2pinfer.wire.messages.metadata_values import (
    AccessRule,
    Label,
    MembershipPolicy,
    ModelVersion,
    PlacementTarget,
    RevokedKey,
    SettingValue,
)
from p2pinfer.wire.messages.sessions import Refusal

__all__ = [
    "acquire_lease",
    "delete",
    "edit_model",
    "is_absent",
    "is_fenced_by",
    "is_unchanged",
    "next_version",
    "put_policy",
    "put_rule",
    "put_setting",
    "put_target",
    "raise_format",
    "read_format",
    "read_lease",
    "read_transaction",
    "release_lease",
    "renew_lease",
    "revoke_key",
    "transaction",
]

M = TypeVar("M", bound=Message)

_FORMAT = 1
"""The format that has all the commands below."""


def transaction(
    *,
    compares: Sequence[Compare] = (),
    then: Sequence[Operation] = (),
    otherwise: Sequence[Operation] = (),
) -> bytes:
    """Return the command: if all compares hold do `then`, else `otherwise`, whole or not at all."""
    return _command(
        Transaction(compares=tuple(compares), then=tuple(then), otherwise=tuple(otherwise)),
    )


def is_unchanged(key: str, modified: int) -> Compare:
    """Return the condition that a key is as it was read, with this `modified` revision; 0 for absent."""
    return Compare(key=key, target=Target.MODIFIED, relation=Relation.EQUAL, number=modified)


def is_absent(key: str) -> Compare:
    """Return the condition that nothing stands under a key."""
    return is_unchanged(key, 0)


def is_fenced_by(lease: str, token: int) -> Compare:
    """Return the condition that a lease is still held by this token."""
    return Compare(key=lease, target=Target.TOKEN, relation=Relation.EQUAL, number=token)


def put_target(peer: PeerId, model: str, span: Span) -> Put:
    """Return the operation that tells a peer which layers of a model (NAME:TAG) to hold."""
    value = PlacementTarget(peer=peer, model=model, span=span)
    return Put(key=target_key(peer, model), value=encode(value))


def put_policy(policy: MembershipPolicy) -> Put:
    """Return the operation that says who may join."""
    return Put(key=POLICY_KEY, value=encode(policy))


def revoke_key(public_key: bytes, reason: str = "") -> Put:
    """Return the operation after which a key's word counts no more."""
    return Put(key=revoked_key(public_key), value=encode(RevokedKey(public_key=public_key, reason=reason)))


def put_rule(name: str, rule: AccessRule) -> Put:
    """Return the operation that sets an access rule."""
    return Put(key=rule_key(name), value=encode(rule))


def put_setting(name: str, text: str) -> Put:
    """Return the operation that sets a setting for all."""
    return Put(key=setting_key(name), value=encode(SettingValue(text)))


def edit_model(
    model: tuple[str, str],
    version: ModelVersion,
    rule: ConflictRule = ConflictRule.SETTING,
) -> EditModel:
    """Return the operation that registers a version under a name and tag; `next_version` makes versions."""
    return EditModel(name=model[0], tag=model[1], version=version, rule=rule)


def next_version(
    editor: PeerId,
    manifest: bytes,
    *,
    known: Iterable[ModelVersion] = (),
    edited_ms: int,
    labels: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Return the version that a peer makes in knowledge of others, which it replaces.

    Args:
        editor: The peer; it makes one edit of a model at a time.
        manifest: The SHA-256 of the model's manifest; empty to withdraw the model.
        known: The versions that the peer has read.
        edited_ms: The peer's time, in milliseconds since the Unix epoch.
        labels: Properties of the model by name.
    """
    vector = VersionVector()
    for each in known:
        vector = vector.merge(VersionVector.of(each.vector))
    return ModelVersion(
        vector=vector.advance(editor).parts,
        editor=editor,
        manifest=manifest,
        edited_ms=edited_ms,
        labels=tuple(Label(name, value) for name, value in sorted((labels or {}).items())),
    )


def delete(key: str, *, is_prefix: bool = False) -> Delete:
    """Return the operation that deletes a key, or all that begin so."""
    return Delete(key=key, is_prefix=is_prefix)


def acquire_lease(name: str, holder: PeerId, ttl_ms: int) -> bytes:
    """Return the command that gives a name to a peer, with a fencing token."""
    return _command(AcquireLease(name=name, holder=holder, ttl_ms=ttl_ms))


def renew_lease(name: str, token: int, ttl_ms: int) -> bytes:
    """Return the command that lets a lease last from now on."""
    return _command(RenewLease(name=name, token=token, ttl_ms=ttl_ms))


def release_lease(name: str, token: int) -> bytes:
    """Return the command that ends a lease."""
    return _command(ReleaseLease(name=name, token=token))


def raise_format(format_next: int) -> bytes:
    """Return the command that brings the next format; first see that every member's software knows it."""
    return _command(RaiseFormat(format=format_next))


def read_transaction(result: bytes) -> TransactionDone:
    """Return what a transaction did.

    Raises:
        CommandRefused: It could not be done, and nothing happened; `retry` says what helps.
        DecodeError: It is the result of something else.
    """
    return _read(result, TransactionDone)


def read_lease(result: bytes) -> LeaseDone:
    """Return what became of a lease; raises as `read_transaction` does."""
    return _read(result, LeaseDone)


def read_format(result: bytes) -> FormatDone:
    """Return the format that was reached; raises as `read_transaction` does."""
    return _read(result, FormatDone)


def _command(message: Message) -> bytes:
    return encode(MetadataCommand(format=_FORMAT, command=encode(message)))


def _read(result: bytes, kind: type[M]) -> M:
    message = decode(result)
    if isinstance(message, Refusal):
        raise error_of(message)
    if not isinstance(message, kind):
        raise DecodeError(f"a {kind.__name__} was expected, not a {type(message).__name__}")
    return message
