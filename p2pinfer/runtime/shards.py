"""A rank's end of a group over the streams: the parts of the others, and what ends the group.

Rules:

1. The engine's thread waits here for the others' parts, and never longer than the group's deadline. Messages
   come and go on the event loop.
2. A group ends once, for every rank: with a rank that is gone or silent, a part that was not due, or the call
   that holds it. From then on nothing waits any more.
3. Only ranks of the group are listened to, and what each may have waiting here is bounded.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import trio
from numpy.typing import NDArray

from p2pinfer.effects import Compute, DropCache, ExtendCache, Message, OpenCache
from p2pinfer.engine.tensor_engine import GroupBroken
from p2pinfer.engine.tensor_shard import ShardCut
from p2pinfer.errors import ConfigError, RemoteProtocolError
from p2pinfer.ids import Contact, PeerId, Span
from p2pinfer.runtime.streams import Streams
from p2pinfer.runtime.worker import Worker
from p2pinfer.wire.messages.shards import GroupRank, JoinGroup, ShardBatch, ShardCache, ShardPart, ShardStep
from p2pinfer.work import EngineInput

__all__ = ["GroupSettings", "Link", "Member", "cut_of", "rank_of"]

_log = logging.getLogger(__name__)
F32 = NDArray[np.float32]
_WIRE_FLOAT = np.dtype("<f4")

_PARTS_WAITING_MAX = 2
"""Of one sender: a rank is at most one turn ahead of another."""
_BATCHES_WAITING_MAX = 2
"""The leader announces a batch when it has done the one before, which we may still be ending."""
_CHANGES_WAITING_MAX = 16_384
"""Caches opened and dropped while one batch is computed: four times the sessions that a hop may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How a leader holds its group together."""

    deadline_s: float = 5.0
    """How long a rank waits for the part of another before the group ends. 0.1 to 600 s. Above what half a
    layer of the longest chunk of a prompt takes on the slowest rank."""
    rejoin_interval_s: float = 1.0
    """How long after its end a group is formed anew, and between attempts. 0.1 to 600 s."""

    def __post_init__(self) -> None:
        for field in ("deadline_s", "rejoin_interval_s"):
            if not 0.01 <= getattr(self, field) <= 600.0:
                raise ConfigError(f"{field} is {getattr(self, field)}, but must be within 0.01 and 600")


class Link:
    """One group as one of its ranks sees it; implements `tensor_engine.Exchange`.

    Make it on the event loop.

    Args:
        group: Its name.
        ranks: All ranks in their order, the leader first.
        own: Which of them this peer is.
        streams: The way to the others.
        deadline_s: How long to wait for a part.
    """

    def __init__(
        self, group: bytes, ranks: Sequence[Contact], own: int, *, streams: Streams, deadline_s: float
    ) -> None:
        self.group = group
        self.ended = trio.Event()
        self._ranks = tuple(ranks)
        self._own = own
        self._streams = streams
        self._deadline_s = deadline_s
        self._token = trio.lowlevel.current_trio_token()
        self._inboxes: Mapping[PeerId | None, queue.SimpleQueue[ShardPart | None]] = {
            contact.peer: queue.SimpleQueue() for rank, contact in enumerate(ranks) if rank != own
        }
        self._turn = 0
        self._reason: str | None = None

    @property
    def leader(self) -> Contact:
        """The first rank."""
        return self._ranks[0]

    @property
    def others(self) -> list[Contact]:
        """All ranks but this peer."""
        return [contact for rank, contact in enumerate(self._ranks) if rank != self._own]

    @property
    def reason(self) -> str:
        """Why the group ended; empty while it lasts."""
        return self._reason or ""

    # --- on the engine's thread -----------------------------------------------------------------

    def add_up(self, part: F32) -> F32:
        """Send this rank's part to all others and return the sum of all; see `Exchange.add_up`."""
        data = part.astype(_WIRE_FLOAT, copy=False).tobytes()
        self.tell(ShardPart(group=self.group, turn=self._turn, data=data))
        deadline = time.monotonic() + self._deadline_s
        total: F32 | None = None
        for rank, contact in enumerate(self._ranks):
            rows = part if rank == self._own else self._part_of(contact, part, deadline)
            total = rows if total is None else total + rows
        self._turn += 1
        return part if total is None else total

    def tell(self, message: Message) -> None:
        """Send a message to all others, in the order of the calls.

        Raises:
            GroupBroken: The group has ended.
        """
        if self._reason is not None:
            raise GroupBroken(self._reason)
        try:
            self._token.run_sync_soon(self._send, message)
        except trio.RunFinishedError as error:
            raise GroupBroken("this peer is closing") from error

    def _part_of(self, contact: Contact, own: F32, deadline: float) -> F32:
        try:
            part = self._inboxes[contact.peer].get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._end_soon(f"{contact} gave no part within {self._deadline_s} s")
        if part is None:
            raise GroupBroken(self._reason or "the group has ended")
        if part.turn != self._turn or len(part.data) != own.nbytes:
            self._end_soon(
                f"{contact} gave {len(part.data)} bytes for turn {part.turn}; "
                f"due are {own.nbytes} for turn {self._turn}"
            )
        return np.frombuffer(part.data, _WIRE_FLOAT).reshape(own.shape)

    def _end_soon(self, reason: str) -> NoReturn:
        try:
            self._token.run_sync_soon(self.end, reason)
        except trio.RunFinishedError as error:
            raise GroupBroken("this peer is closing") from error
        raise GroupBroken(reason)

    # --- on the event loop ----------------------------------------------------------------------

    def receive(self, sender: Contact, part: ShardPart) -> None:
        """Take a part of another rank; anybody else's is dropped."""
        inbox = self._inboxes.get(sender.peer)
        if inbox is None:
            return
        if inbox.qsize() >= _PARTS_WAITING_MAX:
            self.end(f"{sender} sends parts that nobody waits for")
        else:
            inbox.put(part)

    def end(self, reason: str) -> None:
        """End the group: who waits is told, and whatever comes later is of no use."""
        if self._reason is None:
            self._reason = reason
            self.ended.set()
            for inbox in self._inboxes.values():
                inbox.put(None)

    def _send(self, message: Message) -> None:
        if self._reason is not None:
            return
        for contact in self.others:
            if not self._streams.send_nowait(contact, message):
                self.end(f"there is no room for a message to {contact}")


