"""The registry of models: what a name and tag stand for, and what becomes of edits that crossed.

Rules:

1. An edit carries a version vector: what its editor knew, and one more of its own edits. It replaces every
   version that it knew, and is refused where another knew it already.
2. Versions that did not know each other are concurrent. Whether both stay, the newest does, or they are
   merged is the edit's rule, or the swarm's (the setting `models.conflicts`). What is decided has the merged
   vector, so that it replaces them all.
3. The versions that stand under one name are concurrent to each other, always.
4. A model is withdrawn by an edit without a manifest, which stays: deleting the key instead would let an old
   edit bring it back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from p2pinfer.raft.metadata.clocks import Order, VersionVector
from p2pinfer.raft.refusals import refused
from p2pinfer.wire.messages.metadata import ConflictRule
from p2pinfer.wire.messages.metadata_values import (
    ACTORS_COUNT_MAX,
    VERSIONS_COUNT_MAX,
    Label,
    ModelRecord,
    ModelVersion,
)

__all__ = ["CONFLICT_RULES", "MANIFEST_SIZE_BYTES", "check_version", "edited", "newest"]

MANIFEST_SIZE_BYTES = 32
CONFLICT_RULES = {
    "keep-both": ConflictRule.KEEP_BOTH,
    "newest": ConflictRule.NEWEST,
    "merge": ConflictRule.MERGE,
}
"""What the setting `models.conflicts` may say."""


def check_version(version: ModelVersion) -> None:
    """Check the form of a version.

    Raises:
        CommandRefused: Something about it is wrong, whatever else there is.
    """
    try:
        vector = VersionVector.of(version.vector)
    except ValueError as error:
        raise refused("wrong_vector") from error
    if not vector.count_of(version.editor):
        raise refused("wrong_vector")
    if len(version.manifest) not in (0, MANIFEST_SIZE_BYTES):
        raise refused("wrong_manifest")
    names = [label.name for label in version.labels]
    if names != sorted(set(names)) or "" in names:
        raise refused("wrong_labels")


def edited(
    key: str, before: ModelRecord | None, version: ModelVersion, rule: ConflictRule, time_ms: int
) -> ModelRecord | None:
    """Return what stands under the name after an edit; None if that is what stands there already.

    Raises:
        CommandRefused: The edit is out of date, repeats a vector, or leaves too much beside each other.
    """
    version = dataclasses.replace(version, edited_ms=min(version.edited_ms, time_ms))
    vector = VersionVector.of(version.vector)
    conflicts: list[ModelVersion] = []
    for other in before.versions if before else ():
        match vector.compare(VersionVector.of(other.vector)):
            case Order.EQUAL:
                if _content(version) == _content(other):
                    return None
                raise refused("vector_used", key)
            case Order.BEFORE:
                raise refused("superseded", key)
            case Order.CONCURRENT:
                conflicts.append(other)
            case Order.AFTER:
                pass  # known to the edit, which replaces it
    if not conflicts:
        return ModelRecord((version,))
    versions = (version, *conflicts)
    return _both(key, versions) if rule is ConflictRule.KEEP_BOTH else _decided(key, versions, rule)


def newest(versions: tuple[ModelVersion, ...]) -> ModelVersion:
    """Return the version that was edited last; of equal stamps the same one on every peer."""
    return max(versions, key=_age)


def _both(key: str, versions: tuple[ModelVersion, ...]) -> ModelRecord:
    if len(versions) > VERSIONS_COUNT_MAX:
        raise refused("too_many_versions", key, VERSIONS_COUNT_MAX)
    return ModelRecord(tuple(sorted(versions, key=_age, reverse=True)))


def _decided(key: str, versions: tuple[ModelVersion, ...], rule: ConflictRule) -> ModelRecord:
    last = newest(versions)
    vector = VersionVector()
    for each in versions:
        vector = vector.merge(VersionVector.of(each.vector))
    if len(vector.counts) > ACTORS_COUNT_MAX:
        raise refused("too_many_editors", key, ACTORS_COUNT_MAX)
    labels = last.labels
    if rule is ConflictRule.MERGE:
        by_name: dict[str, Label] = {}
        for each in sorted(versions, key=_age):
            by_name.update((label.name, label) for label in each.labels)
        labels = tuple(by_name[name] for name in sorted(by_name))[:32]
    return ModelRecord((dataclasses.replace(last, vector=vector.parts, labels=labels),))


def _content(version: ModelVersion) -> tuple[Any, ...]:
    return version.editor, version.manifest, version.labels


def _age(version: ModelVersion) -> tuple[Any, ...]:
    """Sort by time, and beyond it so that no two versions are equal."""
    labels = tuple((label.name, label.value) for label in version.labels)
    vector = tuple((part.actor, part.count) for part in version.vector)
    return version.edited_ms, version.editor, version.manifest, labels, vector
