"""What still has to be told, and how often each statement was told already.

Rules:

1. A statement is sent `retransmit_limit` times, whoever to: enough for an epidemic to reach everybody with a
   probability that grows with the factor (SWIM 4.1).
2. Least often sent goes first. Of news about members the newest: fresh news overtakes old news that most have
   heard, and a newer statement about a member takes the place of those that it supersedes, so the queue never
   holds more than a record and a few accusations for each. Of broadcasts the oldest of each sender, and
   senders take turns, whatever each has queued.
3. News about members and broadcasts take turns in filling a datagram. Whose turn it is has two thirds of the
   room, or one statement that is larger; the others have the rest, a third unless such a one is there; what
   they leave goes to the first again. So neither starves the other, and whatever fits a datagram leaves in
   one of the next two.
4. What fits no datagram is dropped and counted: it would never leave, and be looked at for ever.

Departure from memberlist and serf, which fill a datagram with news about members first, then with queries,
then with events: in large or unquiet swarms nothing is left for the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from p2pinfer.ids import PeerId
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import Broadcast, Query, UserEvent
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import Accusation, Gossip

__all__ = ["BROADCASTS_COUNT_MAX", "GOSSIP_ROOM_BYTES", "Dissemination", "room_bytes"]

GOSSIP_ROOM_BYTES = 128
"""What the message around the statements may take: tags, list headers, a sequence number, a coordinate."""
BROADCASTS_COUNT_MAX = 256
"""Broadcasts queued, at most 200 kB; more would be told too late. serf drops above 4096."""
_STATEMENT_BYTES_MIN = 100
"""Nothing signed is smaller: when less room than this is left, the search for what fits ends."""
_LOOKED_AT_COUNT_MAX = 64
"""Statements tried for a datagram: those that do not fit it are first in a later one."""

Statement = PeerRecord | Accusation
_Key = tuple[PeerId, PeerId]
"""Whom a statement is about, and who makes it."""


def room_bytes(size_bytes_max: int) -> int:
    """What statements may take of a message of that size."""
    return size_bytes_max - GOSSIP_ROOM_BYTES


@dataclass(slots=True, eq=False)
class _Queued:
    key: _Key
    statement: Statement
    size_bytes: int
    sent_count: int = 0


@dataclass(slots=True, eq=False)
class _QueuedBroadcast:
    owner: PeerId
    statement: Broadcast
    size_bytes: int
    turn: int
    sent_count: int = 0


class _BroadcastQueue:
    """Broadcasts by sender, each sender's in the order in which they came.

    Every broadcast is given a turn: one after the sender's last, or where nothing of it waits, the one that
    was served last. So a sender with one waits behind one of each other and not behind all that they have.
    Source: Goyal et al., "Start-time Fair Queuing" (SIGCOMM 1996), with statements for bytes.
    """

    __slots__ = ("_by_owner", "_count", "_turn")

    def __init__(self) -> None:
        self._by_owner: dict[PeerId, dict[int, _QueuedBroadcast]] = {}
        self._count = 0
        self._turn = 0

    def __len__(self) -> int:
        return self._count

    def add(self, owner: PeerId, broadcast: Broadcast) -> None:
        own = self._by_owner.setdefault(owner, {})
        if broadcast.sequence in own:
            return
        turn = max(self._turn, next(reversed(own.values())).turn + 1) if own else self._turn
        own[broadcast.sequence] = _QueuedBroadcast(owner, broadcast, encoded_size(broadcast), turn)
        self._count += 1

    def drop_oldest(self) -> None:
        """Make room at the cost of the sender that has most."""
        owner = max(self._by_owner, key=lambda each: len(self._by_owner[each]))
        self.remove(next(iter(self._by_owner[owner].values())))

    def in_order(self, to: PeerId | None) -> list[_QueuedBroadcast]:
        """All that `to` may want, first what should be told first."""
        waiting = [each for owner, own in self._by_owner.items() if owner != to for each in own.values()]
        return sorted(waiting, key=lambda each: (each.sent_count, each.turn))

    def sent(self, queued: _QueuedBroadcast, limit: int) -> None:
        if queued.sent_count == 0:
            self._turn = max(self._turn, queued.turn)
        queued.sent_count += 1
        if queued.sent_count >= limit:
            self.remove(queued)

    def remove(self, queued: _QueuedBroadcast) -> None:
        own = self._by_owner[queued.owner]
        del own[queued.statement.sequence]
        if not own:
            del self._by_owner[queued.owner]
        self._count -= 1


class _Packing:
    """One datagram being filled."""

    __slots__ = ("_room", "_whole", "hopeless", "taken")

    def __init__(self, whole_bytes: int, room_bytes: int) -> None:
        self._whole = whole_bytes
        self._room = room_bytes
        self.taken: dict[_Queued | _QueuedBroadcast, None] = {}
        self.hopeless: dict[_Queued | _QueuedBroadcast, None] = {}

    def share_bytes(self) -> int:
        """What the kind whose turn it is may take before the other."""
        return self._room * 2 // 3

    def take(self, order: Iterable[_Queued | _QueuedBroadcast], budget_bytes: int | None = None) -> None:
        """Take what fits the budget, or one statement that needs more; without a budget, whatever fits."""
        spent = 0
        for queued in islice(order, _LOOKED_AT_COUNT_MAX):
            left = self._room if budget_bytes is None or not spent else min(self._room, budget_bytes - spent)
            if left < _STATEMENT_BYTES_MIN:
                return
            if queued in self.taken:
                continue
            if queued.size_bytes > self._whole:
                self.hopeless[queued] = None
            elif queued.size_bytes <= left:
                self.taken[queued] = None
                self._room -= queued.size_bytes
                spent += queued.size_bytes


class Dissemination:
    """The queue of statements to tell.

    Attributes:
        counters: What was dropped untold, by name.
    """

    __slots__ = ("_about", "_broadcasts", "_broadcasts_first", "_tiers", "counters")

    def __init__(self) -> None:
        self._about: dict[PeerId, dict[PeerId, _Queued]] = {}
        self._tiers: dict[int, dict[_Key, _Queued]] = {}
        self._broadcasts = _BroadcastQueue()
        self._broadcasts_first = True
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(tier) for tier in self._tiers.values()) + len(self._broadcasts)

    def __bool__(self) -> bool:
        return bool(self._about) or len(self._broadcasts) > 0

    @property
    def broadcast_count(self) -> int:
        """How many of the statements are broadcasts."""
        return len(self._broadcasts)

    def add_record(self, owner: PeerId, record: PeerRecord) -> None:
        """Tell a record; it supersedes everything queued about its owner."""
        self.drop(owner)
        self._add((owner, owner), record)

    def add_accusation(self, accuser: PeerId, accusation: Accusation) -> None:
        """Tell an accusation; word of a death supersedes suspicions, but not the record it speaks of."""
        accused = accusation.accused
        if accusation.dead:
            for other in [key for key in self._about.get(accused, ()) if key != accused]:
                self._remove(self._about[accused][other])
        elif (old := self._about.get(accused, {}).get(accuser)) is not None:
            self._remove(old)
        self._add((accused, accuser), accusation)

    def add_broadcast(self, owner: PeerId, broadcast: Broadcast) -> None:
        """Tell an event or a query; where too many wait, the oldest of who has most is dropped."""
        self._broadcasts.add(owner, broadcast)
        if len(self._broadcasts) > BROADCASTS_COUNT_MAX:
            self._broadcasts.drop_oldest()
            self.counters["broadcasts_dropped"] += 1

    def clear(self) -> None:
        """Tell nothing more at all."""
        self._about.clear()
        self._tiers.clear()
        self._broadcasts = _BroadcastQueue()

    def drop(self, peer: PeerId) -> None:
        """Tell nothing more about a peer."""
        for queued in list(self._about.get(peer, {}).values()):
            self._remove(queued)

    def pack(
        self, size_bytes_max: int, limit: int, to: PeerId | None, *, first: Sequence[Statement]
    ) -> Gossip:
        """Fill one message: `first` whatever was sent before, then from both queues what fits.

        Each statement taken from a queue counts as sent once and is dropped when it reaches `limit`.
        Nobody is told a record or a broadcast of its own.
        """
        whole = room_bytes(size_bytes_max)
        packing = _Packing(whole, whole - sum(encoded_size(statement) for statement in first))
        if self.broadcast_count == 0:
            packing.take(self._in_order(to, first))
        elif not self._about:
            packing.take(self._broadcasts.in_order(to))
        else:
            self._take_turns(packing, to, first)
        for queued in packing.hopeless:
            self._drop_hopeless(queued)
        chosen: list[Statement | Broadcast] = [*first, *(each.statement for each in packing.taken)]
        for queued in reversed(packing.taken):  # reversed, so that the newest stays the newest of its tier
            if isinstance(queued, _Queued):
                self._sent(queued, limit)
            else:
                self._broadcasts.sent(queued, limit)
        return Gossip(
            records=tuple(each for each in chosen if isinstance(each, PeerRecord)),
            accusations=tuple(each for each in chosen if isinstance(each, Accusation)),
            broadcasts=tuple(each for each in chosen if isinstance(each, UserEvent | Query)),
        )

    def _take_turns(self, packing: _Packing, to: PeerId | None, first: Sequence[Statement]) -> None:
        """Fill a datagram where both kinds wait; see rule 3."""
        broadcasts = self._broadcasts.in_order(to)
        share = packing.share_bytes()
        if self._broadcasts_first:
            packing.take(broadcasts, share)
            packing.take(self._in_order(to, first))
            packing.take(broadcasts)
        else:
            packing.take(self._in_order(to, first), share)
            packing.take(broadcasts)
            packing.take(self._in_order(to, first))
        self._broadcasts_first = not self._broadcasts_first

    def _in_order(self, to: PeerId | None, first: Sequence[Statement]) -> Iterator[_Queued]:
        """What `to` should hear of members and is not told anyway, most urgent first."""
        for sent_count in sorted(self._tiers):
            for queued in reversed(self._tiers[sent_count].values()):
                if queued.key != (to, to) and queued.statement not in first:
                    yield queued

    def _add(self, key: _Key, statement: Statement) -> None:
        queued = _Queued(key, statement, encoded_size(statement))
        self._about.setdefault(key[0], {})[key[1]] = queued
        self._tiers.setdefault(0, {})[key] = queued

    def _remove(self, queued: _Queued) -> None:
        self._leave_tier(queued)
        about = self._about[queued.key[0]]
        del about[queued.key[1]]
        if not about:
            del self._about[queued.key[0]]

    def _drop_hopeless(self, queued: _Queued | _QueuedBroadcast) -> None:
        self.counters["statements_too_large"] += 1
        if isinstance(queued, _Queued):
            self._remove(queued)
        else:
            self._broadcasts.remove(queued)

    def _leave_tier(self, queued: _Queued) -> None:
        tier = self._tiers[queued.sent_count]
        del tier[queued.key]
        if not tier:
            del self._tiers[queued.sent_count]

    def _sent(self, queued: _Queued, limit: int) -> None:
        if queued.sent_count + 1 >= limit:
            self._remove(queued)
            return
        self._leave_tier(queued)
        queued.sent_count += 1
        self._tiers.setdefault(queued.sent_count, {})[queued.key] = queued