class Member:
    """A group as a member serves it: hands what the leader says to the engine's worker.

    Args:
        link: The group.
        worker: Of the member's engine.
        span: The layers that are computed.
        hidden_size: Numbers in the hidden state of one position.
    """

    def __init__(self, link: Link, worker: Worker, span: Span, hidden_size: int) -> None:
        self.link = link
        self._worker = worker
        self._span = span
        self._hidden_size = hidden_size
        self._waiting_count = 0

    def on_computed(self) -> None:
        """A batch is done."""
        self._waiting_count -= 1

    def receive(self, sender: Contact, message: ShardBatch | ShardCache) -> None:
        """Take what the leader says; anybody else's word is dropped."""
        if sender.peer != self.link.leader.peer or self.link.reason:
            return
        if isinstance(message, ShardCache):
            self._change_cache(message)
        elif self._waiting_count >= _BATCHES_WAITING_MAX:
            self.link.end("the leader announces more batches than it can have begun")
        elif not message.steps or not all(map(self._is_sound, message.steps)):
            self.link.end("the leader announced a step that is not of this span or has no rows of its size")
        else:
            self._waiting_count += 1
            self._worker.submit(Compute(tuple(map(_engine_input, message.steps))))

    def _change_cache(self, message: ShardCache) -> None:
        if self._worker.statistics()["waiting"] >= _CHANGES_WAITING_MAX:
            self.link.end("the leader opens and drops caches faster than this peer can follow")
        elif not message.positions_max:
            self._worker.submit(DropCache(message.session))
        elif message.extends:
            self._worker.submit(ExtendCache(message.session, message.positions_max))
        else:
            self._worker.submit(OpenCache(message.session, message.positions_max))

    def _is_sound(self, step: ShardStep) -> bool:
        shape = step.hidden.shape
        return (
            self._span.start <= step.start < step.end <= self._span.end
            and len(shape) == 2
            and shape[1] == self._hidden_size
            and len(step.hidden.data) == shape[0] * shape[1] * _WIRE_FLOAT.itemsize
        )


def _engine_input(step: ShardStep) -> EngineInput:
    return EngineInput(step.session, step.base, hidden=step.hidden, layers=Span(step.start, step.end))


def cut_of(rank: GroupRank) -> ShardCut:
    """Return what a rank holds of every layer."""
    return ShardCut(range(rank.heads_start, rank.heads_end), range(rank.columns_start, rank.columns_end))


def rank_of(request: JoinGroup, leader: Contact, own: PeerId) -> int:
    """Return which rank of a group a peer is asked to be.

    Raises:
        RemoteProtocolError: The group is not in order, or led by somebody else than who asks.
    """
    peers = [rank.contact.peer for rank in request.ranks]
    if None in peers or len(set(peers)) < len(peers):
        raise RemoteProtocolError("a group names each of its peers once")
    if not peers or peers[0] != leader.peer:
        raise RemoteProtocolError("a group is led by its first rank, who alone may ask others to join")
    if own not in peers[1:]:
        raise RemoteProtocolError("this peer is no member of the group that it is asked to join")
    if request.start >= request.end:
        raise RemoteProtocolError(f"a group has at least one layer, not {request.start}:{request.end}")
    return peers.index(own)
