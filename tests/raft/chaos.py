"""Random schedules for a cluster: messages lost, repeated and late, slow disks, crashes, clients' wishes."""

from __future__ import annotations

import random

from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.types import Change, ChangeKind, NodeId, Role
from tests.raft.cluster import Cluster, contact
from tests.raft.invariants import Invariants

__all__ = ["Chaos"]


class Chaos:
    """A cluster, and everything that can happen to it as one method each."""

    def __init__(
        self,
        seed: int,
        *,
        count: int = 3,
        learners: int = 0,
        spare: int = 0,
        config: RaftConfig | None = None,
    ) -> None:
        self.cluster = Cluster(count, learners=learners, spare=spare, seed=seed, config=config)
        self.invariants = Invariants(self.cluster)
        self.serial = 0

    def pass_time(self, seconds: float) -> None:
        self.cluster.now += seconds
        for node in self.cluster.nodes:
            self.cluster.tick(node)

    def deliver(self, choice: int) -> None:
        if self.cluster.wire:
            self.cluster.deliver(choice % len(self.cluster.wire))

    def repeat(self, choice: int) -> None:
        if self.cluster.wire:
            self.cluster.deliver(choice % len(self.cluster.wire), keep=True)

    def drop(self, choice: int) -> None:
        if self.cluster.wire:
            self.cluster.wire.pop(choice % len(self.cluster.wire))

    def sync(self, node: NodeId) -> None:
        self.cluster.sync(node)

    def refuse_write(self, node: NodeId) -> None:
        self.cluster.fail(node)

    def crash(self, node: NodeId) -> None:
        self.invariants.check()
        self.cluster.crash(node)
        self.invariants.crashed(node)

    def propose(self, node: NodeId, count: int) -> None:
        commands = [b"command %d" % (self.serial + step) for step in range(count)]
        self.serial += count
        requests, effects = self.cluster.core(node).propose(commands, self.cluster.now)
        self.invariants.proposed(node, requests, commands)
        self.cluster.do(node, effects)

    def read(self, node: NodeId) -> None:
        self.invariants.check()  # so that it knows all that is committed before the read begins
        request, effects = self.cluster.core(node).read(self.cluster.now)
        self.invariants.read_begun(node, request)
        self.cluster.do(node, effects)

    def compact(self, node: NodeId) -> None:
        if self.cluster.nodes[node].state:
            self.cluster.compact(node)

    def transfer(self, node: NodeId, target: NodeId | None) -> None:
        self.cluster.do(node, self.cluster.core(node).transfer(target, self.cluster.now))

    def hint(self, node: NodeId) -> None:
        core = self.cluster.core(node)
        if core.leader is not None:
            self.cluster.do(node, core.forget_leader(core.leader, self.cluster.now))

    def disconnect(self, node: NodeId, other: NodeId) -> None:
        self.cluster.do(node, self.cluster.core(node).disconnected(contact(other), self.cluster.now))

    def change(self, node: NodeId, kind: ChangeKind, other: NodeId) -> None:
        core = self.cluster.core(node)
        changes = [Change(kind, other, contact(other))]
        _, effects = core.change(changes, self.cluster.now)
        self.cluster.do(node, effects)

    def quiet(self, seconds: float) -> None:
        """Let things go well for a while, but for what is cut."""
        self.cluster.run(seconds, step_s=0.05)

    def random_step(self, rng: random.Random) -> None:
        nodes = sorted(self.cluster.nodes)
        node, other = rng.choice(nodes), rng.choice(nodes)
        choice, draw = rng.getrandbits(30), rng.random()
        if draw < 0.46:
            self.deliver(0 if rng.random() < 0.8 else choice)
        elif draw < 0.66:
            self.sync(node)
        elif draw < 0.74:
            self.pass_time(rng.choice((0.01, 0.02, 0.05, 0.1, 0.1, 0.5)))
        elif draw < 0.80:
            self.propose(node, rng.choice((1, 1, 3, 20)))
        elif draw < 0.84:
            self.read(node)
        elif draw < 0.86:
            self.repeat(choice)
        elif draw < 0.88:
            self.drop(choice)
        elif draw < 0.91:
            self.compact(node)
        elif draw < 0.97:
            self.quiet(rng.choice((0.05, 0.3, 2.0)))
        else:
            self._rare_step(rng, node, other)
        self.invariants.check()

    def _rare_step(self, rng: random.Random, node: NodeId, other: NodeId) -> None:
        match rng.randrange(9):
            case 0:
                self.crash(node)
            case 1:
                self.refuse_write(node)
            case 2:
                self.transfer(node, rng.choice((None, other)))
            case 3:
                self.hint(node)
            case 4:
                self.disconnect(node, other)
            case 5:
                self.change(node, rng.choice(list(ChangeKind)), other)
            case 6:
                self.cluster.isolate(node)
            case _:
                self.cluster.heal()

    def recover(self) -> None:
        """All faults end: the cluster must agree and serve within some election timeouts."""
        cluster = self.cluster
        cluster.heal()
        cluster.wire.clear()
        cluster.run(12.0, step_s=0.05)
        self.invariants.check()
        leader = cluster.leader
        self.propose(leader, 3)
        self.read(leader)
        cluster.run(1.0, step_s=0.05)
        self.invariants.check()
        configuration = cluster.core(leader).configuration
        assert not configuration.is_joint
        assert cluster.core(leader).role is Role.LEADER
        applied = {node: cluster.core(node).applied_index for node in configuration.nodes}
        assert len(set(applied.values())) == 1, applied
        states = [cluster.nodes[node].state for node in configuration.nodes]
        assert all(state == states[0] for state in states)
        cluster.run(cluster.config.proposal_timeout_s + 1, step_s=0.2)
        self.invariants.check()
        self.invariants.check_outcomes()
