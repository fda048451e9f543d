"""What the parts of one core share: term, vote, role, the log, the disk, and the effects of this input.

Rules:

1. Only `RaftCore` changes role and leader; the parts say what should happen, and it happens in one place.
2. Effects leave in the order: what may be said at once, the one `Save`, what it promises (see `core`).
"""

from __future__ import annotations

import random
from collections import deque

from p2pinfer.effects import Deliver, Effect, Send
from p2pinfer.errors import DecodeError, StorageError
from p2pinfer.ids import Contact
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.log import Log
from p2pinfer.raft.news import News
from p2pinfer.raft.saving import Saving
from p2pinfer.raft.types import NODE_ID_MAX, HardState, Initial, NodeId, Role
from p2pinfer.wire.messages.raft import TERM_MAX, RaftMessage

__all__ = ["NodeState", "Outbox", "checked_state"]

_HELD_COUNT_MAX = 4096
"""Promises that wait for a slow disk; who waits for one that is dropped asks again."""


class Outbox:
    """The effects of the current input, and promises of earlier ones that wait for the disk."""

    def __init__(self, saving: Saving, counters: dict[str, int]) -> None:
        self._saving = saving
        self._counters = counters
        self._early: list[Effect] = []
        self._promises: list[Effect] = []
        self._held: deque[tuple[int, Effect]] = deque()

    def send(self, to: Contact, message: RaftMessage) -> None:
        """Say something that promises nothing."""
        self._early.append(Send(to, message))

    def promise(self, to: Contact, message: RaftMessage) -> None:
        """Say something that must not be heard before all that is written now is durable."""
        self._promises.append(Send(to, message))

    def deliver(self, news: News) -> None:
        """Tell the application something that is true already."""
        self._early.append(Deliver(news))

    def release(self) -> None:
        """The disk confirmed a write: what waited for it may be said."""
        held, saved = self._held, self._saving.saved_number
        while held and held[0][0] <= saved:
            self._early.append(held.popleft()[1])

    def break_promises(self) -> None:
        """The disk refused a write: what waited for it is never said."""
        self._held.clear()

    def take(self, hard_state: HardState | None, now: float) -> list[Effect]:
        """Return the effects of this input, with the `Save` of all that is due; None says that nothing is."""
        effects, self._early = self._early, []
        save = None
        if hard_state is not None:
            if now < self._saving.blocked_until:
                self._promises.clear()  # the disk refused lately: nothing can be promised
            else:
                save = self._saving.flush(hard_state, now)
                effects.append(save)
        if self._promises:
            if save is not None or self._saving.is_idle:
                effects += self._promises
            else:
                number = self._saving.last_number
                self._held += [(number, each) for each in self._promises]
                while len(self._held) > _HELD_COUNT_MAX:
                    self._held.popleft()
                    self._counters["promises_dropped"] = self._counters.get("promises_dropped", 0) + 1
            self._promises = []
        return effects


class NodeState:
    """One node: see the module. `commit` and `applied` never fall while a process lives."""

    def __init__(self, initial: Initial, config: RaftConfig, rng: random.Random) -> None:
        self.node_id = initial.node_id
        self.cluster_id = initial.cluster_id
        self.config = config
        self.rng = rng
        self.counters: dict[str, int] = {}
        self.log = Log(initial.entries, initial.snapshot)
        self.saving = Saving(self.log)
        self.out = Outbox(self.saving, self.counters)
        self.term = initial.hard_state.term
        self.vote = initial.hard_state.vote
        self.commit = max(initial.hard_state.commit, self.log.snapshot_index)
        self.applied = 0
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.leader_contact: Contact | None = None

    def count(self, name: str, by: int = 1) -> None:
        """Count an event by name."""
        self.counters[name] = self.counters.get(name, 0) + by

    def complaint_about(self, sender: Contact, message: RaftMessage) -> str:
        """Return by what name a message is dropped, or nothing if it is for this node and of this world."""
        if message.cluster != self.cluster_id:
            return "other_clusters"
        if message.target != self.node_id or message.source == self.node_id:
            return "misrouted"
        is_fresh = not self.term and not self.log.last_index
        if message.term > TERM_MAX or (message.term > self.term + self.config.term_jump_max and not is_fresh):
            return "absurd_terms"
        contact = self.log.configuration.contact_of(message.source)
        if contact is not None and contact.peer is not None and contact.peer != sender.peer:
            return "impostors"
        return ""

    @property
    def hard_state(self) -> HardState:
        """What a write now says of term, vote and commit index."""
        return HardState(self.term, self.vote, min(self.commit, self.log.last_index))


def checked_state(initial: Initial, config: RaftConfig, rng: random.Random) -> NodeState:
    """Return the state that storage holds.

    Raises:
        StorageError: It contradicts itself.
    """
    try:
        state = NodeState(initial, config, rng)
    except DecodeError as error:
        raise StorageError(f"a configuration in the log is damaged: {error}") from error
    hard, log = initial.hard_state, state.log
    if not 1 <= initial.node_id <= NODE_ID_MAX:
        raise StorageError(f"{initial.node_id} is no node id: draw one from 1 to 2**63 - 1")
    if hard.commit > log.last_index:
        raise StorageError(
            f"the log ends at {log.last_index}, and {hard.commit} was committed: entries are lost"
        )
    if hard.term < log.last_term:
        raise StorageError(f"the log has entries of term {log.last_term}, and the node's own is {hard.term}")
    if initial.snapshot is not None and not initial.snapshot.is_intact:
        raise StorageError("the snapshot is not what its digest says: it is damaged")
    return state
