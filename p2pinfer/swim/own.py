"""This peer's own record: when a new one is signed, and with which incarnation.

Rules:

1. The first incarnation is the clock's milliseconds and each record adds one: far slower than the clock, so a
   peer that lost its disk starts above its earlier self without asking anybody.
2. Renewals are few. A change of the holding waits `record_interval_s_min` after the record before, a
   refutation one gossip interval, so that nobody can drive the incarnation ahead of the clock: others refuse
   records whose incarnation lies further in the future than clocks may differ.
"""

from __future__ import annotations

import random
from dataclasses import replace

from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.wire.messages.coordinates import Coordinate
from p2pinfer.wire.messages.records import Holding, PeerRecord, Sign

__all__ = ["OwnRecord"]

_RENEW_AFTER_FRACTION = (0.4, 0.5)
"""Of the record's lifetime: two renewals may be lost before it expires; spread, so that swarms that start
together do not renew together."""


class OwnRecord:
    """Holds the record in force and what the next one will say."""

    __slots__ = ("_config", "_due_at", "_next", "_rng", "_sign", "_signed_at", "peer", "record")

    def __init__(self, unsigned: PeerRecord, config: SwimConfig, rng: random.Random, sign: Sign) -> None:
        self._config = config
        self._rng = rng
        self._sign = sign
        self._next = unsigned
        self._signed_at = self._due_at = 0.0
        self.peer: PeerId = unsigned.owner
        self.record = unsigned

    @property
    def deadline(self) -> float:
        """When the next record is due."""
        return self._due_at

    @property
    def is_leaving(self) -> bool:
        """Whether the last word is spoken."""
        return self._next.leaving

    def set_holding(self, holding: Holding | None, now: float) -> None:
        """Plan a record with another holding; the same one again plans nothing."""
        if holding != self._next.holding:
            self._next = replace(self._next, holding=holding)
            self._plan(now, self._config.record_interval_s_min)

    def set_name(self, name: str, now: float) -> None:
        """Plan a record with another name, a first name at once; the same one again plans nothing."""
        if name != self._next.name:
            gap_s = self._config.record_interval_s_min if self._next.name else 0.0
            self._next = replace(self._next, name=name)
            self._plan(now, gap_s)  # at once, so that whoever joins is known by name from the start

    def set_endpoint(self, endpoint: Endpoint, now: float) -> None:
        """Plan a record with another endpoint; the same one again plans nothing."""
        if endpoint != self._next.endpoint:
            self._next = replace(self._next, endpoint=endpoint)
            self._plan(now, self._config.gossip_interval_s)  # soon: nobody can reach this peer until then

    def set_metadata_digest(self, digest: bytes, now: float) -> None:
        """Plan a record with other metadata; the same again plans nothing."""
        if digest != self._next.metadata_digest:
            self._next = replace(self._next, metadata_digest=digest)
            self._plan(now, self._config.record_interval_s_min)

    def set_leaving(self, leaving: bool, now: float) -> None:
        """Plan the last word, or take it back, at once."""
        if leaving != self._next.leaving:
            self._next = replace(self._next, leaving=leaving)
            self._plan(now, 0.0)

    def refute(self, incarnation: int, now: float) -> None:
        """Plan a record above `incarnation`."""
        self._next = replace(self._next, incarnation=max(self._next.incarnation, incarnation))
        self._plan(now, self._config.gossip_interval_s)

    def place(self, coordinate: Coordinate) -> None:
        """The next record says where this peer stands; it plans none, for coordinates change all the time."""
        self._next = replace(self._next, coordinate=coordinate)

    def sign(self, now: float, lifetime_stretch: float) -> PeerRecord:
        """Make the next record: it is in force from now on."""
        lifetime_s = self._config.record_lifetime_s * lifetime_stretch
        first = not self.record.signature
        self._next = replace(
            self._next,
            incarnation=self._next.incarnation if first else self._next.incarnation + 1,
            expires_ms=int((now + lifetime_s) * 1000),
            signature=b"",
        )
        self.record = self._sign(self._next)
        self._signed_at = now
        self._due_at = now + lifetime_s * self._rng.uniform(*_RENEW_AFTER_FRACTION)
        return self.record

    def _plan(self, now: float, gap_s: float) -> None:
        self._due_at = min(self._due_at, max(now, self._signed_at + gap_s))


def first_record(public_key: bytes, endpoint: Endpoint, incarnation: int) -> PeerRecord:
    """What a peer that has just started says of itself, not signed yet."""
    return PeerRecord(public_key=public_key, endpoint=endpoint, incarnation=incarnation, expires_ms=0)
