"""What stands under the keys of a swarm's metadata, section by section, and how a snapshot holds it.

    model/NAME:TAG        ModelRecord          through EditModel alone
    target/PEER/MODEL     PlacementTarget      PEER in hexadecimal
    policy/membership     MembershipPolicy
    revoked/KEY           RevokedKey           KEY in hexadecimal
    access/NAME           AccessRule
    setting/NAME          SettingValue
    app/...               any bytes            for applications

Structures here are `Exact`, as commands are, and for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.ids import PeerId, Span
from p2pinfer.wire.schema import Between, Count, Exact, Exactly, Size, registered

__all__ = [
    "ACTORS_COUNT_MAX",
    "KEY_SIZE_BYTES_MAX",
    "VERSIONS_COUNT_MAX",
    "AccessRule",
    "Key",
    "Label",
    "MembershipPolicy",
    "ModelRecord",
    "ModelVersion",
    "PlacementTarget",
    "RevokedKey",
    "SavedChange",
    "SavedLease",
    "SavedMetadata",
    "SettingValue",
    "VectorCount",
]

KEY_SIZE_BYTES_MAX = 512
ACTORS_COUNT_MAX = 64
"""Peers that edited one version of a model, or one that it came from."""
VERSIONS_COUNT_MAX = 8
"""Versions of a model that stand beside each other until somebody decides."""

Key = Annotated[str, Size(KEY_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True)
class VectorCount(Exact):
    """One peer's part of a version vector: how many edits of its own are known."""

    TAG: ClassVar[int] = 169

    actor: PeerId
    count: Annotated[int, Between(1, (1 << 53) - 1)]


@registered
@dataclass(frozen=True, slots=True)
class Label(Exact):
    """A property of a model for people and programs: `licence` `apache-2.0`."""

    TAG: ClassVar[int] = 170

    name: Annotated[str, Size(64)]
    value: Annotated[str, Size(256)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion(Exact):
    """What one peer said that a model's name and tag stand for, in knowledge of what `vector` says."""

    TAG: ClassVar[int] = 171

    vector: Annotated[tuple[VectorCount, ...], Count(ACTORS_COUNT_MAX)]
    """A version vector, sorted by actor; the editor's own count is one that it never used before."""
    editor: PeerId
    manifest: Annotated[bytes, Size(32)]
    """The SHA-256 of the model's manifest; empty where the model was withdrawn."""
    edited_ms: int
    """By the editor's clock; never later than the log's time."""
    labels: Annotated[tuple[Label, ...], Count(32)] = ()
    """Sorted by name."""


@registered
@dataclass(frozen=True, slots=True)
class ModelRecord(Exact):
    """The versions of a model: one, or several of which none was edited in knowledge of another."""

    TAG: ClassVar[int] = 172

    versions: Annotated[tuple[ModelVersion, ...], Count(VERSIONS_COUNT_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTarget(Exact):
    """Which layers of a model a peer shall hold."""

    TAG: ClassVar[int] = 173

    peer: PeerId
    model: Annotated[str, Size(193)]
    """NAME:TAG, as in the registry."""
    span: Span


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipPolicy(Exact):
    """Who may join from now on, beyond what certificates say."""

    TAG: ClassVar[int] = 174

    admits: bool
    """Whether peers that never were members may join at all."""
    member_count_max: Annotated[int, Between(1, 1 << 20)]
    certificate_age_ms_max: int = 0
    """Certificates signed longer ago are not taken; 0 sets no bound."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey(Exact):
    """An Ed25519 key whose word counts no more: a peer's, or a delegate's with all that it certified."""

    TAG: ClassVar[int] = 175

    public_key: Annotated[bytes, Exactly(32)]
    reason: Annotated[str, Size(256)] = ""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule(Exact):
    """Who may do what to what. Raft keeps rules and does not interpret them; only their form is checked."""

    TAG: ClassVar[int] = 176

    subject: Annotated[str, Size(256)]
    """A word without blanks; one star at its end stands for anything."""
    actions: Annotated[tuple[Annotated[str, Size(64)], ...], Count(32)]
    """At least one, as above."""
    resources: Annotated[tuple[Annotated[str, Size(256)], ...], Count(32)]
    """At least one, as above."""
    is_allowed: bool
    conditions: Annotated[bytes, Size(4096)] = b""
    """What else must hold, in the form of whoever enforces the rule."""


@registered
@dataclass(frozen=True, slots=True)
class SettingValue(Exact):
    """A setting as text, as it would stand in a settings file without quotes."""

    TAG: ClassVar[int] = 177

    text: Annotated[str, Size(1024)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMetadata(Exact):
    """Beginning of a snapshot: leases by name follow, then keys in order, then changes, the oldest first."""

    TAG: ClassVar[int] = 178

    format: int
    limits: Annotated[bytes, Exactly(16)]
    """Digest of the limits that the state was built under; replicas with others would come to differ."""
    revision: int
    compacted: int
    """The last revision whose changes are not kept any more."""
    time_ms: int
    token_count: int
    """Tokens that were ever given; the last of them has this number."""
    lease_count: int
    key_count: int
    change_count: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLease(Exact):
    """A lease that is held."""

    TAG: ClassVar[int] = 179

    name: Annotated[str, Size(128)]
    holder: PeerId
    token: int
    ttl_ms: int
    expires_ms: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChange(Exact):
    """One change of one key; its value as it was then."""

    TAG: ClassVar[int] = 180

    revision: int
    key: Key
    value: Annotated[bytes, Size(1 << 16)] | None
    """None where the key was deleted; the other fields are 0 then."""
    created: int = 0
    version: int = 0
    lease: int = 0
