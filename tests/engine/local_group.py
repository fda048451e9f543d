"""A group of ranks in one process, each member on a thread of its own: the engines without a network."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from p2pinfer.effects import DropCache, ExtendCache, OpenCache
from p2pinfer.engine.api import EngineInput, EngineOutput
from p2pinfer.engine.tensor_engine import GroupBroken, ShardEngine, TensorEngine
from p2pinfer.engine.tensor_shard import ShardCut, cut_span
from p2pinfer.engine.weights import EngineConfig, SpanWeights
from p2pinfer.errors import Overloaded

F32 = NDArray[np.float32]
WAIT_S = 20.0


class Mailboxes:
    """For each rank the parts that the others sent it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.boxes = {(to, by): queue.SimpleQueue[F32]() for to in range(count) for by in range(count)}

    def add_up(self, rank: int, part: F32) -> F32:
        for other in range(self.count):
            self.boxes[other, rank].put(part)
        try:
            parts = [self.boxes[rank, by].get(timeout=WAIT_S) for by in range(self.count)]
        except queue.Empty as error:
            raise GroupBroken("a rank gave no part") from error
        total: F32 = np.sum(parts, axis=0, dtype=np.float32)
        return total


class MemberExchange:
    """A member's way to the others."""

    def __init__(self, mail: Mailboxes, rank: int) -> None:
        self.mail, self.rank = mail, rank

    def add_up(self, part: F32) -> F32:
        return self.mail.add_up(self.rank, part)


class LeaderExchange:
    """The leader's way to the members, which do what they are told in order, each on its thread."""

    def __init__(self, mail: Mailboxes, members: Sequence[ShardEngine]) -> None:
        self.mail = mail
        self.members = members
        self.outputs: list[list[EngineOutput]] = []
        self.round_count = 0
        self.queues = [queue.Queue[Callable[[], object] | None]() for _ in members]
        for each in self.queues:
            threading.Thread(target=self._work, args=(each,), daemon=True).start()

    def add_up(self, part: F32) -> F32:
        self.round_count += 1
        return self.mail.add_up(0, part)

    def announce(self, steps: Sequence[EngineInput]) -> None:
        for member, tasks in zip(self.members, self.queues, strict=True):
            tasks.put(partial(self._run, member, steps))

    def change_cache(self, change: OpenCache | ExtendCache | DropCache) -> None:
        for member, tasks in zip(self.members, self.queues, strict=True):
            if isinstance(change, OpenCache):
                tasks.put(partial(member.open_cache, change.session, change.positions_max))
            elif isinstance(change, ExtendCache):
                tasks.put(partial(member.extend_cache, change.session, change.positions_max))
            else:
                tasks.put(partial(member.drop_cache, change.session))
            tasks.join()

    def _run(self, member: ShardEngine, steps: Sequence[EngineInput]) -> None:
        self.outputs.append(member.run(steps))

    @staticmethod
    def _work(tasks: queue.Queue[Callable[[], object] | None]) -> None:
        while (task := tasks.get()) is not None:
            try:
                task()
            except Overloaded:
                pass  # every step that needs the cache says so
            finally:
                del task
                tasks.task_done()


class LocalGroup(TensorEngine):
    """The leader's engine, with the members that belong to it."""

    def __init__(
        self,
        config: EngineConfig,
        weights: SpanWeights,
        cuts: Sequence[ShardCut],
        member_size_bytes_max: int | None = None,
    ) -> None:
        mail = Mailboxes(len(cuts))
        self.members = [
            ShardEngine(
                config,
                cut_span(config, weights, cut),
                cut,
                MemberExchange(mail, rank),
                size_bytes_max=member_size_bytes_max,
            )
            for rank, cut in enumerate(cuts)
            if rank
        ]
        self.exchange = LeaderExchange(mail, self.members)
        super().__init__(config, cut_span(config, weights, cuts[0]), cuts[0], self.exchange)

    def cache_size_bytes(self, positions_max: int) -> int:
        """All of it lies in this process."""
        return sum(
            (each.cache_size_bytes(positions_max) for each in self.members),
            super().cache_size_bytes(positions_max),
        )

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        outputs = super().run(batch)
        self.wait_idle()  # what a member still holds of the batch is no cache
        return outputs

    def wait_idle(self) -> None:
        for tasks in self.exchange.queues:
            tasks.join()

    def close(self) -> None:
        super().close()
        for tasks, member in zip(self.exchange.queues, self.members, strict=True):
            tasks.put(member.close)
            tasks.put(None)
