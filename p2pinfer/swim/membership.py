"""What this peer believes of every member, and how statements of others change it.

Rules:

1. A record is its owner's own word and an accusation its accuser's: both were signature-checked before they
   came here. `supersedes` alone decides whether a record replaces what is held.
2. An accusation counts only against the very incarnation whose record is held. One of an older incarnation is
   refuted already; one that runs ahead would let a liar force its victim to ever higher incarnations.
3. Accusers must be known members, or made-up keys could confirm a suspicion.
4. Who is told to be dead in an incarnation not seen here does not come back with an older one (`unseen`).
5. Another's word of a death counts as one more accuser and no more: each peer takes a member for dead by its
   own clock. So no single liar, and nobody returning from a one-way partition, can kill the living.

Departure from SWIM (4.2), where "confirm" kills at once: suspicions start within a few gossip rounds of each
other and end so, which costs a death a second at most. What a state exchange brings is not gossiped on: after
a partition a flood of accusations would delay the refutations, so the accused is asked directly instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from p2pinfer.effects import Effect, Misbehaved, Notify
from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig, lifetime_stretch, retransmit_limit
from p2pinfer.swim.dissemination import Dissemination
from p2pinfer.swim.member import Claim, Held, Mark, Member, MemberState, Warning, mark_of, supersedes
from p2pinfer.swim.members import MemberTable
from p2pinfer.swim.news import (
    IdentityConflict,
    MemberDead,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUpdated,
)
from p2pinfer.swim.own import OwnRecord
from p2pinfer.swim.suspicion import Suspicion
from p2pinfer.swim.unseen import UnseenDeaths
from p2pinfer.wire.messages.records import PeerRecord, Sign
from p2pinfer.wire.messages.swim import Accusation, Gossip

__all__ = ["Admit", "Membership"]

Admit = Callable[[PeerRecord], bool]
"""Whether a peer that is not known yet may become a member here: a pure function of the application's."""

_WARNING_COUNT_MAX = 1024
"""Peers that wait to be told what is said of them; who finds no room learns it from others."""


