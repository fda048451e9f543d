"""Raft's core: what one node of a cluster does with messages, time and its clients' wishes.

Rules:

1. A list of effects holds at most one `Save`. Before it stands what may be said at once (a leader's appends, which
   thereby travel while its own disk writes), after it what promises something that must be durable (votes,
   acknowledgements) and what is handed to the application.
2. What depends on a `Save` of an earlier list is held back here until `saved`: nothing is assumed about how
   the lists of several inputs overlap in time.
3. Nobody counts itself (its vote, its log) before its own disk has said so.
4. Nothing that a remote peer says raises or grows memory without bound; nonsense is counted by name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.effects import Effect
from p2pinfer.ids import Contact
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.types import Change, Configuration, HardState, Initial, NodeId, Role
from p2pinfer.wire.messages.raft import RaftMessage

__all__ = ["RaftCore"]


class RaftCore:
    """One node's part in a cluster. A fresh node waits until `bootstrap` or until a leader finds it."""

    def __init__(self, initial: Initial, config: RaftConfig, rng: random.Random, now: float) -> None:
        """Start from what storage holds; the first `tick`, which is due at once, hands out what is committed.

        Raises:
            StorageError: What storage holds contradicts itself: it is damaged or was tampered with.
        """

    # ------------------------------------------------------------------ inputs

    def receive(self, sender: Contact, message: RaftMessage, now: float) -> list[Effect]:
        """Take one message; `sender` is whom the connection proved."""

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is early."""

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called next."""

    def saved(self, number: int, now: float) -> list[Effect]:
        """The `Save` with that number is durable, and with it all before."""

    def save_failed(self, now: float) -> list[Effect]:
        """The oldest `Save` not answered yet was not made durable, and none after it was or will be.

        A leader steps down. What was not written is written again with the next `Save`, whole, before
        anything is acknowledged; one is tried when something arrives, and at least each election timeout.
        """

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream to `contact` broke: what was sent to it last may be lost."""

    # ------------------------------------------------------------------ commands

    def bootstrap(self, configuration: Configuration, now: float) -> list[Effect]:
        """Found a cluster. Every first member is given the same configuration; later ones are added by `change`.

        Raises:
            LocalProtocolError: The node has a log already, or the configuration is joint, or has no voter.
        """

    def propose(self, commands: Sequence[bytes], now: float) -> tuple[range, list[Effect]]:
        """Have commands committed, in their order, here or by way of the leader.

        Returns:
            The numbers of the requests, one for each command, and the effects. Each gets one `ProposalDone`,
            in these effects already where it is refused at once.
        """

    def change(self, changes: Sequence[Change], now: float) -> tuple[int, list[Effect]]:
        """Change the membership, all of `changes` together, through joint consensus; only the leader can.

        `ProposalDone` tells that the change is committed, or in the case of voters the joint configuration
        left; or why it was refused: another change is under way, nothing would change, no voter would remain.
        """

    def read(self, now: float) -> tuple[int, list[Effect]]:
        """Ask for the index that a linearizable read must wait for: `ReadReady` or `ReadFailed`."""

    def transfer(self, target: NodeId | None, now: float) -> list[Effect]:
        """Hand the leadership over, to the voter with the longest log if None; `TransferDone` tells the end."""

    def forget_leader(self, leader: NodeId, now: float) -> list[Effect]:
        """Somebody reliable (SWIM) says that this leader is dead: grant pre-votes at once, and stand soon."""

    def compact(self, index: int, data: bytes, now: float) -> list[Effect]:
        """Take the application's state after `index` as a snapshot, in place of the entries before it.

        Raises:
            LocalProtocolError: `index` was not handed out yet, or the snapshot is larger than allowed.
        """

    # ------------------------------------------------------------------ queries

    @property
    def node_id(self) -> NodeId:
        """This node."""

    @property
    def role(self) -> Role:
        """What this node is at the moment."""

    @property
    def leader(self) -> NodeId | None:
        """Whom it follows, itself if it leads; None if it knows of none."""

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit index as they are in memory."""

    @property
    def configuration(self) -> Configuration:
        """The one in force: the last in the log, committed or not."""

    @property
    def applied_index(self) -> int:
        """Up to where entries were handed out as `Committed`, or by a snapshot."""

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, and gauges."""
