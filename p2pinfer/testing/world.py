"""The simulated world: one heap of events, one seed, and the hosts.

1. Events are ordered by (time, the order in which they were planned); nothing else decides.
2. No clock, no thread, no global randomness: the same seed and the same calls give the same run.
3. The hosts' cores are the real ones; only what runs them is simulated.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from p2pinfer.effects import Message
from p2pinfer.errors import ConfigError, InternalError
from p2pinfer.ids import Contact
from p2pinfer.testing.engine import EngineFactory
from p2pinfer.testing.host import Host
from p2pinfer.testing.latency import Latency
from p2pinfer.testing.network import LAN_LATENCY, Link, Network
from p2pinfer.testing.process import CoreFactory
from p2pinfer.testing.rng import derive
from p2pinfer.testing.trace import Trace

if TYPE_CHECKING:
    from p2pinfer.testing.checkers import Checker

__all__ = ["World"]

EVENTS_AT_ONE_TIME_COUNT_MAX = 1_000_000
"""A run with more events at one instant has a core whose deadline never moves."""

CODEC = "p2pinfer.wire.codec"


def _encoded_size(message: Message) -> int:
    """Return a message's size on the wire; the codec is loaded at the first use."""
    size: Callable[[Message], int] = import_module(CODEC).encoded_size
    return size(message)


class World:
    """Hosts, a network and a clock that jumps from event to event.

    Attributes:
        now: Seconds since the world began.
        hosts: By name, in the order in which they were added.
        network: Links, partitions and rules.
        checkers: Each is asked after every event, and raises where the run went wrong.
        events_count: Events so far.
    """

    def __init__(
        self,
        seed: int,
        *,
        trace: Trace | None = None,
        latency: Latency = LAN_LATENCY,
        wire: bool = False,
        size: Callable[[Message], int] | None = None,
    ) -> None:
        """Make an empty world.

        Args:
            seed: The one number that all randomness comes from.
            trace: Where every event is written; None runs faster.
            latency: One way, between any two hosts; more in `world.network.link`.
            wire: Encode and decode every message, so that peers exchange what real bytes can hold.
            size: A message's bytes in place of the codec's count. With `wire` or `size` every datagram is
                held against the MTU; without, only a link's bandwidth asks for sizes, which is faster.
        """
        self.seed = seed
        self.now = 0.0
        self.trace = trace
        self.hosts: dict[str, Host] = {}
        self.checkers: list[Checker] = []
        self.events_count = 0
        self.network = Network(self, Link(latency=latency), size or _encoded_size, wire or size is not None)
        if wire:
            codec = import_module(CODEC)
            self.network.carry = lambda message: codec.decode(codec.encode(message))
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._planned_count = 0
        self._still_count = 0

    def rng(self, name: str) -> random.Random:
        """Return the generator of that name; asking again starts it again."""
        return derive(self.seed, name)

    def add(
        self, name: str, factory: CoreFactory, contact: Contact, *, engine: EngineFactory | None = None
    ) -> Host:
        """Add a host and start it.

        Raises:
            ConfigError: The name or the endpoint is taken, or the contact names no peer.
        """
        if name in self.hosts:
            raise ConfigError(f"there is a host {name!r} already: give each its own name")
        if contact.peer is None:
            raise ConfigError(f"host {name!r} needs a contact with a peer id")
        if contact.endpoint in self.network.listeners:
            holder = self.network.listeners[contact.endpoint].name
            raise ConfigError(f"{contact.endpoint} is {holder}'s: give {name!r} its own endpoint")
        host = Host(self, name, factory, contact, engine)
        self.hosts[name] = host
        self.network.listeners[contact.endpoint] = host
        host.start()
        return host

    def push(self, at: float, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Plan an event; for the simulator's own parts."""
        self._planned_count = count = self._planned_count + 1
        heapq.heappush(self._heap, (at, count, function, args))

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        """Do something at a time of the world's clock: a fault, a command.

        Raises:
            ConfigError: That time is past.
        """
        if not time_s >= self.now:
            raise ConfigError(f"at {self.now} s it is too late for something at {time_s} s")
        self.push(time_s, action, ())

    def step(self) -> bool:
        """Let the next event happen, and the checkers look; False if there is none."""
        heap = self._heap
        if not heap:
            return False
        at, _, function, args = heapq.heappop(heap)
        if at > self.now:
            self.now = at
            self._still_count = 0
        else:
            self._still_count += 1
            if self._still_count > EVENTS_AT_ONE_TIME_COUNT_MAX:
                raise InternalError(f"time stands still at {at} s: a core's deadline stays in the past")
        self.events_count += 1
        function(*args)
        for checker in self.checkers:
            checker.check(self)
        return True

    def run_until(self, time_s: float) -> None:
        """Let everything happen up to and at that time."""
        heap, step = self._heap, self.step
        while heap and heap[0][0] <= time_s:
            step()
        if time_s > self.now and not math.isinf(time_s):
            self.now = time_s

    def run_for(self, duration_s: float) -> None:
        """Let everything happen for that long."""
        self.run_until(self.now + duration_s)

    def run_until_true(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Run until the predicate holds, looking after each event; False if it did not within the time."""
        end = self.now + timeout_s
        heap = self._heap
        while not predicate():
            if not heap or heap[0][0] > end:
                self.now = max(self.now, end)
                return predicate()
            self.step()
        return True
