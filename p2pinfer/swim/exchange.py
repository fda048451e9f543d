"""State exchanges: two members tell each other what either lacks, and no more than that.

Rules:

1. Members fall into buckets by the first bits of their ids, about four to a bucket. The request has a sum for
   each; only buckets whose sums differ travel, first the other's side, then the rest of ours. So an exchange
   costs 9 bytes for four members that both know alike, where the whole table is 300 for each one.
2. A record that expired does not count and does not travel.
3. Answers are rationed: each may be megabytes in a large swarm.

Source: the digest of an anti-entropy round (Demers et al. 1987, section 1.3, "checksums"), for memberlist's
push-pull, which sends the whole table each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2pinfer.effects import Effect, Misbehaved, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.member import MARK_BITS, PREFIX_BITS, Claim, Held, Mark, MemberState
from p2pinfer.swim.membership import Membership
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import (
    BUCKET_COUNT_MAX,
    STATE_ITEMS_COUNT_MAX,
    Accusation,
    StateReply,
    StateRequest,
    StateRest,
)

__all__ = ["Exchange", "bucket_count_for", "bucket_of", "sums_of"]

_MEMBERS_PER_BUCKET = 4
_SUM_MASK = (1 << MARK_BITS) - 1


class Exchange:
    """This peer's side of all state exchanges."""

    def __init__(self, members: Membership, config: SwimConfig) -> None:
        self._members = members
        self._config = config
        self._replies_left = config.sync_reply_count_max

    def begin_period(self) -> None:
        """A probe interval has passed: as many answers may go out again."""
        self._replies_left = self._config.sync_reply_count_max

    def request(self, to: Contact, now: float) -> Send:
        """Ask a member, or whoever answers at an endpoint, for what it knows better."""
        marks = self._members.marks(now)
        sums = sums_of(marks, bucket_count_for(len(marks)))
        return Send(to, StateRequest(records=(self._members.own.record,), sums=sums))

    def on_request(self, sender: Contact, request: StateRequest, now: float) -> list[Effect]:
        """Answer with all that is held in the buckets that differ."""
        count = len(request.sums)
        if not count or count & (count - 1):
            return [Misbehaved(sender.peer, f"asks for {count} buckets")] if sender.peer else []
        effects = self._members.merge_state(request.records, (), now)
        if self._replies_left <= 0:
            self._members.counters["sync_refused"] += 1
            return effects
        self._replies_left -= 1
        sums = sums_of(self._members.marks(now), count)
        wanted = [
            index
            for index, (ours, theirs) in enumerate(zip(sums, request.sums, strict=True))
            if ours != theirs
        ]
        held = _inside(self._members.held(now), count, wanted) if wanted else ()
        records, accusations = _statements(held)
        reply = StateReply(records=records, accusations=accusations, bucket_count=count, wanted=tuple(wanted))
        self._members.counters["sync_records_sent"] += len(records)
        return [*effects, Send(sender, reply)]

    def on_reply(self, sender: Contact, reply: StateReply, now: float) -> list[Effect]:
        """Take the other's side in, and send what it lacks of ours."""
        effects = self._members.merge_state(reply.records, reply.accusations, now)
        if not reply.wanted or reply.bucket_count & (reply.bucket_count - 1):
            return effects
        theirs = _claims(reply)
        held = _inside(self._members.held(now), reply.bucket_count, reply.wanted)
        rest = [each for each in held if each.claim > theirs.get(each.peer, _NOTHING)]
        if rest:
            records, accusations = _statements(rest)
            self._members.counters["sync_records_sent"] += len(records)
            effects.append(Send(sender, StateRest(records=records, accusations=accusations)))
        return effects

    def on_rest(self, rest: StateRest, now: float) -> list[Effect]:
        """Take the requester's side in."""
        return self._members.merge_state(rest.records, rest.accusations, now)


def bucket_count_for(member_count: int) -> int:
    """How many buckets a table of that size is compared by: a power of two."""
    wanted = -(-member_count // _MEMBERS_PER_BUCKET)
    return min(BUCKET_COUNT_MAX, 1 << max(0, wanted - 1).bit_length())


def bucket_of(peer: PeerId, bucket_count: int) -> int:
    """Into which of so many buckets a member falls."""
    return int.from_bytes(peer[:2], "big") * bucket_count >> PREFIX_BITS


def sums_of(marks: Iterable[Mark], bucket_count: int) -> tuple[int, ...]:
    """What stands for everything held in each bucket."""
    sums = [0] * bucket_count
    for prefix, number in marks:
        sums[prefix * bucket_count >> PREFIX_BITS] += number
    return tuple(each & _SUM_MASK for each in sums)


def _inside(held: Iterable[Held], bucket_count: int, wanted: Iterable[int]) -> Iterator[Held]:
    indices = set(wanted)
    return (each for each in held if bucket_of(each.peer, bucket_count) in indices)


_NOTHING = Claim(-1, MemberState.ALIVE)


def _claims(reply: StateReply) -> dict[PeerId, Claim]:
    """What a reply says of each member, as claims that ours are held against."""
    claims: dict[PeerId, Claim] = {}
    for record in reply.records:
        state = MemberState.LEFT if record.leaving else MemberState.ALIVE
        claims[record.owner] = Claim(record.incarnation, state)
    for word in reply.accusations:
        state = MemberState.DEAD if word.dead else MemberState.SUSPECT
        known = claims.get(word.accused)
        if known is not None and known.incarnation == word.incarnation:
            claims[word.accused] = max(known, Claim(word.incarnation, state))
    return claims


def _statements(held: Iterable[Held]) -> tuple[tuple[PeerRecord, ...], tuple[Accusation, ...]]:
    each = tuple(held)[:STATE_ITEMS_COUNT_MAX]
    return tuple(h.record for h in each), tuple(h.accusation for h in each if h.accusation is not None)
