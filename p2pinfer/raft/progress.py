"""What a leader knows of one follower, and how much it may send to it.

States (etcd's tracker):

1. PROBE: it is not known where the logs part. One message at a time, until it is.
2. REPLICATE: messages follow one another without waiting, as far as the window allows.
3. SNAPSHOT: what it needs is compacted away; it is being sent a snapshot, and nothing else.
4. LOST: it no longer has what it acknowledged, so its word counts for nothing.

Invariant: match < next.
"""

from __future__ import annotations

import enum
from collections import deque

from p2pinfer.ids import Contact
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.types import Snapshot

__all__ = ["Progress", "ProgressState"]


class ProgressState(enum.Enum):
    """See the module."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"
    LOST = "lost"


class Progress:
    """One follower or learner.

    Attributes:
        contact: Where it is found.
        match: Up to here it is known to hold our log, durably.
        next: The next entry to send.
        heard_at: When it last answered.
        acked_round: The highest round that it answered.
        confirm_round: The round in which `match` was learned: what was sent in a later one cannot be refused
        there.
        commit_told: The highest commit index sent to it.
        is_waiting: In PROBE: a message is under way, so nothing is sent before the next heartbeat.
        snapshot: In SNAPSHOT: what is sent; `offset` bytes of it are acknowledged, and the chunk there was
        sent at
            `chunk_sent_at`.
    """

    __slots__ = (
        "_flight",
        "_flight_bytes",
        "acked_round",
        "chunk_sent_at",
        "commit_told",
        "confirm_round",
        "contact",
        "heard_at",
        "is_waiting",
        "match",
        "next",
        "offset",
        "snapshot",
        "state",
    )

    def __init__(self, contact: Contact, next_index: int, now: float) -> None:
        self.contact = contact
        self.state = ProgressState.PROBE
        self.match = 0
        self.next = next_index
        self.heard_at = now
        self.acked_round = 0
        self.confirm_round = 0
        self.commit_told = 0
        self.is_waiting = False
        self.snapshot: Snapshot | None = None
        self.offset = 0
        self.chunk_sent_at = now
        self._flight: deque[tuple[int, int]] = deque()
        self._flight_bytes = 0

    @property
    def inflight_count(self) -> int:
        """Messages with entries that are not answered yet."""
        return len(self._flight)

    def is_full(self, config: RaftConfig) -> bool:
        """Whether the window allows no further message; one is always allowed."""
        return len(self._flight) >= config.inflight_messages_max or (
            bool(self._flight) and self._flight_bytes >= config.inflight_bytes_max
        )

    def sent(self, last_index: int, size_bytes: int) -> None:
        """In REPLICATE entries up to `last_index` are under way."""
        self.next = last_index + 1
        self._flight.append((last_index, size_bytes))
        self._flight_bytes += size_bytes

    def acknowledged(self, index: int, round_now: int) -> bool:
        """It holds our log up to `index`; returns whether that is news."""
        flight = self._flight
        while flight and flight[0][0] <= index:
            self._flight_bytes -= flight.popleft()[1]
        is_news = index > self.match
        if is_news:
            self.match = index
            self.confirm_round = round_now
            self.next = max(self.next, index + 1)
        return is_news

    def become_probe(self) -> None:
        """Start again after what is known to match."""
        self._leave(ProgressState.PROBE)
        self.next = self.match + 1

    def become_replicate(self) -> None:
        """The logs are known to match up to `match`."""
        self._leave(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """It needs what is not in the log any more."""
        self._leave(ProgressState.SNAPSHOT)
        self.snapshot, self.offset, self.chunk_sent_at = snapshot, 0, now

    def become_lost(self) -> None:
        """It lost what it had acknowledged."""
        self._leave(ProgressState.LOST)
        self.match = 0
        self.acked_round = 0

    def refused(self, index: int, hint_index: int) -> bool:
        """It does not match at `index`; returns whether that is news, and then starts from the hint."""
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
            return True
        if self.state is not ProgressState.PROBE or index != self.next - 1:
            return False
        self.next = max(min(index, hint_index + 1), self.match + 1)
        self.is_waiting = False
        return True

    def _leave(self, state: ProgressState) -> None:
        self.state = state
        self.is_waiting = False
        self.snapshot, self.offset = None, 0
        self._flight.clear()
        self._flight_bytes = 0
