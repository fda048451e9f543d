"""What was broadcast by whom, in which order: once each, in the sender's order, in bounded memory.

Rules:

1. A sender's broadcasts are numbered, so one number says all that was heard of it: what lies below is a
   repetition. One above the next waits for those between, but only for such as can still be had (the sender
   says which), for a bounded time, and in bounded company; then the gap is skipped and counted.
2. Each sender has room and an allowance of its own: who floods loses its own broadcasts, which die one hop
   away from it.
3. Nothing older than a minute is taken, so a sender is forgotten only once all that it said is refused for
   its age: nobody, newly joined or full of other senders, can be told old things as new.

Departures from serf (`serf/event.go`), which knows neither senders nor their order: it drops repetitions by
looking in 512 slots of Lamport time, and what is older than these. Its Lamport clock starts at 0 in each
process and leaps when a state exchange brings a higher one; this one starts at the real time and needs no
exchange: a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.events import Broadcast

__all__ = [
    "BROADCASTS_PER_S",
    "BURST_COUNT",
    "HELD_COUNT_MAX",
    "HELD_PER_SENDER_COUNT_MAX",
    "LIFETIME_S",
    "SENDERS_COUNT_MAX",
    "Allowance",
    "Heard",
    "Inbox",
    "LamportClock",
]

LIFETIME_S = 60.0
"""A broadcast older than this, and the allowed difference of clocks, is void. An epidemic among ten thousand
is over in some ten seconds; datagrams themselves are refused after as long."""
BROADCASTS_PER_S = 5.0
"""Of one sender, sustained. A datagram carries one large event or five small; in fifteen datagrams a second,
each event told eight times, a swarm of up to a hundred has room for ten small events a second in all."""
BURST_COUNT = 32
"""Of one sender at once, after a silence."""
_TOLERANCE = 2
"""Others' allowance is that many times their own: what they spread over time may come together."""
SENDERS_COUNT_MAX = 4096
"""Senders remembered, about 500 bytes each: as many as the window against replayed datagrams knows."""
HELD_PER_SENDER_COUNT_MAX = 32
"""Broadcasts of one sender that wait for one before them: a whole burst whose first was lost."""
HELD_COUNT_MAX = 512
"""Of all senders: half a megabyte at most. serf's buffers have as many slots."""


class LamportClock:
    """Stamps broadcasts with microseconds since the Unix epoch, each above all that was sent and heard.

    Source: Lamport 1978, "Time, Clocks, and the Ordering of Events", rules IR1 and IR2; see the head of this
    file for the real time in it. What is heard from beyond the allowed skew is refused before it comes here,
    so nobody can set it far ahead.
    """

    __slots__ = ("_time_us",)

    def __init__(self) -> None:
        self._time_us = 0

    def stamp(self, now: float) -> int:
        """The time of a broadcast made now."""
        self._time_us = max(self._time_us + 1, int(now * 1e6))
        return self._time_us

    def witness(self, time_us: int) -> None:
        """Note the time of a broadcast that was heard."""
        self._time_us = max(self._time_us, time_us)


class Allowance:
    """How much may be said: a bucket that fills at a rate up to a burst (a token bucket)."""

    __slots__ = ("_burst", "_level", "_rate_per_s", "_since")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = self._level = burst
        self._since = now

    def take(self, now: float) -> bool:
        """Use one; False if there is none."""
        self._fill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def wait_s(self, now: float) -> float:
        """How long until there is one."""
        self._fill(now)
        return max(0.0, (1.0 - self._level) / self._rate_per_s)

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._since) * self._rate_per_s)
        self._since = max(now, self._since)


@dataclass(frozen=True, slots=True)
class Heard:
    """A broadcast and when it came here."""

    broadcast: Broadcast
    at: float


@dataclass(slots=True)
class _Sender:
    """What is known of one sender.

    Invariant: every number in `held` is above `expected`.
    """

    expected: int
    """The number that comes next; all below are done with."""
    allowance: Allowance
    latest_us: int = 0
    moved_at: float = 0.0
    """When the last broadcast was delivered: while some come, those that lack are waited for."""
    held: dict[int, Heard] = field(default_factory=dict)


