"""What applications tell and ask everybody: events, queries and answers, on top of the dissemination.

Rules:

1. A broadcast is its sender's own word, signed and dated. It is passed on once by everybody who hears it for
   the first time, whether or not it is for them, and handed to the application in its sender's order.
2. Senders are members, or made-up keys could fill the queues; each has a quota of its own in all of them.
3. What cannot reach everybody is refused where it is said: too large, too much, too long.

A broadcast is told to who is there: a newcomer gets what is still on its way, and no history. Who needs more
keeps it and answers queries for it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from p2pinfer.effects import Effect, Message, Notify, Send
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.dissemination import room_bytes
from p2pinfer.swim.events import (
    BROADCASTS_PER_S,
    BURST_COUNT,
    LIFETIME_S,
    Allowance,
    Heard,
    Inbox,
    LamportClock,
)
from p2pinfer.swim.membership import Membership
from p2pinfer.swim.news import EventHeard, QueryAsked, QueryEnded, QueryId
from p2pinfer.swim.queries import AnswerBook, QueryBook
from p2pinfer.swim.repair import Repair
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import (
    ANSWER_SIZE_BYTES_MAX,
    KEPT_COUNT_MAX,
    LIFETIME_MS_MAX,
    NAME_SIZE_BYTES_MAX,
    PAYLOAD_SIZE_BYTES_MAX,
    RECENT_COUNT_MAX,
    Broadcast,
    BroadcastDigest,
    Query,
    QueryFilter,
    QueryReply,
    UserEvent,
)
from p2pinfer.wire.messages.records import Sign

__all__ = ["EVERYBODY", "Bulletin"]

EVERYBODY = QueryFilter()
"""The filter that holds for every member."""
_QUERY_ROUNDS = 16
"""A query lasts so many gossip rounds for each digit of the member count, as in serf."""
_GAP_ROUNDS = 8
"""A gap is waited for so many, half a query's time: an epidemic needs fewer, and a query that waits
behind the gap can still be answered."""
_SEQUENCE_MAX = 1 << 62
"""Above every clock: a number to go on from leaves room for others above it."""
_UNSIGNED = bytes(64)
"""Stands for a signature where only its size matters."""

B = TypeVar("B", UserEvent, Query)


class Bulletin:
    """One peer's part in what its swarm's applications tell and ask each other."""

    __slots__ = (
        "_allowance",
        "_answers",
        "_clock",
        "_config",
        "_counters",
        "_inbox",
        "_members",
        "_queries",
        "_repair",
        "_sent_at",
        "_sequence",
        "_sign",
    )

    def __init__(self, members: Membership, config: SwimConfig, sign: Sign, now: float) -> None:
        self._members = members
        self._config = config
        self._sign = sign
        self._clock = LamportClock()
        self._sequence = max(1, int(now * 1000))
        self._sent_at: deque[float] = deque(maxlen=KEPT_COUNT_MAX)
        self._allowance = Allowance(BROADCASTS_PER_S, BURST_COUNT, now)
        self._inbox = Inbox(now)
        self._repair = Repair(config, self._next_of, now)
        self._queries = QueryBook(config.probe_interval_s)
        self._answers = AnswerBook()
        self._counters: Counter[str] = Counter()

    # ------------------------------------------------------------------ commands

    def broadcast(self, name: str, payload: bytes, now: float) -> list[Effect]:
        """Tell everybody, this peer's own application included.

        Raises:
            LocalProtocolError: The name has not 1 to 64 bytes, or the payload more than 512.
            Overloaded: More than 5 broadcasts a second, or 32 at once; it says when to come back.
        """
        _check_words(name, payload)
        event = UserEvent(
            public_key=self._members.own.record.public_key,
            sequence=self._sequence,
            time_us=self._clock.stamp(now),
            recent=min(RECENT_COUNT_MAX, self._sent_within(self._gap_wait_s, now)),
            kept=self._sent_within(LIFETIME_S, now),
            name=name,
            payload=payload,
        )
        return [Notify(_heard(self._tell(event, now)))]

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
        """Ask all members for which `to` holds, this peer itself left out; answers come as news.

        Args:
            name: The kind of question, 1 to 64 bytes.
            payload: Its content, up to 512 bytes, or less beside a large filter.
            now: The time.
            to: Whom it is for.
            timeout_s: How long answers are wanted, 0.001 to 600; None takes what an epidemic needs.
            wants_ack: Whether those who are asked say so at once, told as `QueryAcked`.

        Raises:
            LocalProtocolError: Something of it has not the right size.
            Overloaded: Too many broadcasts at a time, as for `broadcast`, or 64 queries are open.
        """
        _check_words(name, payload)
        lifetime_s = self._query_lifetime_s if timeout_s is None else timeout_s
        if not 0.001 <= lifetime_s <= LIFETIME_MS_MAX / 1000:
            raise LocalProtocolError(
                f"a query lasts 0.001 to {LIFETIME_MS_MAX // 1000} seconds, not {lifetime_s:g}"
            )
        query = Query(
            public_key=self._members.own.record.public_key,
            sequence=self._sequence,
            time_us=self._clock.stamp(now),
            recent=min(RECENT_COUNT_MAX, self._sent_within(self._gap_wait_s, now)),
            kept=self._sent_within(LIFETIME_S, now),
            name=name,
            payload=payload,
            to=to,
            lifetime_ms=int(lifetime_s * 1000),
            wants_ack=wants_ack,
        )
        self._check_room(query)
        if self._queries.is_full:
            raise Overloaded(f"{len(self._queries)} queries are open: wait until some have ended")
        self._tell(query, now)
        query_id = QueryId(self._members.own.peer, query.sequence)
        if self._members.table.active_count == 0:
            return query_id, [Notify(QueryEnded(query_id, ()))]
        asked = [
            peer
            for peer, member in self._members.table
            if member.state.is_active and to.matches(peer, member.record)
        ]
        self._queries.open(query_id, to, asked, now, now + lifetime_s)
        return query_id, []

    def answer(self, query: QueryId, payload: bytes, now: float) -> list[Effect]:
        """Answer a query that came as `QueryAsked`; too late, or a second time, nothing happens.

        Raises:
            LocalProtocolError: The answer has more than 1024 bytes, or does not fit a datagram.
        """
        if len(payload) > ANSWER_SIZE_BYTES_MAX:
            raise LocalProtocolError(
                f"an answer has at most {ANSWER_SIZE_BYTES_MAX} bytes, not {len(payload)}: "
                "say where to get it"
            )
        reply = QueryReply(sequence=query.sequence, payload=payload)
        surplus = encoded_size(reply) - self._config.datagram_body_bytes_max
        if surplus > 0:
            raise LocalProtocolError(
                f"an answer of {len(payload)} bytes does not fit a datagram: shorten it by {surplus}"
            )
        if not self._answers.close(query, now):
            return []
        return self._send(query.asker, reply)

    # ------------------------------------------------------------------ inputs

    def receive(self, sender: Contact, message: QueryReply | BroadcastDigest, now: float) -> list[Effect]:
        """Take what a member sends to this one alone."""
        if sender.peer is None or self._members.table.get(sender.peer) is None:
            self._counters["broadcasts_of_strangers"] += 1
            return []
        if isinstance(message, QueryReply):
            return self._on_reply(sender.peer, message)
        answer = self._repair.answer(message, now)
        if answer is None:
            self._counters["digests_refused"] += 1
            return []
        return [each for part in answer for each in self._send(sender.peer, part)]

    def merge(self, broadcast: Broadcast, now: float) -> list[Effect]:
        """Take in what gossip brought; whose word it is was checked before."""
        owner = broadcast.owner
        skew_s = self._config.clock_skew_s_max
        oldest_us = int((now - LIFETIME_S - skew_s) * 1e6)
        if not oldest_us <= broadcast.time_us <= (now + skew_s) * 1e6:
            self._counters["broadcasts_untimely"] += 1
            return []
        if owner == self._members.own.peer:
            self._merge_own(broadcast)
            return []
        if self._members.table.get(owner) is None:
            self._counters["broadcasts_of_strangers"] += 1
            return []
        ready = self._inbox.take(owner, broadcast, now, oldest_us=oldest_us)
        if ready is None:
            return []
        self._clock.witness(broadcast.time_us)
        self._repair.keep(owner, broadcast, now, waits_for=self._inbox.waits_for)
        if encoded_size(broadcast) <= room_bytes(self._config.datagram_body_bytes_max):
            self._members.queue.add_broadcast(owner, broadcast)
        else:  # of a peer with another setting
            self._counters["broadcasts_too_large"] += 1
        return self._deliver(ready, now)

    # ------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        earliest = min(self._repair.deadline, self._queries.deadline)
        if self._inbox.waits_for is not None:
            earliest = min(earliest, self._inbox.deadline(self._gap_wait_s))
        return earliest if earliest < math.inf else None

    def tick(self, now: float) -> list[Effect]:
        """Ask for what is lacking, skip gaps that were waited for, and end queries whose time is over."""
        due = self._repair.tick(now, waits_for=self._inbox.waits_for, draw=self._draw)
        effects = self._send(*due) if due is not None else []
        effects += self._deliver(self._inbox.expire(now, self._gap_wait_s), now)
        ended = self._queries.expire(now, lambda peer: self._members.table.active(peer) is not None)
        return effects + [Notify(each) for each in ended]

    def postpone(self, lag_s: float) -> None:
        """This peer was stopped for that long: skip no gap for it."""
        self._inbox.postpone(lag_s)

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, and gauges: `broadcasts_queued`, `broadcasts_held`, `queries_open` ..."""
        return {
            **self._counters,
            **self._inbox.counters,
            **self._queries.counters,
            **self._answers.counters,
            **self._members.queue.counters,
            "broadcasts_queued": self._members.queue.broadcast_count,
            "broadcasts_held": self._inbox.held_count,
            "broadcast_senders": len(self._inbox),
            "queries_open": len(self._queries),
            "questions_open": len(self._answers),
            "broadcasts_kept": len(self._repair),
        }

    # ------------------------------------------------------------------ small parts

    @property
    def _digits(self) -> int:
        """The decimal digits of the member count: what an epidemic's rounds grow with."""
        return math.ceil(math.log10(self._members.member_count + 1))

    @property
    def _gap_wait_s(self) -> float:
        return self._config.gossip_interval_s * _GAP_ROUNDS * self._digits

    @property
    def _query_lifetime_s(self) -> float:
        return min(LIFETIME_MS_MAX / 1000, self._config.gossip_interval_s * _QUERY_ROUNDS * self._digits)

    def _sent_within(self, seconds: float, now: float) -> int:
        """How many broadcasts this peer made within so long."""
        return sum(at + seconds > now for at in self._sent_at)

    def _tell(self, unsigned: B, now: float) -> B:
        """Sign a broadcast and queue it; the number is used up only then."""
        if not self._allowance.take(now):
            wait_s = self._allowance.wait_s(now)
            raise Overloaded(
                f"a peer broadcasts {BROADCASTS_PER_S:g} times a second: wait {wait_s:.1f} s",
                retry_after_s=wait_s,
            )
        signed = self._sign(unsigned)
        self._sequence += 1
        self._sent_at.append(now)
        self._counters["broadcasts_sent"] += 1
        self._members.queue.add_broadcast(self._members.own.peer, signed)
        self._repair.keep(self._members.own.peer, signed, now, waits_for=None)
        return signed

    def _draw(self) -> PeerId | None:
        return next(iter(self._members.table.choose_active(1)), None)

    def _next_of(self, owner: PeerId) -> int:
        return self._sequence if owner == self._members.own.peer else self._inbox.next_of(owner)

    def _check_room(self, query: Query) -> None:
        size = encoded_size(replace(query, signature=_UNSIGNED))
        surplus = size - room_bytes(self._config.datagram_body_bytes_max)
        if surplus > 0:
            raise LocalProtocolError(
                f"a query of {size} bytes does not fit a datagram: shorten its payload by {surplus}, "
                "or name fewer peers"
            )

    def _on_reply(self, peer: PeerId, reply: QueryReply) -> list[Effect]:
        to, member = self._queries.filter_of(reply.sequence), self._members.table.active(peer)
        is_meant = to is not None and member is not None and to.matches(peer, member.record)
        return [Notify(each) for each in self._queries.hear(peer, reply, is_meant=is_meant)]

    def _merge_own(self, broadcast: Broadcast) -> None:
        """An echo; or of an earlier life whose clock was ahead: go on above it, or nobody would listen."""
        if self._sequence <= broadcast.sequence < _SEQUENCE_MAX:
            self._counters["own_broadcast_conflicts"] += 1
            self._sequence = broadcast.sequence + 1
            self._sent_at.clear()
        self._clock.witness(broadcast.time_us)

    def _deliver(self, ready: list[Heard], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for each in ready:
            if isinstance(each.broadcast, Query):
                effects += self._put(each.broadcast, each.at, now)
            else:
                self._counters["events_heard"] += 1
                effects.append(Notify(_heard(each.broadcast)))
        return effects

    def _put(self, query: Query, heard_at: float, now: float) -> list[Effect]:
        """Ask the application here, if the query is for this peer."""
        own, asker = self._members.own, query.owner
        if not query.to.matches(own.peer, own.record):
            return []
        lifetime_s = query.lifetime_ms / 1000
        ends_at = heard_at + lifetime_s
        query_id = QueryId(asker, query.sequence)
        asked_s = query.time_us / 1e6
        if ends_at <= now or asked_s + lifetime_s + self._config.clock_skew_s_max < now:
            self._counters["queries_over"] += 1  # it waited for one before it, or came late itself
            return []
        if not self._answers.open(query_id, now, ends_at):
            return []
        self._counters["queries_heard"] += 1
        ack = QueryReply(sequence=query.sequence, is_ack=True)
        effects = self._send(asker, ack) if query.wants_ack else []
        return [*effects, Notify(QueryAsked(query_id, query.name, query.payload, ends_at))]

    def _send(self, peer: PeerId, message: Message) -> list[Effect]:
        """To a live member alone: an endpoint that answers no probe might be anybody's."""
        member = self._members.table.active(peer)
        return [] if member is None else [Send(member.record.contact, message)]


def _heard(event: UserEvent) -> EventHeard:
    return EventHeard(event.owner, event.name, event.payload, event.time_us)


def _check_words(name: str, payload: bytes) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a name is text that UTF-8 has: {error.reason}") from error
    if not 1 <= size <= NAME_SIZE_BYTES_MAX:
        raise LocalProtocolError(f"a name has 1 to {NAME_SIZE_BYTES_MAX} bytes, not {size}")
    if len(payload) > PAYLOAD_SIZE_BYTES_MAX:
        raise LocalProtocolError(
            f"a payload has at most {PAYLOAD_SIZE_BYTES_MAX} bytes, not {len(payload)}: nothing larger fits "
            "beside other news in a datagram; keep it and tell where to get it"
        )
