"""Finds broadcasts that gossip did not bring: members compare what they heard lately.

Rules:

1. For a minute after the last broadcast each member tells one other, drawn anew each time, up to which
   number it has heard each sender; the other sends what is lacking. While something is waited for, that is
   more often, and every second time whoever said it is asked.
2. Who is new asks for nothing from before it came.
3. What is sent in answer is bounded, and goes to where the asker's record says it lives.

Why: each broadcast is told four times for each digit of the member count, so by chance some member is left
out: among nine, one delivery in two hundred (simulated; SWIM 4.1 gives e^-4 without what rides on probes).
Of members' records that is mended by state exchanges; serf mends events so as well, every half minute.
Source: Demers et al. 1987, "Epidemic Algorithms for Replicated Database Maintenance", 1.4: rumours are to be
backed by anti-entropy.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

from p2pinfer.effects import Message
from p2pinfer.ids import PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.dissemination import room_bytes
from p2pinfer.swim.events import LIFETIME_S, Allowance, Heard
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.events import (
    DIGEST_COUNT_MAX,
    Broadcast,
    BroadcastDigest,
    HeardUpTo,
)
from p2pinfer.wire.messages.swim import Gossip

__all__ = ["LOG_COUNT_MAX", "Repair"]

LOG_COUNT_MAX = 256
"""Broadcasts kept for others, at most 200 kB: as many as may wait to be told. serf keeps 512."""
_DIGESTS_PER_S = 8.0
"""Digests answered, sustained, and four times as many at once."""
_GOSSIPS_COUNT_MAX = 4
"""Datagrams sent in answer to one digest."""
_SETTLED_ROUNDS = 3
"""What was heard within so many gossip rounds may be on its way to others as well; while something is waited
for, a digest is sent as often."""

_Key = tuple[PeerId, int]
NextOf = Callable[[PeerId], int]
"""The number up to which this peer has heard a sender, that one left out."""


class Repair:
    """Keeps the broadcasts heard lately, this peer's own included, and compares them with those of others."""

    __slots__ = ("_asks_owner", "_config", "_due_at", "_heard", "_next_of", "_since", "_to_answer")

    def __init__(self, config: SwimConfig, next_of: NextOf, now: float) -> None:
        self._config = config
        self._next_of = next_of
        self._since = now
        self._due_at = math.inf
        self._asks_owner = False
        self._heard: OrderedDict[_Key, Heard] = OrderedDict()
        self._to_answer = Allowance(_DIGESTS_PER_S, 4 * _DIGESTS_PER_S, now)

    def __len__(self) -> int:
        return len(self._heard)

    @property
    def deadline(self) -> float:
        """When the next digest is to be sent; infinite while nothing is kept."""
        return self._due_at

    def keep(self, owner: PeerId, broadcast: Broadcast, now: float, *, waits_for: PeerId | None) -> None:
        """Keep a broadcast that was heard for the first time; the oldest makes room.

        `waits_for` is a sender of which an earlier one is lacking, if there is any.
        """
        self._heard[owner, broadcast.sequence] = Heard(broadcast, now)
        if len(self._heard) > LOG_COUNT_MAX:
            self._heard.popitem(last=False)
        self._due_at = min(self._due_at, now + self._interval_s(waits_for))

    def tick(
        self, now: float, *, waits_for: PeerId | None, draw: Callable[[], PeerId | None]
    ) -> tuple[PeerId, BroadcastDigest] | None:
        """Whom to send which digest now, if it is time; `draw` gives any other member."""
        if now < self._due_at:
            return None
        while self._heard and next(iter(self._heard.values())).at + LIFETIME_S <= now:
            self._heard.popitem(last=False)  # nobody would take it any more
        if not self._heard:
            self._due_at = math.inf
            return None
        self._due_at = now + self._interval_s(waits_for)
        self._asks_owner = waits_for is not None and not self._asks_owner
        asked = waits_for if self._asks_owner else draw()
        return None if asked is None else (asked, self._digest(now))

    def answer(self, digest: BroadcastDigest, now: float) -> list[Message] | None:
        """What the sender of a digest lacks, and a digest where it has what this peer lacks.

        None where too many come.
        """
        if not self._to_answer.take(now):
            return None
        answer: list[Message] = [*self._lacking(digest, now)]
        if not digest.is_answer and any(each.next > self._next_of(each.peer) for each in digest.heard):
            answer.append(self._digest(now, is_answer=True))
        return answer

    @property
    def _settled_s(self) -> float:
        return self._config.gossip_interval_s * _SETTLED_ROUNDS

    def _interval_s(self, waits_for: PeerId | None) -> float:
        longest_s = self._config.probe_interval_s
        return min(self._settled_s, longest_s) if waits_for else longest_s

    def _digest(self, now: float, *, is_answer: bool = False) -> BroadcastDigest:
        """Say what was heard; of more senders than fit, the latest heard."""
        owners = list(dict.fromkeys(owner for owner, _ in reversed(self._heard)))
        return BroadcastDigest(
            heard=tuple(
                HeardUpTo(peer=owner, next=self._next_of(owner)) for owner in owners[:DIGEST_COUNT_MAX]
            ),
            window_ms=int(min(LIFETIME_S, max(0.0, now - self._since)) * 1000),
            is_whole=len(owners) <= DIGEST_COUNT_MAX,
            is_answer=is_answer,
        )

    def _lacking(self, digest: BroadcastDigest, now: float) -> list[Gossip]:
        up_to = {each.peer: each.next for each in digest.heard}
        unlisted = 0 if digest.is_whole else None
        since, until = now - digest.window_ms / 1000, now - self._settled_s
        lacking = (
            heard.broadcast
            for (owner, number), heard in self._heard.items()
            if since <= heard.at <= until
            and (wanted := up_to.get(owner, unlisted)) is not None
            and number >= wanted
        )
        return _in_messages(lacking, room_bytes(self._config.datagram_body_bytes_max))


def _in_messages(broadcasts: Iterable[Broadcast], room: int) -> list[Gossip]:
    messages: list[Gossip] = []
    together: list[Broadcast] = []
    left = room
    for broadcast in broadcasts:
        size = encoded_size(broadcast)
        if size > room:
            continue
        if size > left:
            messages.append(Gossip(broadcasts=tuple(together)))
            together, left = [], room
            if len(messages) == _GOSSIPS_COUNT_MAX:
                return messages
        together.append(broadcast)
        left -= size
    if together:
        messages.append(Gossip(broadcasts=tuple(together)))
    return messages
