"""A few cores, their disks and the messages between them, moved by hand: no time passes by itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p2pinfer.effects import Deliver, Effect, Save, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.core import RaftCore
from p2pinfer.raft.news import Committed, SnapshotInstalled
from p2pinfer.raft.types import (
    Configuration,
    Entry,
    HardState,
    Initial,
    LogWrite,
    Member,
    NodeId,
    Role,
    Snapshot,
)
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.raft import RaftMessage

__all__ = ["CLUSTER", "Cluster", "Disk", "Node", "contact", "member", "news_of", "saves_of", "sends_of"]

CLUSTER = bytes(range(16))


def contact(node: NodeId) -> Contact:
    return Contact(PeerId(node.to_bytes(32, "big")), Endpoint("10.0.0.1", 1000 + node))


def member(node: NodeId) -> Member:
    return Member(node, contact(node))


def sends_of(effects: Sequence[Effect]) -> list[Any]:
    return [each.message for each in effects if isinstance(each, Send)]


def saves_of(effects: Sequence[Effect]) -> list[LogWrite]:
    return [each.write for each in effects if isinstance(each, Save)]


def news_of(effects: Sequence[Effect], kind: type[Any] | None = None) -> list[Any]:
    items = [each.item for each in effects if isinstance(each, Deliver)]
    return items if kind is None else [each for each in items if isinstance(each, kind)]


@dataclass
class Disk:
    """What is durable: written as `LogWrite` says, all of it or nothing."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None

    def write(self, write: LogWrite) -> None:
        if write.snapshot is not None:
            self.snapshot = write.snapshot
        if write.truncate_from is not None:
            self.entries = [each for each in self.entries if each.index < write.truncate_from]
        self.entries += write.entries
        if write.compact_to is not None:
            self.entries = [each for each in self.entries if each.index > write.compact_to]
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        indices = [each.index for each in self.entries]
        assert indices == list(range(indices[0], indices[0] + len(indices))) if indices else True, indices

    def initial(self, node: NodeId) -> Initial:
        return Initial(node, CLUSTER, self.hard_state, tuple(self.entries), self.snapshot)


class Node:
    """One core with its disk. Writes wait in `unsaved` with what stands after them until `sync`."""

    def __init__(
        self, node: NodeId, config: RaftConfig, seed: int, now: float, disk: Disk | None = None
    ) -> None:
        self.node = node
        self.disk = disk or Disk()
        self.core = RaftCore(self.disk.initial(node), config, random.Random(seed), now)
        self.unsaved: list[tuple[LogWrite, list[Effect]]] = []
        self.news: list[Any] = []
        self.applied: list[Entry] = []
        self.state: list[bytes] = []


