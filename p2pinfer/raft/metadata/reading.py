"""Reading a swarm's metadata: typed, by section, and as a stream of changes.

Rules:

1. A view shows what this replica has applied, and nothing of what is under way. Whoever needs to see all that
   was acknowledged anywhere asks Raft for a read index first, and reads once that is applied.
2. What a section holds is read once for each revision that changes it.
3. A watch keeps a revision and no changes: the history is its buffer, so a slow watcher costs nothing and is
   told when it is too late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from p2pinfer.effects import Message
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import PeerId, Span
from p2pinfer.raft.metadata.history import Change, Compacted
from p2pinfer.raft.metadata.keyspace import Record
from p2pinfer.raft.metadata.leases import Lease
from p2pinfer.raft.metadata.machine import MetadataMachine
from p2pinfer.raft.metadata.models import newest
from p2pinfer.raft.metadata.sections import POLICY_KEY, setting_key
from p2pinfer.raft.metadata.state import State
from p2pinfer.wire.codec import decode
from p2pinfer.wire.messages.metadata_values import (
    AccessRule,
    MembershipPolicy,
    ModelRecord,
    ModelVersion,
    PlacementTarget,
    RevokedKey,
    SettingValue,
)

__all__ = ["MetadataView", "Model", "Watch"]

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it is registered.

    Attributes:
        name: The name and the tag, as in `smollm2:135m`.
        versions: One; or several, the newest first, of which none was edited in knowledge of another.
    """

    name: str
    versions: tuple[ModelVersion, ...]

    @property
    def newest(self) -> ModelVersion:
        """What to take where somebody must take one."""
        return newest(self.versions)

    @property
    def is_contested(self) -> bool:
        """Whether versions stand beside each other until somebody edits them with all known."""
        return len(self.versions) > 1

    @property
    def is_withdrawn(self) -> bool:
        """Whether it is not to be served any more."""
        return not self.newest.manifest


class MetadataView:
    """What a replica's metadata says now."""

    def __init__(self, machine: MetadataMachine) -> None:
        self._machine = machine
        self._read: dict[str, tuple[State, int, Mapping[str, Message]]] = {}
        """By section: what was read, of which state, and of which change of the section."""

    @property
    def revision(self) -> int:
        """Counts the changes: what a watch that follows this reading begins after."""
        return self._machine.state.keys.revision

    @property
    def time_ms(self) -> int:
        """The log's time, in milliseconds since the Unix epoch."""
        return self._machine.state.time_ms

    def get(self, key: str) -> Record | None:
        """Return what stands under a key, with its revisions; None if nothing does."""
        return self._machine.state.keys.get(key)

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin so, in order."""
        return self._machine.state.keys.keys(prefix)

    def models(self) -> dict[str, Model]:
        """Return every model by NAME:TAG, withdrawn ones as well."""
        found = self._section("model", ModelRecord)
        return {name: Model(name, record.versions) for name, record in found.items()}

    def model(self, name: str, tag: str) -> Model | None:
        """Return one model, or None if it is not registered."""
        record = self._one(f"model/{name}:{tag}", ModelRecord)
        return Model(f"{name}:{tag}", record.versions) if record else None

    def targets(self, peer: PeerId | None = None) -> dict[tuple[PeerId, str], Span]:
        """Return which peer shall hold which layers of which model; of one peer if it is named."""
        found = self._section("target", PlacementTarget).values()
        return {(each.peer, each.model): each.span for each in found if peer is None or each.peer == peer}

    def policy(self) -> MembershipPolicy | None:
        """Return who may join; None if nothing was said."""
        return self._one(POLICY_KEY, MembershipPolicy)

    def revoked(self) -> frozenset[bytes]:
        """Return the public keys whose word counts no more."""
        return frozenset(each.public_key for each in self._section("revoked", RevokedKey).values())

    def rules(self) -> dict[str, AccessRule]:
        """Return the access rules by name."""
        return dict(self._section("access", AccessRule))

    def settings(self) -> dict[str, str]:
        """Return the settings that were set for all, by name."""
        return {name: value.text for name, value in self._section("setting", SettingValue).items()}

    def setting(self, name: str) -> str | None:
        """Return one setting, or None if it was not set."""
        value = self._one(setting_key(name), SettingValue)
        return value.text if value else None

    def leases(self) -> tuple[Lease, ...]:
        """Return what is held, by name."""
        return self._machine.state.leases.all

    def lease(self, name: str) -> Lease | None:
        """Return who holds a name, or None if nobody does."""
        return self._machine.state.leases.get(name)

    def watch(self, prefix: str = "", revision: int | None = None) -> Watch:
        """Watch the keys that begin so.

        Args:
            prefix: What they begin with; nothing for all.
            revision: The first that is wanted; None for what comes after now.

        Raises:
            LocalProtocolError: The revision is none, or lies beyond the next.
        """
        if revision is None:
            revision = self.revision + 1
        if not 1 <= revision <= self.revision + 1:
            raise LocalProtocolError(
                f"a watch begins at a revision from 1 to {self.revision + 1}, not {revision}"
            )
        return Watch(self._machine, prefix, revision)

    def _section(self, name: str, value_type: type[M]) -> Mapping[str, M]:
        """Read a section whole, by what stands in its keys after the section's name."""
        state = self._machine.state
        changed = state.changed_in.get(name, 0)
        known = self._read.get(name)
        if known is not None and known[0] is state and known[1] == changed:
            return known[2]  # type: ignore[return-value]
        found = {}
        for key in state.keys.keys(f"{name}/"):
            value = self._one(key, value_type)
            if value is not None:
                found[key.partition("/")[2]] = value
        self._read[name] = state, changed, found
        return found

    def _one(self, key: str, value_type: type[M]) -> M | None:
        record = self.get(key)
        value = decode(record.value) if record else None
        return value if isinstance(value, value_type) else None


class Watch:
    """A place in the stream of changes. Ask it again whenever the revision rises."""

    def __init__(self, machine: MetadataMachine, prefix: str, revision: int) -> None:
        self._machine = machine
        self._prefix = prefix
        self.revision = revision
        """The next that is wanted: with it a watch goes on at another replica."""

    def poll(self, count_max: int = 256) -> list[Change] | Compacted:
        """Return the next changes, in order and by whole revisions; none if there are none yet.

        After `Compacted` the watch goes on behind the revision that it names: read the keys, then poll.

        Args:
            count_max: About how many are wanted: the last revision comes whole.
        """
        state = self._machine.state
        now, compacted = state.keys.revision, state.history.compacted
        if self.revision <= compacted or self.revision > now + 1:
            # Beyond the next only where the metadata was set back to a backup.
            self.revision = now + 1
            return Compacted(compacted, now)
        found: list[Change] = []
        while self.revision <= now and len(found) < count_max:
            changes = state.history.since(self.revision, count_max)
            found += [change for change in changes if change.key.startswith(self._prefix)]
            self.revision = changes[-1].revision + 1
        return found
