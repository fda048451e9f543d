"""Who holds which layers of which model, as the swarm said last: kept up to date one record at a time.

The planner and the placement read it; whoever hears of a member writes it. What is handed out is a live view,
so that news of one member costs the same in a swarm of three and of a thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from p2pinfer.ids import Contact, PeerId, Span
from p2pinfer.inference.placement import Resident
from p2pinfer.inference.places import Places, RoundTripOf, WayMap
from p2pinfer.inference.planner import UNKNOWN_LAYER_S, Holder
from p2pinfer.wire.messages.records import Holding

__all__ = ["HolderBook"]

_ROUND_TRIP_WEIGHT = 0.25
"""Weight of the newest round trip in its moving average."""


class HolderBook:
    """The holders of all models, with the round trips measured to them and between them.

    Where estimates of the latter are to be had, `round_trip_s` gives them for two positions.
    """

    def __init__(self, round_trip_s: RoundTripOf | None = None) -> None:
        self._held: dict[PeerId, tuple[Contact, Holding]] = {}
        self._holders: dict[bytes, dict[PeerId, Holder]] = {}
        self._views: dict[bytes, Collection[Holder]] = {}
        self._round_trips_s: dict[PeerId, float] = {}
        self._positions: dict[PeerId, Any] = {}
        self._places = Places(round_trip_s) if round_trip_s is not None else None

    @property
    def by_digest(self) -> Mapping[bytes, Collection[Holder]]:
        """Who serves now, by model: a live view. Who loads is not in it, who drains is."""
        return self._views

    def ways(self) -> WayMap | None:
        """How far holders are from each other; None where no positions are known."""
        return self._places.map if self._places is not None else None

    def serves(self, digest: bytes, peer: PeerId) -> bool:
        """Whether a member says that it serves layers of a model now."""
        return peer in self._holders.get(digest, ())

    def set_own(self, position: Any) -> None:
        """This peer is there now."""
        if self._places is not None:
            self._places.set_own(position)

    def put(self, contact: Contact, held: Holding | None, position: Any = None) -> bool:
        """Take what a member says that it holds, and where it is, instead of what it said before.

        Returns:
            Whether it serves now and did not before, or another span.
        """
        if contact.peer is None:
            return False
        before = self._served(contact.peer)
        self._remove(contact.peer)
        if held is not None and held.start < held.end <= held.layer_count:
            self._held[contact.peer] = (contact, held)
            if position is not None:
                self._positions[contact.peer] = position
            self._place(contact.peer)
        self._locate(contact.peer)
        return self._served(contact.peer) not in (None, before)

    def forget(self, peer: PeerId) -> None:
        """A member is dead or gone."""
        self._remove(peer)
        self._round_trips_s.pop(peer, None)
        self._locate(peer)

    def took(self, peer: PeerId, seconds: float) -> None:
        """A member answered after so long."""
        known = self._round_trips_s.get(peer, seconds)
        self._round_trips_s[peer] = known + (seconds - known) * _ROUND_TRIP_WEIGHT
        if peer in self._held:
            self._place(peer)
            self._locate(peer)

    def round_trip_s(self, peer: PeerId) -> float | None:
        """The measured round trip to a member, smoothed; None before the first."""
        return self._round_trips_s.get(peer)

    def residents(self, digest: bytes) -> list[Resident]:
        """Who holds, or is loading, which layers of a model, for the placement.

        Who drains is as good as gone: others must come to hold its layers before it may go.
        """
        return [
            Resident(
                peer,
                held.span,
                1e6 / held.step_us if held.step_us else 1 / (UNKNOWN_LAYER_S * len(held.span)),
                held.movable and not held.loading,
            )
            for peer, (_, held) in self._held.items()
            if held.digest == digest and not held.draining
        ]

    def _served(self, peer: PeerId) -> tuple[bytes, Span] | None:
        """What a member serves of which model; None while it loads."""
        known = self._held.get(peer)
        return (known[1].digest, known[1].span) if known is not None and not known[1].loading else None

    def _place(self, peer: PeerId) -> None:
        contact, held = self._held[peer]
        if held.loading:
            return
        holders = self._holders.get(held.digest)
        if holders is None:
            holders = self._holders[held.digest] = {}
            self._views[held.digest] = holders.values()
        holders[peer] = Holder(
            contact, held.span, held.step_us / 1e6, held.queue, self.round_trip_s(peer), held.draining
        )

    def _locate(self, peer: PeerId) -> None:
        """Believe a position for as long as the measured round trip agrees with it."""
        position, measured_s = self._positions.get(peer), self.round_trip_s(peer)
        if self._places is None:
            return
        if position is not None and (measured_s is None or self._places.agrees(position, measured_s)):
            self._places.put(peer, position)
        else:
            self._places.forget(peer)

    def _remove(self, peer: PeerId) -> None:
        known = self._held.pop(peer, None)
        self._positions.pop(peer, None)
        holders = self._holders.get(known[1].digest) if known is not None else None
        if known is not None and holders is not None:
            holders.pop(peer, None)
            if not holders:
                del self._holders[known[1].digest], self._views[known[1].digest]
