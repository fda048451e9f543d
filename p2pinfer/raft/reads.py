"""Linearizable reads without an entry in the log: ReadIndex, for a leader's clients and a follower's.

Rules:

1. A read needs an index that was committed when it was asked for, from a node that still led then: a quorum
   answered a round which began after the question (thesis 6.4).
2. No index is given before the first entry of the leader's own term is committed: until then it does not
   know what is committed (thesis 6.4, step 1). Who asks earlier waits.
3. One round at a time: what is asked meanwhile shares the next one, so that many readers cost as few do.
4. No question is lost silently: it is put to the next leader, or fails when its time is over.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from p2pinfer.ids import Contact
from p2pinfer.raft.news import ReadFailed, ReadReady
from p2pinfer.raft.replication import Replication
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import NodeId, Role
from p2pinfer.wire.messages.raft import ReadReply, ReadRequest

__all__ = ["Reads"]


class _Waiter(NamedTuple):
    """Who wants to know an index: a client of this node's, or another node (then with a contact)."""

    request: int
    node: NodeId = 0
    contact: Contact | None = None


class _Round(NamedTuple):
    """Questions that are answered with `index` once a quorum has answered `number`."""

    number: int
    index: int  # type: ignore[assignment]  # an entry's own, not the tuple's method
    waiters: list[_Waiter]


class _Asked(NamedTuple):
    """A question put to the leader, for all these requests."""

    number: int
    requests: list[int]
    retry_at: float


class Reads:
    """The reads of one node's clients, and of other nodes' while it leads."""

    def __init__(self, state: NodeState, replication: Replication) -> None:
        self._state = state
        self._replication = replication
        self._open: dict[int, float] = {}
        self._gathered: list[_Waiter] = []
        self._round: _Round | None = None
        self._unasked: list[int] = []
        self._asked: _Asked | None = None
        self._ask_at = math.inf
        self._number = state.rng.getrandbits(48)
        self._confirmed: list[tuple[int, int]] = []
        self.may_use_lease = True

    @property
    def open_count(self) -> int:
        """Reads of this node's clients that are not answered."""
        return len(self._open)

    @property
    def deadline(self) -> float:
        """When `tick` may have something to do."""
        first = next(iter(self._open.values()), math.inf)
        return min(first, self._ask_at, self._asked.retry_at if self._asked else math.inf)

    def read(self, request: int, now: float) -> None:
        """Begin a read of a client of this node's."""
        state = self._state
        if len(self._open) >= state.config.reads_open_max:
            state.out.deliver(ReadFailed(request, "too many reads are open"))
            return
        self._open[request] = now + state.config.read_timeout_s
        if state.role is Role.LEADER:
            self._gathered.append(_Waiter(request))
            self.advance(now)
        else:
            self._unasked.append(request)
            self._ask(now)

    def tick(self, now: float) -> None:
        """Fail what waited too long, and ask again what got no answer."""
        while self._open:
            request, deadline = next(iter(self._open.items()))
            if deadline > now:
                break
            del self._open[request]
            self._state.out.deliver(ReadFailed(request, "no leader confirmed it in time"))
        if self._asked is not None and now >= self._asked.retry_at:
            self._unask()
        if now >= self._ask_at or (self._unasked and self._asked is None):
            self._ask_at = math.inf
            self._ask(now)

    # ------------------------------------------------------------------ leading

    def advance(self, now: float) -> None:
        """Answer what a quorum has confirmed, and begin the next round if somebody waits for it."""
        state, replication = self._state, self._replication
        while state.role is Role.LEADER:
            done = self._round
            if done is not None:
                if replication.acked_round() < done.number:
                    return
                self._round = None
                self._confirm(done.index, done.waiters)
            if not self._gathered or state.log.term_at(state.commit) != state.term:
                return
            waiters, self._gathered = self._gathered, []
            if self.may_use_lease and state.config.lease_reads and now < replication.lease_until():
                self._confirm(state.commit, waiters)
                continue
            replication.heartbeat(now)
            self._round = _Round(replication.round, state.commit, waiters)

    def _confirm(self, index: int, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            if waiter.contact is None:
                self._confirmed.append((index, waiter.request))
            else:
                progress = self._replication.followers.get(waiter.node)
                if progress is not None:
                    self._replication.tell_commit_to(waiter.node, progress)
                self._reply(waiter, index, ok=True)
        self.applied()

    def take_request(self, sender: Contact, message: ReadRequest, now: float) -> None:
        """Another node asks on behalf of its clients."""
        waiter = _Waiter(message.request, message.source, sender)
        if self._state.role is not Role.LEADER or len(self._gathered) >= self._state.config.reads_open_max:
            self._reply(waiter, 0, ok=False)
            return
        self._gathered.append(waiter)
        self.advance(now)

    def _reply(self, waiter: _Waiter, index: int, *, ok: bool) -> None:
        state = self._state
        if waiter.contact is not None:
            reply = ReadReply(
                cluster=state.cluster_id,
                source=state.node_id,
                target=waiter.node,
                term=state.term,
                request=waiter.request,
                index=index,
                ok=ok,
            )
            state.out.send(waiter.contact, reply)

    def stop_leading(self) -> None:
        """Nothing can be confirmed here: own clients' reads go to the next leader, others are told."""
        waiters = [*self._gathered, *(self._round.waiters if self._round else ())]
        self._gathered, self._round = [], None
        for waiter in waiters:
            if waiter.contact is None:
                self._unasked.append(waiter.request)
            else:
                self._reply(waiter, 0, ok=False)

    # ------------------------------------------------------------------ following

    def leader_changed(self, now: float) -> None:
        """Put every open question to the new leader, if there is one."""
        self._unask()
        if self._state.role is Role.LEADER:
            self._gathered += [_Waiter(request) for request in self._unasked if request in self._open]
            self._unasked = []
            self.advance(now)
        else:
            self._ask(now)

    def _unask(self) -> None:
        if self._asked is not None:
            self._unasked = self._asked.requests + self._unasked
            self._asked = None

    def _ask(self, now: float) -> None:
        state = self._state
        contact = state.leader_contact
        self._unasked = [request for request in self._unasked if request in self._open]
        if state.leader is None or contact is None or self._asked is not None or not self._unasked:
            return
        self._number += 1
        self._asked = _Asked(self._number, self._unasked, now + state.config.election_timeout_s / 2)
        self._unasked = []
        message = ReadRequest(
            cluster=state.cluster_id,
            source=state.node_id,
            target=state.leader,
            term=state.term,
            request=self._number,
        )
        state.out.send(contact, message)

    def take_reply(self, sender: Contact, message: ReadReply, now: float) -> None:
        """The leader says what to wait for, or that it cannot say."""
        asked = self._asked
        if asked is None or asked.number != message.request:
            self._state.count("stale_read_replies")
            return
        if not message.ok:
            self._unask()
            self._ask_at = now + self._state.config.heartbeat_interval_s
            return
        self._asked = None
        self._confirmed += [(message.index, request) for request in asked.requests]
        self.applied()
        self._ask(now)

    def applied(self) -> None:
        """More entries are applied: tell the clients whose index is among them."""
        if not self._confirmed:
            return
        waiting = []
        for index, request in self._confirmed:
            if index > self._state.applied:
                waiting.append((index, request))
            elif self._open.pop(request, None) is not None:
                self._state.out.deliver(ReadReady(request, index))
        self._confirmed = waiting
