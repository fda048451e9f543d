"""What the DHT tells the application that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from p2pinfer.ids import Contact
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["LookupDone", "LookupId"]

LookupId = NewType("LookupId", int)
"""Counts the lookups of one core, from 0."""


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup ended, by its rules or by its limits; delivered exactly once for each `LookupId`."""

    id: LookupId
    key: bytes
    values: tuple[DhtRecord, ...]
    """For `get`: the live records found, the newest of every (sub-key, owner), in that order."""
    nearest: tuple[Contact, ...]
    """The peers nearest to the key that answered, nearest first, at most k; this peer is not among them."""
    stored_at: int
    """For `put`: how many peers hold the record now, this one included if it is among the k nearest."""
    queries: int
    """Peers asked, repetitions not counted."""
