"""What the DHT tells the application that uses it, and its siblings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["AddressSeen", "ForkFound", "LookupDone", "LookupId"]

LookupId = NewType("LookupId", int)
"""Counts the lookups of one core, from 0."""


@dataclass(frozen=True, slots=True)
class AddressSeen:
    """A clear majority of those asked sees this peer at another address than the one that it tells."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup ended, by its rules or by its limits; delivered exactly once for each `LookupId`."""

    id: LookupId
    keys: tuple[bytes, ...]
    values: tuple[DhtRecord, ...]
    """For `get`: the live records found, the newest of every (key, sub-key, owner), in that order."""
    nearest: tuple[Contact, ...]
    """The peers nearest to the first key that answered, nearest first, at most k, this one left out. Fewer
    where a `get` had what it wanted before, or a `put` its copies."""
    stored_at: int
    """For `put`: how many peers hold the record now, this one included if it is among the k nearest."""
    queries: int
    """Questions to peers, repetitions not counted."""
    conflict: DhtRecord | None = None
    """For `put`: a record that stood in the way at a holder, the newest of them."""


@dataclass(frozen=True, slots=True)
class ForkFound:
    """An owner signed two values under one sequence: both, as proof that anybody can check.

    Everybody prefers `first`, which has the smaller digest, until a higher sequence ends it.
    """

    first: DhtRecord
    second: DhtRecord