class Membership:
    """Applies statements to the table and queues what others should hear.

    Attributes:
        own: This peer's record.
        table: All other members.
        queue: What is still to be told.
        to_warn: Whom the core pings with what is said of it: members accused in a state exchange, and peers
            whose record was not believed.
        admit: The application's veto, if it has one.
        counters: What happened how often, by name.
    """

    def __init__(self, own: OwnRecord, config: SwimConfig, table: MemberTable, sign: Sign) -> None:
        self._config = config
        self._sign = sign
        self._suspicions: dict[PeerId, Suspicion] = {}
        self._unseen = UnseenDeaths()
        self._runs_out_at: float | None = None
        self.own = own
        self.table = table
        self.queue = Dissemination()
        self.to_warn: dict[PeerId, Warning] = {}
        self.admit: Admit | None = None
        self.counters: Counter[str] = Counter()

    @property
    def member_count(self) -> int:
        """Active members, this peer included: the n of every formula."""
        return self.table.active_count + 1

    @property
    def deadline(self) -> float | None:
        """When the next suspicion runs out."""
        if not self._suspicions:
            return None
        if self._runs_out_at is None:  # asked after every input, and seldom changed
            self._runs_out_at = min([each.deadline for each in self._suspicions.values()])
        return self._runs_out_at

    # ------------------------------------------------------------------ statements of others

    def merge_record(self, record: PeerRecord, now: float) -> list[Effect]:
        """Take in a record, from whomever it came."""
        owner = record.owner
        if owner == self.own.peer:
            return self._merge_own(record, now)
        member = self.table.get(owner)
        if member is not None and member.state.is_active and not _is_news(record, member.record):
            self.counters["records_stale"] += 1  # most of what is heard
            return []
        if not self._is_acceptable(record, now) or self._is_outdated_by_death(owner, member, record):
            return []
        state = MemberState.LEFT if record.leaving else MemberState.ALIVE
        if member is None:
            return self._meet(owner, Member(record, state, now))
        if not supersedes(Claim(record.incarnation, state), member.claim) and not self._is_void(member, now):
            self.counters["records_stale"] += 1
            return []
        was = member.state
        member.record, member.accusation = record, None
        self._end_suspicion(owner)
        self.to_warn.pop(owner, None)
        self.table.set_state(owner, member, state, now)
        self.queue.add_record(owner, record)
        if record.leaving:
            return [Notify(MemberLeft(owner))] if was.is_active else []
        return [Notify(MemberUpdated(record) if was.is_active else MemberJoined(record))]

    def merge_accusation(self, accusation: Accusation, now: float, *, hearsay: bool = False) -> list[Effect]:
        """Take in an accusation; `hearsay` if it came with a state exchange."""
        accuser, accused = accusation.owner, accusation.accused
        if accused == self.own.peer:
            self._merge_accusation_of_self(accusation, now)
            return []
        if accuser == accused:
            return [Misbehaved(accuser, "accuses itself of being unreachable")]
        member = self.table.get(accused)
        if self.table.get(accuser) is None:  # also this peer's own word, come back
            self.counters["accusations_ignored"] += 1
            return []
        if member is None or accusation.incarnation > member.record.incarnation:
            kind = "deaths_unseen" if self._unseen.note(accusation, now) else "accusations_ignored"
            self.counters[kind] += 1
            return []
        if accusation.incarnation < member.record.incarnation or not member.state.is_active:
            self.counters["accusations_stale"] += 1
            return []
        return self._become_suspect(accused, member, accusation, now, hearsay=hearsay)

    def merge_state(
        self, records: Sequence[PeerRecord], accusations: Sequence[Accusation], now: float
    ) -> list[Effect]:
        """Take in what a state exchange brought.

        A member unknown here and dead there is remembered as dead without ado: it is no news to anybody.
        """
        dead = {each.accused: each for each in accusations if each.dead}
        effects: list[Effect] = []
        for record in records:
            word = dead.get(record.owner)
            if word is not None and word.incarnation == record.incarnation:
                self._remember_dead(record, word, now)
            effects += self.merge_record(record, now)
        for accusation in accusations:
            effects += self.merge_accusation(accusation, now, hearsay=True)
        return effects

    # ------------------------------------------------------------------ statements of this peer

    def accuse(self, peer: PeerId, incarnation: int, now: float) -> list[Effect]:
        """Suspect a member, or confirm a suspicion, unless it made a newer record since."""
        member = self.table.active(peer)
        if member is None or member.record.incarnation != incarnation:
            return []
        return self._become_suspect(peer, member, self._signed_accusation(peer, member, dead=False), now)

    def renew_own(self, now: float) -> None:
        """Sign this peer's next record and tell it."""
        record = self.own.sign(now, lifetime_stretch(self._config, self.member_count))
        self.queue.add_record(self.own.peer, record)

    def expire(self, now: float) -> list[Effect]:
        """Take those for dead whose suspicion ran out."""
        effects: list[Effect] = []
        for peer in [peer for peer, each in self._suspicions.items() if each.deadline <= now]:
            member = self.table.active(peer)
            if member is not None:
                word = self._signed_accusation(peer, member, dead=True)
                effects += self._become_dead(peer, member, word, now)
        return effects

    def sweep(self, now: float) -> list[Effect]:
        """Suspect whose record ran out, and forget who has been dead or gone for long."""
        effects: list[Effect] = []
        for peer, member in list(self.table):
            if member.state is MemberState.ALIVE and self._is_expired(member.record, now):
                self.counters["records_expired"] += 1
                effects += self.accuse(peer, member.record.incarnation, now)
        self.counters["members_forgotten"] += self.table.forget(lambda member: self._is_over(member, now))
        return effects

    def postpone_suspicions(self, lag_s: float) -> None:
        """This peer was stopped for that long: give every suspect the time back."""
        for suspicion in self._suspicions.values():
            suspicion.postpone(lag_s)
        self._runs_out_at = None

    def fall_silent(self) -> None:
        """Judge nobody and pass nothing on any more: this peer leaves."""
        self._suspicions.clear()
        self._runs_out_at = None
        self.to_warn.clear()
        self.queue.clear()

    # ------------------------------------------------------------------ what is held, for a state exchange

    def marks(self, now: float) -> list[Mark]:
        """What stands for each of what is held."""
        limit_ms = (now - self._config.clock_skew_s_max) * 1000
        marks = [member.mark(peer) for peer, member in self.table if member.record.expires_ms >= limit_ms]
        marks.append(mark_of(self.own.peer, self._own_claim))
        return marks

    def held(self, now: float) -> Iterator[Held]:
        """All whose records have not expired, this peer first."""
        yield Held(self.own.peer, self._own_claim, self.own.record)
        for peer, member in self.table:
            if not self._is_expired(member.record, now):
                yield Held(peer, member.claim, member.record, member.accusation)

    @property
    def _own_claim(self) -> Claim:
        own = self.own.record
        return Claim(own.incarnation, MemberState.LEFT if own.leaving else MemberState.ALIVE)

    def pack(self, to: PeerId | None, *first: PeerRecord | Accusation) -> Gossip:
        """Gossip for `to`: the accusation against it, if there is one, then what is most urgent to tell."""
        accused = self.table.get(to) if to is not None and self._config.lifeguard else None
        word: tuple[Accusation, ...] = (accused.accusation,) if accused and accused.accusation else ()
        limit = retransmit_limit(self._config.retransmit_factor, self.member_count)
        return self.queue.pack(self._config.datagram_body_bytes_max, limit, to, first=(*word, *first))

    def active_endpoints(self) -> set[Endpoint]:
        """Where active members listen, this peer included."""
        held = {member.record.endpoint for _, member in self.table if member.state.is_active}
        return held | {self.own.record.endpoint}

    # ------------------------------------------------------------------ how beliefs change

    def _meet(self, owner: PeerId, member: Member) -> list[Effect]:
        if self.admit is not None and not self.admit(member.record):
            self.counters["members_vetoed"] += 1
            return []
        if not self.table.add(owner, member):
            self.counters["members_refused"] += 1
            return []
        if member.state is MemberState.LEFT:  # kept only so that an older record cannot bring it back
            return []
        self.queue.add_record(owner, member.record)
        return [Notify(MemberJoined(member.record))]

    def _remember_dead(self, record: PeerRecord, word: Accusation, now: float) -> None:
        owner = record.owner
        known = self.table.get(owner) is not None or owner == self.own.peer
        if not known and self._is_acceptable(record, now):
            self.table.add(owner, Member(record, MemberState.DEAD, now, word))

    def _end_suspicion(self, peer: PeerId) -> None:
        if self._suspicions.pop(peer, None) is not None:
            self._runs_out_at = None

    def _become_suspect(
        self, peer: PeerId, member: Member, accusation: Accusation, now: float, *, hearsay: bool = False
    ) -> list[Effect]:
        suspicion = self._suspicions.get(peer)
        if suspicion is None:
            self._suspicions[peer] = Suspicion(self._config, self.member_count, accusation.owner, now)
        elif not suspicion.confirm(accusation.owner):
            return []
        self._runs_out_at = None
        if hearsay:
            self._warn(peer, Warning(member.record.contact, accusation))
        else:
            self.queue.add_accusation(accusation.owner, accusation)
        if member.state is MemberState.SUSPECT:
            return []
        member.accusation = accusation
        self.table.set_state(peer, member, MemberState.SUSPECT, now)
        return [Notify(MemberSuspected(peer))]

    def _become_dead(self, peer: PeerId, member: Member, word: Accusation, now: float) -> list[Effect]:
        self._end_suspicion(peer)
        self.to_warn.pop(peer, None)
        member.accusation = word
        self.table.set_state(peer, member, MemberState.DEAD, now)
        self.queue.add_accusation(word.owner, word)
        return [Notify(MemberDead(peer))]

    def _is_outdated_by_death(self, owner: PeerId, member: Member | None, record: PeerRecord) -> bool:
        """Whether its owner is said to have died in this incarnation or a later one."""
        word = self._unseen.against(owner, record.incarnation)
        if word is None or record.leaving or (member is not None and member.state.is_active):
            return False
        self.counters["records_of_the_dead"] += 1
        self._warn(owner, Warning(record.contact, word))  # if it lives after all, it will say so
        return True

    def _warn(self, peer: PeerId, warning: Warning) -> None:
        if peer in self.to_warn or len(self.to_warn) < _WARNING_COUNT_MAX:
            self.to_warn[peer] = warning

    def _merge_own(self, record: PeerRecord, now: float) -> list[Effect]:
        own = self.own.record
        if record.incarnation < own.incarnation or record == own:
            return []
        # An earlier life of this peer, whose clock was ahead, or a second process with the same key.
        self.counters["own_record_conflicts"] += 1
        if self._is_timely(record.incarnation, now):
            self.own.refute(record.incarnation, now)
        if record.endpoint == own.endpoint:
            return []
        return [Notify(IdentityConflict(record.endpoint))]

    def _merge_accusation_of_self(self, accusation: Accusation, now: float) -> None:
        said, own = accusation.incarnation, self.own.record.incarnation
        # Who was dead to somebody in an incarnation that it does not remember signs one above that.
        is_death_ahead = accusation.dead and own < said <= now * 1000
        if (said == own or is_death_ahead) and not self.own.is_leaving:
            self.counters["refutations"] += 1
            self.own.refute(said, now)

    def _signed_accusation(self, peer: PeerId, member: Member, *, dead: bool) -> Accusation:
        return self._sign(
            Accusation(
                public_key=self.own.record.public_key,
                accused=peer,
                incarnation=member.record.incarnation,
                dead=dead,
            )
        )

    # ------------------------------------------------------------------ what is believable

    def _is_acceptable(self, record: PeerRecord, now: float) -> bool:
        if not record.is_plausible or not self._is_timely(record.incarnation, now):
            self.counters["records_implausible"] += 1
            return False
        if self._is_expired(record, now):
            self.counters["records_expired_refused"] += 1
            return False
        return True

    def _is_timely(self, incarnation: int, now: float) -> bool:
        """Incarnations follow the clock: one from the future would outlive every honest one."""
        return incarnation <= (now + self._config.clock_skew_s_max) * 1000

    def _is_expired(self, record: PeerRecord, now: float) -> bool:
        return record.expires_ms < (now - self._config.clock_skew_s_max) * 1000

    def _is_void(self, member: Member, now: float) -> bool:
        """Whether what is held is past and expired: its incarnation then binds nobody.

        Or a peer that lost its disk and whose clock went back would stay dead for as long as it is
        remembered: what it could learn its earlier incarnation from has expired everywhere.
        """
        return not member.state.is_active and self._is_expired(member.record, now)

    def _is_over(self, member: Member, now: float) -> bool:
        """Whether a member need not be remembered: no record of it can come back to life by itself."""
        if not self._is_expired(member.record, now):
            return False
        return member.state is MemberState.LEFT or member.since + self._config.remember_dead_s <= now


def _is_news(record: PeerRecord, held: PeerRecord) -> bool:
    """Whether a record may supersede the one that is held of a member that lives."""
    if record.leaving:
        return record.incarnation >= held.incarnation
    return record.incarnation > held.incarnation