class Cluster:
    """Nodes with ids 1 to n. Every message goes through the codec, as in a real network."""

    def __init__(
        self,
        count: int = 3,
        *,
        learners: int = 0,
        config: RaftConfig | None = None,
        seed: int = 1,
        spare: int = 0,
    ) -> None:
        self.config = config or RaftConfig.for_tests()
        self.now = 100.0
        self.seed = seed
        self.wire: list[tuple[NodeId, RaftMessage]] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.nodes: dict[NodeId, Node] = {}
        for node in range(1, count + learners + spare + 1):
            self.nodes[node] = Node(node, self.config, seed * 1000 + node, self.now)
        voters = [member(node) for node in range(1, count + 1)]
        more = tuple(member(node) for node in range(count + 1, count + learners + 1))
        self.configuration = Configuration.of(*voters, learners=more)
        for node in range(1, count + learners + 1):
            self.do(node, self.core(node).bootstrap(self.configuration, self.now))
        for node in self.nodes:
            self.tick(node)
        self.sync_all()

    def core(self, node: NodeId) -> RaftCore:
        return self.nodes[node].core

    # ------------------------------------------------------------------ effects

    def do(self, node: NodeId, effects: Sequence[Effect]) -> Sequence[Effect]:
        """Perform effects up to the first Save; what stands after it waits for `sync`."""
        at, here = self.nodes[node], list(effects)
        for index, effect in enumerate(here):
            if isinstance(effect, Save):
                at.unsaved.append((effect.write, here[index + 1 :]))
                break
            self._perform(at, effect)
        return effects

    def _perform(self, at: Node, effect: Effect) -> None:
        if isinstance(effect, Send):
            assert isinstance(effect.message, RaftMessage)
            again = decode(encode(effect.message))
            assert again == effect.message
            self.wire.append((at.node, effect.message))
        elif isinstance(effect, Deliver):
            at.news.append(effect.item)
            if isinstance(effect.item, Committed):
                for entry in effect.item.entries:
                    assert entry.index == len(at.state) + 1, (entry.index, len(at.state))
                    at.applied.append(entry)
                    at.state.append(entry.term.to_bytes(4, "big") + entry.data)
            elif isinstance(effect.item, SnapshotInstalled):
                at.state = _unpack(effect.item.snapshot.data)
                assert len(at.state) == effect.item.snapshot.meta.index

    def sync(self, node: NodeId) -> bool:
        """The disk makes the oldest write durable; returns whether there was one."""
        at = self.nodes[node]
        if not at.unsaved:
            return False
        write, rest = at.unsaved.pop(0)
        at.disk.write(write)
        for effect in rest:
            self._perform(at, effect)
        self.do(node, at.core.saved(write.number, self.now))
        return True

    def fail(self, node: NodeId) -> None:
        """The disk refuses everything under way."""
        at = self.nodes[node]
        at.unsaved.clear()
        self.do(node, at.core.save_failed(self.now))

    def sync_all(self) -> None:
        while sum(self.sync(node) for node in self.nodes):
            pass

    # ------------------------------------------------------------------ network and time

    def deliver(self, index: int = 0, *, keep: bool = False) -> None:
        """Deliver a message that is under way; `keep` leaves a copy of it there."""
        source, message = self.wire[index] if keep else self.wire.pop(index)
        if (source, message.target) not in self.cut and message.target in self.nodes:
            self.do(message.target, self.core(message.target).receive(contact(source), message, self.now))

    def settle(self, steps_max: int = 10_000) -> None:
        """Deliver and sync until nothing is under way."""
        for _ in range(steps_max):
            if self.wire:
                self.deliver()
            elif not sum(self.sync(node) for node in self.nodes):
                return
        raise AssertionError("messages never end")

    def tick(self, node: NodeId) -> None:
        deadline = self.core(node).deadline
        if deadline is not None and deadline <= self.now:
            self.do(node, self.core(node).tick(self.now))
            later = self.core(node).deadline
            assert later is None or later > self.now, "a driver would call again at once, for ever"

    def run(self, seconds: float, step_s: float = 0.02) -> None:
        """Let time pass, with everything delivered and synced at once."""
        end = self.now + seconds
        while self.now < end:
            self.now += step_s
            for node in self.nodes:
                self.tick(node)
            self.settle()

    def isolate(self, node: NodeId) -> None:
        self.cut |= {(node, other) for other in self.nodes} | {(other, node) for other in self.nodes}

    def heal(self) -> None:
        self.cut.clear()

    def crash(self, node: NodeId) -> None:
        """Lose what is in memory and start again from the disk."""
        at = self.nodes[node]
        self.seed += 1
        self.nodes[node] = Node(node, self.config, self.seed * 1000 + node, self.now, replace(at.disk))
        self.tick(node)

    # ------------------------------------------------------------------ wishes

    def elect(self, node: NodeId) -> None:
        """Have this node elected, by its own timeout."""
        deadline = self.core(node).deadline
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.do(node, self.core(node).tick(self.now))
        self.settle()
        assert self.core(node).role is Role.LEADER, self.core(node).role

    @property
    def leader(self) -> NodeId:
        """The leader with the highest term."""
        leaders = [node for node, at in self.nodes.items() if at.core.role is Role.LEADER]
        return max(leaders, key=lambda node: self.core(node).hard_state.term)

    def propose(self, node: NodeId, *commands: bytes) -> range:
        requests, effects = self.core(node).propose(commands, self.now)
        self.do(node, effects)
        return requests

    def compact(self, node: NodeId) -> None:
        """Have the state taken as a snapshot: all entries applied, one after the other."""
        at = self.nodes[node]
        self.do(node, at.core.compact(len(at.state), _pack(at.state), self.now))

    def news(self, node: NodeId, kind: type[Any]) -> list[Any]:
        return [each for each in self.nodes[node].news if isinstance(each, kind)]

    def messages(self, kind: type[Any]) -> list[Any]:
        return [message for _, message in self.wire if isinstance(message, kind)]


def _pack(state: list[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in state)


def _unpack(data: bytes) -> list[bytes]:
    state, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        state.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return state