class Inbox:
    """Puts the broadcasts of each sender in their order, and drops what was heard before.

    Invariant: `held_count` is the number of broadcasts that all senders hold; `_waiting` has those senders
    that hold any, with the time since which none was delivered.
    """

    __slots__ = ("_senders", "_since", "_waiting", "counters", "held_count")

    def __init__(self, now: float) -> None:
        self._since = now
        self._senders: OrderedDict[PeerId, _Sender] = OrderedDict()
        self._waiting: dict[PeerId, float] = {}
        self.held_count = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._senders)

    def take(self, owner: PeerId, broadcast: Broadcast, now: float, *, oldest_us: int) -> list[Heard] | None:
        """Take in a broadcast and return what can be delivered now, in order; None if it is refused.

        Args:
            owner: Whose it is.
            broadcast: Signature and time were found good.
            now: The time.
            oldest_us: What has an earlier time never gets here.
        """
        sender = self._sender_of(owner, broadcast, now, oldest_us)
        if sender is None:
            self.counters["broadcasts_without_room"] += 1
            return None
        number = broadcast.sequence
        if number < sender.expected or number in sender.held:
            self.counters["broadcasts_repeated"] += 1
            return None
        if not sender.allowance.take(now):
            self.counters["broadcasts_too_fast"] += 1
            return None
        self._senders.move_to_end(owner)
        sender.latest_us = max(sender.latest_us, broadcast.time_us)
        ready: list[Heard] = []
        if number - broadcast.kept > sender.expected:  # what is missing below nobody has any more
            ready += self._skip_to(sender, number - broadcast.kept)
        sender.held[number] = Heard(broadcast, now)
        self.held_count += 1
        ready += self._in_order(sender)
        if len(sender.held) > HELD_PER_SENDER_COUNT_MAX or self.held_count > HELD_COUNT_MAX:
            ready += self._skip_to(sender, min(sender.held))
        if ready:
            sender.moved_at = now
        self._note_waiting(owner, sender)
        return ready

    @property
    def waits_for(self) -> PeerId | None:
        """A sender of which a broadcast is waited for; None if there is none."""
        return next(iter(self._waiting), None)

    def next_of(self, owner: PeerId) -> int:
        """The number that is waited for of a sender; 0 if nothing of it was heard."""
        sender = self._senders.get(owner)
        return sender.expected if sender is not None else 0

    def deadline(self, wait_s: float) -> float:
        """When the next gap has been waited for that long; infinite where there is none."""
        return min(self._waiting.values(), default=math.inf) + wait_s

    def expire(self, now: float, wait_s: float) -> list[Heard]:
        """Skip the gaps that have been waited for that long, and return what stood behind them."""
        ready: list[Heard] = []
        for owner in [each for each, since in self._waiting.items() if since + wait_s <= now]:
            sender = self._senders[owner]
            while owner in self._waiting and self._waiting[owner] + wait_s <= now:
                ready += self._skip_to(sender, min(sender.held))
                self._note_waiting(owner, sender)
        return ready

    def postpone(self, lag_s: float) -> None:
        """This peer was stopped for that long: what it waits for may be in its socket by now."""
        for owner in self._waiting:
            self._waiting[owner] += lag_s
            self._senders[owner].moved_at = self._waiting[owner]

    def _sender_of(self, owner: PeerId, broadcast: Broadcast, now: float, oldest_us: int) -> _Sender | None:
        """What is known of a sender, or a new beginning; None where there is no room for another."""
        known = self._senders.get(owner)
        if known is not None and not _is_void(known, oldest_us):
            return known
        if known is None and len(self._senders) >= SENDERS_COUNT_MAX:
            longest_silent = next(iter(self._senders))
            if not _is_void(self._senders[longest_silent], oldest_us):
                return None
            del self._senders[longest_silent]
        allowance = (
            known.allowance
            if known
            else Allowance(_TOLERANCE * BROADCASTS_PER_S, _TOLERANCE * BURST_COUNT, now)
        )
        is_new_here = now - self._since < LIFETIME_S  # then some of what others keep is history
        waits_for_count = broadcast.recent if is_new_here else broadcast.kept
        self._senders[owner] = _Sender(max(0, broadcast.sequence - waits_for_count), allowance)
        return self._senders[owner]

    def _skip_to(self, sender: _Sender, number: int) -> list[Heard]:
        """Wait for nothing below `number` any more; the sender's new start looks like a gap as well."""
        self.counters["broadcast_gaps"] += 1
        ready = [sender.held.pop(each) for each in sorted(sender.held) if each < number]
        self.held_count -= len(ready)
        sender.expected = number
        return ready + self._in_order(sender)

    def _in_order(self, sender: _Sender) -> list[Heard]:
        ready: list[Heard] = []
        while sender.expected in sender.held:
            ready.append(sender.held.pop(sender.expected))
            sender.expected += 1
        self.held_count -= len(ready)
        return ready

    def _note_waiting(self, owner: PeerId, sender: _Sender) -> None:
        if sender.held:
            oldest_at = min(each.at for each in sender.held.values())
            self._waiting[owner] = max(oldest_at, sender.moved_at)
        else:
            self._waiting.pop(owner, None)


def _is_void(sender: _Sender, oldest_us: int) -> bool:
    """Whether all that the sender said would be refused for its age, so that its numbers bind nobody.

    Or a sender that lost its disk and whose clock went back would stay unheard until its clock catches up.
    """
    return sender.latest_us < oldest_us and not sender.held
