"""The failure detector: pings, helpers, a stream in the last resort, and what their silence means.

Rules:

1. Direct ping, then k helpers, then a stream; who is silent to all of them is accused (SWIM 3.1).
2. How long that takes follows this peer's own health (`awareness`), and what it missed while it was stopped
   is nobody's fault.
3. Who is no active member is pinged without blame: an answer begins a state exchange.

Source: SWIM (Das et al. 2002), 3.1; Lifeguard (Dadgar et al. 2017), IV-A; the stream is memberlist's.
"""

from __future__ import annotations

from p2pinfer.effects import Effect, Message, Notify, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.awareness import Awareness
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.coordinates import Coordinates
from p2pinfer.swim.membership import Membership
from p2pinfer.swim.news import DatagramsLost, RoundTrip
from p2pinfer.swim.probe import Errand, Probe, Prober
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import (
    Accusation,
    Ack,
    IndirectAck,
    Nack,
    Ping,
    PingRequest,
    StreamAck,
    StreamPing,
)

__all__ = ["FailureDetector"]


class FailureDetector:
    """Probes members and answers for others; accuses in `members`, and measures for `coordinates`."""

    def __init__(
        self, members: Membership, config: SwimConfig, coordinates: Coordinates, first_sequence: int
    ) -> None:
        self._members = members
        self._config = config
        self._prober = Prober(config, first_sequence)
        self._awareness = Awareness(config)
        self.coordinates = coordinates

    @property
    def deadline(self) -> float | None:
        """When something of what is under way is due."""
        return self._prober.deadline

    @property
    def errand_count(self) -> int:
        """Pings under way for others."""
        return self._prober.errand_count

    @property
    def health_score(self) -> int:
        """0 for a peer that is well; see `awareness`."""
        return self._awareness.score

    @property
    def period_s(self) -> float:
        """From one probe to the next, as this peer does now."""
        return self._config.probe_interval_s * self._stretch

    # ------------------------------------------------------------------ beginning

    def probe(self, peer: PeerId, now: float, *, is_regular: bool = False) -> list[Effect]:
        """Probe an active member, unless that is under way; `is_regular` where it is its turn."""
        member = self._members.table.active(peer)
        if member is None:
            return []
        probe = self._prober.begin(
            member.record.contact, member.record.incarnation, now, stretch=self._stretch
        )
        if probe is None:
            return []
        probe.is_regular = is_regular
        return [Send(probe.target, Ping(sequence=probe.sequence, gossip=self._members.pack(peer)))]

    def ping_stranger(self, contact: Contact, now: float, *first: PeerRecord | Accusation) -> list[Effect]:
        """Ping whoever is no active member: silence means nothing, an answer begins a state exchange.

        Args:
            contact: Who, as far as that is known.
            now: The time.
            first: What it is told, besides this peer's record.
        """
        probe = self._prober.begin(contact, 0, now, blames=False)
        if probe is None:
            return []
        gossip = self._members.pack(contact.peer, *first, self._members.own.record)
        return [Send(contact, Ping(sequence=probe.sequence, gossip=gossip))]

    def forget_probes(self) -> None:
        """End all probes without a result: this peer leaves."""
        self._prober.abandon()

    def was_stopped(self) -> None:
        """This peer was stopped: it may have missed the answers."""
        self._prober.abandon()
        self._awareness.stopped()

    def was_accused(self) -> None:
        """This peer has to refute a suspicion of itself."""
        self._awareness.accused()

    # ------------------------------------------------------------------ what is due

    def tick(self, now: float) -> list[Effect]:
        """Ask helpers, then over a stream, accuse, and report to whom this peer helps."""
        effects: list[Effect] = []
        for probe in self._prober.due_for_helpers(now):
            effects += self._ask_helpers(probe)
        for probe in self._prober.due_for_stream(now):
            effects.append(Send(probe.target, StreamPing(sequence=probe.sequence)))
        for probe in self._prober.take_failed(now):
            if probe.blames and probe.target.peer is not None:
                self._members.counters["probes_failed"] += 1
                self._awareness.unanswered(len(probe.helpers or ()), len(probe.nacks))
                effects += self._members.accuse(probe.target.peer, probe.incarnation, now)
        for errand in self._prober.due_for_nack(now):
            effects.append(Send(errand.requester, Nack(sequence=errand.requester_sequence)))
        return effects

    def _ask_helpers(self, probe: Probe) -> list[Effect]:
        target = probe.target.peer
        probe.helpers = self._members.table.choose_active(self._config.helper_count, but=target)
        if target is None:
            return []
        return [
            self._send(helper, PingRequest(sequence=probe.sequence, target=target))
            for helper in probe.helpers
        ]

    # ------------------------------------------------------------------ answers

    def on_ack(self, ack: Ack, sender: Contact, now: float) -> tuple[list[Effect], bool]:
        """Take an answer.

        Returns:
            What follows, and whether it came from a peer that should be asked for its state.
        """
        answered = self._prober.on_ack(ack.sequence, sender.peer)
        if isinstance(answered, Errand):
            return [Send(answered.requester, IndirectAck(sequence=answered.requester_sequence))], False
        if answered is None or sender.peer is None:
            self._count("acks_late")
            return [], False
        if not answered.blames:  # back from the dead, or never met: it may know many that we do not
            return [], True
        self._awareness.answered()
        round_trip_s = now - answered.started
        if answered.is_regular and ack.coordinate is not None:
            self.coordinates.observe(sender.peer, ack.coordinate, round_trip_s)
        return [Notify(RoundTrip(sender.peer, round_trip_s))], False

    def on_indirect_ack(self, message: IndirectAck, sender: Contact) -> list[Effect]:
        """A helper heard the target."""
        if self._prober.on_indirect_ack(message.sequence, sender.peer) is None:
            self._count("acks_late")
        else:
            self._awareness.answered()
        return []

    def on_nack(self, message: Nack, sender: Contact) -> list[Effect]:
        """A helper did not hear the target, but we hear the helper."""
        if not self._prober.on_nack(message.sequence, sender.peer):
            self._count("acks_late")
        return []

    def on_stream_ack(self, message: StreamAck, sender: Contact) -> list[Effect]:
        """The target lives; datagrams do not reach it, or not us from it."""
        answered = self._prober.on_ack(message.sequence, sender.peer)
        if not isinstance(answered, Probe) or sender.peer is None:
            self._count("acks_late")
            return []
        self._awareness.answered()
        self._count("acks_by_stream")
        return [Notify(DatagramsLost(sender.peer))]

    def on_ping_request(self, request: PingRequest, sender: Contact, now: float) -> list[Effect]:
        """Ping a member for another one."""
        member = self._members.table.get(request.target)
        errand = None
        if member is not None:
            errand = self._prober.begin_errand(sender, request.sequence, request.target, now)
        if member is None or errand is None:
            self._count("errands_refused")
            return [Send(sender, Nack(sequence=request.sequence))]
        ping = Ping(sequence=errand, gossip=self._members.pack(request.target))
        return [Send(member.record.contact, ping)]

    # ------------------------------------------------------------------ small parts

    @property
    def _stretch(self) -> int:
        return self._awareness.stretch if self._config.lifeguard else 1

    def _send(self, peer: PeerId, message: Message) -> Send:
        member = self._members.table.get(peer)
        if member is None:
            raise KeyError(peer)
        return Send(member.record.contact, message)

    def _count(self, name: str) -> None:
        self._members.counters[name] += 1
