"""SWIM: every member learns in seconds who joins, dies and leaves, at a cost that does not grow with n.

Rules:

1. In each period one member is probed; if it stays silent to a Ping and to k helpers it is suspected, and
   dead when the suspicion runs out unrefuted (SWIM 3.1, 4.2; Lifeguard IV-B).
2. News rides on probes and on gossip rounds (SWIM 4.1). Whoever is thought suspect or dead is told so first,
   in whatever is sent to it (Lifeguard IV-C, "buddy system"), and refutes with a record of its own.
3. What gossip misses, state exchanges over streams repair; what a partition split, pings to the remembered
   dead find again.

Departures from SWIM: everything said is signed by whom it concerns or by who accuses; dead is not for ever
(see `member`); records expire, so a member that cannot renew its own is suspected; a peer that was stopped
blames nobody for what it did not hear.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2pinfer.effects import Effect, Message, Notify, Send
from p2pinfer.errors import PeerUnreachable
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.swim.bulletin import EVERYBODY, Bulletin
from p2pinfer.swim.config import SwimConfig, stretch
from p2pinfer.swim.coordinates import CoordinateConfig, Coordinates
from p2pinfer.swim.detector import FailureDetector
from p2pinfer.swim.exchange import Exchange
from p2pinfer.swim.joining import JoinTargets
from p2pinfer.swim.member import MemberState, MemberView
from p2pinfer.swim.members import MemberTable
from p2pinfer.swim.membership import Admit, Membership
from p2pinfer.swim.metadata import MetadataBook, digest_of
from p2pinfer.swim.news import Joined, JoinFailed, MemberJoined, MetadataRead, QueryId
from p2pinfer.swim.own import OwnRecord, first_record
from p2pinfer.wire.messages.coordinates import Coordinate
from p2pinfer.wire.messages.events import BroadcastDigest, QueryFilter, QueryReply
from p2pinfer.wire.messages.records import Holding, PeerRecord, Sign
from p2pinfer.wire.messages.swim import (
    Ack,
    Gossip,
    IndirectAck,
    MetadataReply,
    MetadataRequest,
    Nack,
    Ping,
    PingRequest,
    StateReply,
    StateRequest,
    StateRest,
    StreamAck,
    StreamPing,
)

__all__ = ["SwimCore"]

_WARNINGS_PER_ROUND_COUNT = 8
"""Members accused in a state exchange that are asked in one gossip interval: at 0.2 s, forty a second."""


class _Timer(enum.IntEnum):
    """The regular work; each has one next time."""

    PROBE = 0
    GOSSIP = 1
    SYNC = 2
    ANNOUNCE = 3
    SWEEP = 4


class SwimCore:
    """One peer's part in the membership of its swarm. It is a member from the start, if a lonely one."""

    def __init__(
        self,
        *,
        public_key: bytes,
        endpoint: Endpoint,
        config: SwimConfig,
        rng: random.Random,
        sign: Sign,
        now: float,
    ) -> None:
        first = first_record(public_key, endpoint, int(now * 1000))
        self._coordinates = Coordinates(CoordinateConfig(), random.Random(rng.getrandbits(64)))
        own = OwnRecord(first, config, rng, sign)
        own.place(self._coordinates.own)
        self._config = config
        self._rng = rng
        self._members = Membership(own, config, MemberTable(config.member_count_max, rng), sign)
        self._detector = FailureDetector(self._members, config, self._coordinates, rng.getrandbits(32))
        self._exchange = Exchange(self._members, config)
        self._targets = JoinTargets(config, rng)
        self._metadata = MetadataBook()
        self._bulletin = Bulletin(self._members, config, sign, now)
        self._called_at = now
        self._has_joined = False
        self._may_ask_stranger = True
        self._timers: dict[_Timer, float] = {}
        self._work: tuple[tuple[_Timer, Callable[[float], list[Effect]]], ...] = (
            (_Timer.PROBE, self._begin_period),
            (_Timer.SYNC, self._sync),
            (_Timer.ANNOUNCE, self._announce),
            (_Timer.SWEEP, self._sweep),
            (_Timer.GOSSIP, self._gossip),  # last, so that it tells what the others found
        )
        self._start_timers(now)
        own.sign(now, 1)

    # ------------------------------------------------------------------ commands

    def join(self, endpoints: Sequence[Endpoint], now: float) -> list[Effect]:
        """Find the swarm at these endpoints; they are tried until one answers, and kept for bad times."""
        if self._members.own.is_leaving:
            self._members.own.set_leaving(False, now)
            self._start_timers(now)
        for endpoint in endpoints:
            if endpoint != self.record.endpoint:
                self._targets.add(endpoint, now)
        self._has_joined = False
        return self.tick(now)

    def leave(self, now: float) -> list[Effect]:
        """Say goodbye. Afterwards run the core until `has_left`, so that the word gets around."""
        self._members.own.set_leaving(True, now)
        self._members.fall_silent()
        self._detector.forget_probes()
        self._targets.settle()
        for timer in (_Timer.PROBE, _Timer.SYNC, _Timer.ANNOUNCE, _Timer.SWEEP):
            self._timers.pop(timer, None)
        return self.tick(now)

    def set_holding(self, holding: Holding | None, now: float) -> list[Effect]:
        """Tell the swarm what this peer serves; repeated changes are gathered into one record a second."""
        self._members.own.set_holding(holding, now)
        return self.tick(now)

    def set_name(self, name: str, now: float) -> list[Effect]:
        """Tell the swarm what people call this peer, at most 63 bytes."""
        self._members.own.set_name(name, now)
        return self.tick(now)

    def set_endpoint(self, endpoint: Endpoint, now: float) -> list[Effect]:
        """Tell the swarm that this peer is elsewhere from now on, with a record of the next incarnation."""
        self._members.own.set_endpoint(endpoint, now)
        return self.tick(now)

    def broadcast(self, name: str, payload: bytes, now: float) -> list[Effect]:
        """Tell the applications of all members, this peer's own included: see `Bulletin.broadcast`."""
        self._notice_lag(now)
        return self._bulletin.broadcast(name, payload, now) + self.tick(now)

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        to: QueryFilter = EVERYBODY,
        timeout_s: float | None = None,
        wants_ack: bool = False,
    ) -> tuple[QueryId, list[Effect]]:
        """Ask the applications of other members: see `Bulletin.ask`."""
        self._notice_lag(now)
        query, effects = self._bulletin.ask(
            name, payload, now, to=to, timeout_s=timeout_s, wants_ack=wants_ack
        )
        return query, effects + self.tick(now)

    def answer(self, query: QueryId, payload: bytes, now: float) -> list[Effect]:
        """Answer a query that came as `QueryAsked`: see `Bulletin.answer`."""
        self._notice_lag(now)
        return self._bulletin.answer(query, payload, now) + self.tick(now)

    def set_metadata(self, data: bytes, now: float) -> list[Effect]:
        """Say more of this peer than a record holds, at most 64 KiB; others read it with `read_metadata`.

        Raises:
            LocalProtocolError: It is too large.
        """
        self._metadata.set_own(data)
        self._members.own.set_metadata_digest(digest_of(data), now)
        return self.tick(now)

    def read_metadata(self, peer: PeerId, now: float) -> list[Effect]:
        """Have told what a member says beyond its record: `MetadataRead`, or `MetadataFailed`.

        Raises:
            PeerUnreachable: It is no live member.
            Overloaded: Too many such questions are open.
        """
        if peer == self._id:
            return [Notify(MetadataRead(peer, self._metadata.own))]
        member = self._members.table.active(peer)
        if member is None:
            raise PeerUnreachable(f"{peer.short} is no live member of the swarm")
        return self._metadata.read(member.record, now)

    def suspect(self, peer: PeerId, now: float) -> list[Effect]:
        """Another part of this peer saw a connection to `peer` break: probe it now, whoever's turn it is."""
        self._notice_lag(now)
        return self._detector.probe(peer, now)

    def merge_hint(self, contacts: Sequence[Contact], now: float) -> list[Effect]:
        """Contacts that may be members, from the DHT or a cache: a few unknown ones are asked."""
        self._notice_lag(now)
        effects: list[Effect] = []
        unknown = [
            each
            for each in contacts
            if each.peer != self._id
            and each.endpoint != self.record.endpoint
            and self._members.table.active(each.peer) is None
        ]
        for contact in self._rng.sample(unknown, min(len(unknown), self._config.announce_count)):
            if contact.peer is None:
                self._targets.add(contact.endpoint, now)
            else:
                effects += self._detector.ping_stranger(contact, now)
        return effects + self.tick(now)

    def screen(self, admit: Admit | None) -> None:
        """Ask an application from now on before a peer that is not known yet becomes a member here."""
        self._members.admit = admit

    # ------------------------------------------------------------------ queries

    @property
    def record(self) -> PeerRecord:
        """This peer's record now in force."""
        return self._members.own.record

    @property
    def coordinate(self) -> Coordinate:
        """Where this peer stands on the map of round trips."""
        return self._coordinates.own

    @property
    def has_left(self) -> bool:
        """Whether `leave` was called and the word has been told as often as it should be."""
        own = self._members.own
        return own.is_leaving and own.record.leaving and self.deadline is None

    def members(self) -> tuple[MemberView, ...]:
        """Everybody remembered, this peer included, in the order of their ids."""
        own = MemberView(self.record, MemberState.LEFT if self.record.leaving else MemberState.ALIVE)
        views = {peer: MemberView(each.record, each.state) for peer, each in self._members.table}
        views[self._id] = own
        return tuple(views[peer] for peer in sorted(views))

    def alive(self) -> tuple[PeerRecord, ...]:
        """The records of this peer and of all members neither dead nor gone, in the order of their ids."""
        return tuple(view.record for view in self.members() if view.state.is_active)

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, and gauges: `members_*` by state, `*_count`, `health_score`, `incarnation`."""
        counts = {f"members_{state.name.lower()}": 0 for state in MemberState}
        for _, member in self._members.table:
            counts[f"members_{member.state.name.lower()}"] += 1
        return {
            **self._members.counters,
            **self._bulletin.statistics(),
            **counts,
            "queue_count": len(self._members.queue),
            "errand_count": self._detector.errand_count,
            "health_score": self._detector.health_score,
            "incarnation": self.record.incarnation,
            "coordinates": self._coordinates.statistics(),
        }

    # ------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        if self._members.own.is_leaving:
            return self._timers[_Timer.GOSSIP] if self._members.queue else None
        members, timers = self._members, self._timers
        earliest = min(timers.values())
        if timers[_Timer.GOSSIP] == earliest and not (members.queue or members.to_warn):
            earliest = min([at for timer, at in timers.items() if timer is not _Timer.GOSSIP])
        for deadline in (
            members.own.deadline,
            members.deadline,
            self._detector.deadline,
            self._targets.deadline,
            self._metadata.deadline,
            self._bulletin.deadline,
        ):
            if deadline is not None and deadline < earliest:
                earliest = deadline
        return earliest

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        self._notice_lag(now)
        self._maybe_renew(now)
        effects: list[Effect] = []
        if not self._members.own.is_leaving:
            effects += self._detector.tick(now)
            effects += self._members.expire(now)
            effects += self._try_targets(now)
            effects += self._metadata.tick(now) + self._bulletin.tick(now)
        for timer, work in self._work:
            if self._timers.get(timer, math.inf) <= now:
                effects += work(now)
        return effects

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Take one message; see `wire/messages/swim.py` for what each means."""
        if sender.peer is None or sender.peer == self._id:
            self._count("messages_ignored")
            return []
        self._notice_lag(now)
        if self._members.own.is_leaving:
            return self._answer_while_leaving(sender, message)
        incarnation, refutation_count = self.record.incarnation, self._members.counters["refutations"]
        effects = self._handle(sender, message, now)
        if self._members.counters["refutations"] > refutation_count:
            self._detector.was_accused()
        self._maybe_renew(now)
        if self.record.incarnation != incarnation and isinstance(message, Ack | Gossip):
            # The sender had us wrong: tell it at once, it may be on the far side of a healed partition.
            effects.append(Send(sender, self._members.pack(sender.peer, self.record)))
        return effects

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream could not be opened or broke: a join target is tried later, a member probed at once."""
        self._notice_lag(now)
        if contact.peer is not None and self._members.table.active(contact.peer) is not None:
            return self._metadata.lost(contact.peer) + self._detector.probe(contact.peer, now)
        if self._targets.on_failure(contact.endpoint, now):
            return [Notify(JoinFailed(contact.endpoint, "nobody answers there"))]
        return []

    # ------------------------------------------------------------------ messages

    def _handle(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        match message:
            case Ping():
                return self._on_ping(sender, message, now)
            case Ack():
                return self._on_ack(sender, message, now)
            case Gossip():
                return self._merge_gossip(message, now)
            case PingRequest():
                return self._detector.on_ping_request(message, sender, now)
            case IndirectAck():
                return self._detector.on_indirect_ack(message, sender)
            case Nack():
                return self._detector.on_nack(message, sender)
            case StreamPing():
                return [Send(sender, StreamAck(sequence=message.sequence))]
            case StreamAck():
                return self._detector.on_stream_ack(message, sender)
            case StateRequest():
                return self._exchange.on_request(sender, message, now)
            case StateReply():
                return self._on_state_reply(sender, message, now)
            case StateRest():
                return self._exchange.on_rest(message, now)
            case QueryReply() | BroadcastDigest():
                return self._bulletin.receive(sender, message, now)
            case MetadataRequest():
                return self._metadata.on_request(sender, message)
            case MetadataReply():
                return self._metadata.on_reply(sender, message)
            case _:
                self._count("messages_ignored")
                return []

    def _answer_while_leaving(self, sender: Contact, message: Message) -> list[Effect]:
        """Nothing is learnt or passed on any more, but nobody shall suspect this peer meanwhile."""
        if not isinstance(message, Ping):
            return []
        gossip, place = self._members.pack(sender.peer), self._coordinates.own
        return [Send(sender, Ack(sequence=message.sequence, gossip=gossip, coordinate=place))]

    def _on_ping(self, sender: Contact, ping: Ping, now: float) -> list[Effect]:
        effects = self._merge_gossip(ping.gossip, now)
        self._maybe_renew(now)  # a refutation belongs into this very answer
        # Also to an old accusation: whoever makes it missed our word, which may be far back in the queue.
        is_wrong_of_us = any(each.accused == self._id for each in ping.gossip.accusations)
        gossip = self._members.pack(sender.peer, *((self.record,) if is_wrong_of_us else ()))
        place = self._coordinates.own
        effects.append(Send(sender, Ack(sequence=ping.sequence, gossip=gossip, coordinate=place)))
        stranger = sender.peer is not None and self._members.table.get(sender.peer) is None
        if stranger and self._may_ask_stranger:
            self._may_ask_stranger = False  # one in a period: it knows us, so we should know it
            effects.append(self._exchange.request(sender, now))
        return effects

    def _on_ack(self, sender: Contact, ack: Ack, now: float) -> list[Effect]:
        effects = self._merge_gossip(ack.gossip, now)
        follows, is_asked = self._detector.on_ack(ack, sender, now)
        effects += follows
        if is_asked:
            effects.append(self._exchange.request(sender, now))
        return effects

    def _on_state_reply(self, sender: Contact, reply: StateReply, now: float) -> list[Effect]:
        effects = self._exchange.on_reply(sender, reply, now)
        self._targets.settle()
        if any(isinstance(each, Notify) and isinstance(each.news, MemberJoined) for each in effects):
            # Where gossip missed a member, as when many join at once, it missed more: ask again soon.
            soon_s = self._config.probe_interval_s * stretch(self._members.member_count)
            again_at = now + soon_s * self._rng.uniform(1, 2)
            self._timers[_Timer.SYNC] = min(self._timers[_Timer.SYNC], again_at)
        if not self._has_joined:
            self._has_joined = True
            effects.append(Notify(Joined(self._members.member_count)))
        return effects

    def _merge_gossip(self, gossip: Gossip, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for record in gossip.records:
            effects += self._members.merge_record(record, now)
        for accusation in gossip.accusations:
            effects += self._members.merge_accusation(accusation, now)
        for broadcast in gossip.broadcasts:
            effects += self._bulletin.merge(broadcast, now)
        return effects

    # ------------------------------------------------------------------ regular work

    def _begin_period(self, now: float) -> list[Effect]:
        self._timers[_Timer.PROBE] = now + self._detector.period_s
        self._exchange.begin_period()
        self._may_ask_stranger = True
        target = self._members.table.next_to_probe()
        return [] if target is None else self._detector.probe(target, now, is_regular=True)

    def _gossip(self, now: float) -> list[Effect]:
        if not self._members.queue and not self._members.to_warn:
            return []  # keeps its time, so that the next news goes out at once
        self._timers[_Timer.GOSSIP] = now + self._config.gossip_interval_s
        effects: list[Effect] = []
        for peer in list(self._members.to_warn)[:_WARNINGS_PER_ROUND_COUNT]:
            warning = self._members.to_warn.pop(peer)
            if self._members.table.active(peer) is not None:
                effects += self._detector.probe(peer, now)
            else:
                effects += self._detector.ping_stranger(warning.contact, now, warning.word)
        for peer in self._members.table.choose_active(self._config.gossip_count):
            if self._members.queue:
                effects.append(self._send(peer, self._members.pack(peer)))
        if self._members.table.active_count == 0:
            self._members.queue.clear()  # nobody to tell; a join exchanges everything
        return effects

    def _sync(self, now: float) -> list[Effect]:
        interval_s = self._config.sync_interval_s * stretch(self._members.member_count)
        self._timers[_Timer.SYNC] = now + interval_s * self._rng.uniform(0.75, 1.25)
        return [
            self._exchange.request(member.record.contact, now)
            for peer in self._members.table.choose_active(1)
            if (member := self._members.table.get(peer)) is not None
        ]

    def _announce(self, now: float) -> list[Effect]:
        self._timers[_Timer.ANNOUNCE] = now + self._config.announce_interval_s * self._rng.uniform(0.75, 1.25)
        effects: list[Effect] = []
        for peer in self._members.table.choose_dead(self._config.announce_count):
            member = self._members.table.get(peer)
            if member is not None:
                effects += self._detector.ping_stranger(member.record.contact, now)
        if self._members.table.active_count == 0:
            self._targets.wake_all(now)
            return effects + self._try_targets(now)
        endpoint = self._targets.choose_sleeping(self._members.active_endpoints())
        if endpoint is not None:
            effects.append(self._exchange.request(Contact(None, endpoint), now))
        return effects

    def _sweep(self, now: float) -> list[Effect]:
        self._timers[_Timer.SWEEP] = now + self._sweep_interval_s
        return self._members.sweep(now)

    def _notice_lag(self, now: float) -> None:
        """Blame nobody for a silence in which this peer itself was stopped or starved.

        Departure from SWIM. A suspended laptop would otherwise accuse the whole swarm when it wakes.
        """
        silence_s = now - self._called_at
        if silence_s <= self._config.probe_timeout_s:  # no deadline can have been missed by more
            self._called_at = now
            return
        deadline = self.deadline
        lag_s = 0.0 if deadline is None else min(silence_s, now - deadline)
        self._called_at = now
        if lag_s > self._config.probe_timeout_s and self._config.lifeguard:
            self._count("lags")
            self._detector.was_stopped()
            self._members.postpone_suspicions(lag_s)
            self._bulletin.postpone(lag_s)
            if _Timer.SWEEP in self._timers:  # let renewals that wait outside come in first
                self._timers[_Timer.SWEEP] = now + self._sweep_interval_s

    # ------------------------------------------------------------------ small parts

    @property
    def _id(self) -> PeerId:
        return self._members.own.peer

    @property
    def _sweep_interval_s(self) -> float:
        return self._config.record_lifetime_s / 20

    def _start_timers(self, now: float) -> None:
        """Each at a random phase: a swarm started by one script must not probe in step."""
        for timer, interval_s in (
            (_Timer.PROBE, self._config.probe_interval_s),
            (_Timer.SYNC, self._config.sync_interval_s),
            (_Timer.ANNOUNCE, self._config.announce_interval_s),
            (_Timer.SWEEP, self._sweep_interval_s),
        ):
            self._timers[timer] = now + self._rng.uniform(0, interval_s)
        self._timers[_Timer.GOSSIP] = now

    def _maybe_renew(self, now: float) -> None:
        own = self._members.own
        if own.deadline <= now and not (own.is_leaving and own.record.leaving):
            own.place(self._coordinates.own)
            self._members.renew_own(now)

    def _try_targets(self, now: float) -> list[Effect]:
        return [self._exchange.request(Contact(None, each), now) for each in self._targets.take_due(now)]

    def _send(self, peer: PeerId, message: Message) -> Send:
        member = self._members.table.get(peer)
        if member is None:
            raise KeyError(peer)
        return Send(member.record.contact, message)

    def _count(self, name: str) -> None:
        self._members.counters[name] += 1
