"""The bookkeeping of probes: who was pinged, when to ask helpers, when to give up, and errands for others.

Rules:

1. A probe is over after one probe interval; an Ack that comes by then, from the target or through a helper,
   is success, however late (SWIM 4.1).
2. Where neither the target nor a helper is heard for a while, the target is asked over a stream, which says
   whether it lives in a network that loses datagrams (memberlist's fallback).
3. An Ack counts only from the peer that was pinged: another peer at its endpoint proves nothing.
4. Errands for others are bounded; what is too much is not begun.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig

__all__ = ["Errand", "Probe", "Prober"]

_ERRAND_COUNT_MAX = 256
"""Pings under way for others; each is two small structures. A helper of 10,000 members has about four."""
_PROBE_COUNT_MAX = 64
"""Own probes under way: one regular, the rest asked for by siblings or after a state exchange."""


@dataclass(slots=True)
class Probe:
    """One target under test."""

    sequence: int
    target: Contact
    incarnation: int
    """The target's when the probe began: what an accusation will speak of."""
    started: float
    helpers_at: float
    stream_at: float
    ends_at: float
    blames: bool = True
    """Whether silence leads to suspicion; not for members dead already and strangers."""
    is_regular: bool = True
    """Whether it was this target's turn: what others can provoke measures nothing."""
    helpers: list[PeerId] | None = None
    """Who was asked for an indirect probe; None while nobody had to be."""
    nacks: set[PeerId] = field(default_factory=set)
    """Which of them said that the target is silent."""
    is_by_stream: bool = False
    """Whether the target was asked over a stream, too."""

    @property
    def next_at(self) -> float:
        """When something is to be done about it."""
        if not self.blames or self.is_by_stream:
            return self.ends_at
        return self.helpers_at if self.helpers is None else min(self.stream_at, self.ends_at)


@dataclass(slots=True)
class Errand:
    """A ping for another member."""

    requester: Contact
    requester_sequence: int
    target: PeerId
    nack_at: float
    ends_at: float
    was_nacked: bool = False


class Prober:
    """Probes and errands by sequence number, and what is due of them."""

    __slots__ = ("_config", "_errands", "_probes", "_sequence")

    def __init__(self, config: SwimConfig, first_sequence: int) -> None:
        self._config = config
        self._sequence = first_sequence
        self._probes: dict[int, Probe] = {}
        self._errands: dict[int, Errand] = {}

    @property
    def deadline(self) -> float | None:
        """When something of what is under way is due."""
        if not self._probes and not self._errands:
            return None
        times = [each.next_at for each in self._probes.values()]
        times += [each.ends_at if each.was_nacked else each.nack_at for each in self._errands.values()]
        return min(times)

    @property
    def errand_count(self) -> int:
        """Pings under way for others."""
        return len(self._errands)

    def is_probing(self, peer: PeerId | None) -> bool:
        """Whether a probe of that peer is under way."""
        return any(probe.target.peer == peer for probe in self._probes.values())

    def begin(
        self, target: Contact, incarnation: int, now: float, *, stretch: int = 1, blames: bool = True
    ) -> Probe | None:
        """Begin a probe; None if the target is being probed already or too much is under way.

        Args:
            target: Who.
            incarnation: The target's.
            now: The time.
            stretch: How many times longer than configured every wait is.
            blames: Whether silence leads to suspicion.
        """
        if len(self._probes) >= _PROBE_COUNT_MAX or self.is_probing(target.peer):
            return None
        config = self._config
        timeout_s, interval_s = config.probe_timeout_s * stretch, config.probe_interval_s * stretch
        probe = Probe(
            sequence=self._next_sequence(),
            target=target,
            incarnation=incarnation,
            started=now,
            helpers_at=now + timeout_s,
            stream_at=now + timeout_s + (interval_s - timeout_s) * config.stream_fraction,
            ends_at=now + interval_s,
            blames=blames,
        )
        self._probes[probe.sequence] = probe
        return probe

    def begin_errand(self, requester: Contact, sequence: int, target: PeerId, now: float) -> int | None:
        """Begin a ping for another member and return its sequence; None if too many are under way."""
        if len(self._errands) >= _ERRAND_COUNT_MAX:
            return None
        nack_at = now + self._config.probe_timeout_s * self._config.nack_fraction
        own = self._next_sequence()
        self._errands[own] = Errand(requester, sequence, target, nack_at, now + self._config.probe_interval_s)
        return own

    def on_ack(self, sequence: int, peer: PeerId | None) -> Probe | Errand | None:
        """End what a direct Ack from `peer` answers and return it; None if it answers nothing."""
        probe = self._probes.get(sequence)
        if probe is not None and probe.target.peer == peer:
            return self._probes.pop(sequence)
        errand = self._errands.get(sequence)
        if errand is not None and errand.target == peer:
            return self._errands.pop(sequence)
        return None

    def on_indirect_ack(self, sequence: int, helper: PeerId | None) -> Probe | None:
        """End the probe for which `helper` was asked and return it."""
        probe = self._probes.get(sequence)
        return self._probes.pop(sequence) if probe is not None and helper in (probe.helpers or ()) else None

    def on_nack(self, sequence: int, helper: PeerId | None) -> bool:
        """Note that a helper can be heard; False if it was not asked."""
        probe = self._probes.get(sequence)
        if probe is None or helper is None or helper not in (probe.helpers or ()):
            return False
        probe.nacks.add(helper)
        return True

    def due_for_helpers(self, now: float) -> list[Probe]:
        """Probes without a direct Ack in time; the caller chooses helpers."""
        return [
            each
            for each in self._probes.values()
            if each.blames and each.helpers is None and each.helpers_at <= now < each.ends_at
        ]

    def due_for_stream(self, now: float) -> list[Probe]:
        """Probes of which neither target nor helpers were heard; each is due once."""
        due = [
            each
            for each in self._probes.values()
            if each.helpers is not None and not each.is_by_stream and each.stream_at <= now < each.ends_at
        ]
        for each in due:
            each.is_by_stream = True
        return due

    def take_failed(self, now: float) -> list[Probe]:
        """End the probes whose time is over, and return them."""
        return [self._probes.pop(key) for key in [k for k, p in self._probes.items() if p.ends_at <= now]]

    def due_for_nack(self, now: float) -> list[Errand]:
        """Errands whose requester has to be told that the target is silent; the ended are dropped."""
        for key in [key for key, each in self._errands.items() if each.ends_at <= now]:
            del self._errands[key]
        due = [each for each in self._errands.values() if not each.was_nacked and each.nack_at <= now]
        for each in due:
            each.was_nacked = True
        return due

    def abandon(self) -> None:
        """Forget all probes without a result: this peer was stopped and may have missed the answers."""
        self._probes.clear()

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence
