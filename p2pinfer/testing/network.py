"""The simulated network: who listens where, links with their faults, partitions and rules.

1. A packet is judged when it leaves: rules first, the first that has an opinion wins; then partitions; then
   the link's loss, latency, duplication, reordering and bandwidth. What has left arrives, unless its host is
   down.
2. Datagrams may be lost, doubled, overtaken; one above the MTU is dropped and counted. Streams have their own
   file.
3. Each ordered pair of hosts has its own generator, so one pair's traffic never changes another's luck.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pinfer.effects import Message, Plane
from p2pinfer.errors import InternalError
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.testing.latency import Latency
from p2pinfer.testing.rules import Delay, Drop, Packet, Pass, Rule, Verdict
from p2pinfer.testing.streams import Streams

if TYPE_CHECKING:
    from p2pinfer.testing.host import Host
    from p2pinfer.testing.world import World

__all__ = [
    "DATAGRAM_SIZE_BYTES_MAX",
    "ENVELOPE_SIZE_BYTES",
    "LAN_LATENCY",
    "Link",
    "Network",
    "Partition",
    "Path",
]

DATAGRAM_SIZE_BYTES_MAX = 1400
"""Bytes; what passes Ethernet and the usual tunnels unfragmented (memberlist's default UDPBufferSize)."""
ENVELOPE_SIZE_BYTES = 154
"""What wire/envelope.py adds to a datagram at least, sealed; certificates come on top."""
LAN_LATENCY = Latency(0.0002, 0.0008)
"""Seconds one way; a switched or wireless local network."""
SIZES_KEPT_COUNT_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a packet meets between two hosts, in one direction.

    Shares are of all datagrams; a stream meets loss as a retransmission's delay instead.
    """

    latency: Latency = LAN_LATENCY
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share that is held back by up to `reorder_s`, so that later ones overtake it."""
    reorder_s: float = 0.05
    bandwidth_bytes_s: float | None = None
    """Bytes a second; packets wait for each other. None: as fast as may be."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"a link's {name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.bandwidth_bytes_s is not None and self.bandwidth_bytes_s <= 0:
            raise ValueError(f"a link's bandwidth_bytes_s is above 0, not {self.bandwidth_bytes_s}")


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A cut that is in force until `Network.heal` gets it back."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Path:
    """One direction between two hosts: its generator, its own link if any, and when its wire is free."""

    rng: random.Random
    link: Link | None = None
    free_at_s: float = 0.0


@dataclass(slots=True)
class _Rules:
    """The rules in force by their handles, in the order in which they were added."""

    by_handle: dict[int, Rule] = field(default_factory=dict)
    made_count: int = 0


@dataclass(slots=True)
class _Cuts:
    """How many partitions in force cut each ordered pair."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    partitions: list[Partition] = field(default_factory=list)


class Network:
    """Carries messages between hosts; reached as `world.network`.

    Attributes:
        link: What every pair has that `set_link` did not name.
        counts: Messages lost, by reason: loss, cut, rule, nobody, down, oversize, inbox full.
        path_rng: Makes the generator of each direction between two hosts, at its first packet. Worlds of a
            thousand hosts, which are a million pairs, may let pairs share generators.
        size: Gives a message's bytes, for bandwidth and the MTU.
        checks_mtu: Whether a datagram above `datagram_size_bytes_max`, with its envelope, is dropped.
        envelope_size_bytes: What signing adds to each datagram.
    """

    def __init__(self, world: World, link: Link, size: Callable[[Message], int], checks_mtu: bool) -> None:
        self.link = link
        self.counts: Counter[str] = Counter()
        self.streams = Streams(world, self)
        self.listeners: dict[Endpoint, Host] = {}
        self.size = size
        self.checks_mtu = checks_mtu
        self.carry: Callable[[Message], Message] | None = None
        self.datagram_size_bytes_max = DATAGRAM_SIZE_BYTES_MAX
        self.envelope_size_bytes = ENVELOPE_SIZE_BYTES
        self._world = world
        self._paths: dict[tuple[str, str], Path] = {}
        self._cuts = _Cuts()
        self._rules = _Rules()
        self.path_rng: Callable[[str, str], random.Random] = lambda a, b: world.rng(f"path/{a}/{b}")
        self._sizes: dict[int, tuple[Message, int]] = {}

    # --- links, partitions and rules, for tests ---

    def set_link(self, source: str, target: str, link: Link | None) -> None:
        """Give one direction its own link; None takes it back to the common one."""
        self.path(source, target).link = link

    def partition(
        self, side: str | Iterable[str], other: str | Iterable[str], *, one_way: bool = False
    ) -> Partition:
        """Cut everything from one side to the other and, unless `one_way`, back; name the hosts."""
        sources, targets = _names(side), _names(other)
        pairs = [(a, b) for a in sources for b in targets if a != b]
        if not one_way:
            pairs += [(b, a) for a, b in pairs]
        cut = Partition(tuple(pairs))
        self._cuts.partitions.append(cut)
        self._cuts.counts.update(cut.pairs)
        self._note("fault", "cut", ",".join(sources), "->" if one_way else "<->", ",".join(targets))
        return cut

    def isolate(self, name: str) -> Partition:
        """Cut one host off from all others that exist now."""
        return self.partition(name, [other for other in self._world.hosts if other != name])

    def heal(self, partition: Partition | None = None) -> None:
        """End one partition, or all; ending one twice does nothing."""
        cuts = self._cuts
        for cut in list(cuts.partitions) if partition is None else [partition]:
            if cut in cuts.partitions:
                cuts.partitions.remove(cut)
                cuts.counts.subtract(cut.pairs)
        cuts.counts = +cuts.counts
        self._note("fault", "heal", "all" if partition is None else "one")

    def add_rule(self, rule: Rule) -> int:
        """Put a rule after those that are there; return the handle that takes it back."""
        rules = self._rules
        rules.made_count += 1
        rules.by_handle[rules.made_count] = rule
        return rules.made_count

    def remove_rule(self, handle: int) -> None:
        """Take a rule away; doing so twice does nothing."""
        self._rules.by_handle.pop(handle, None)

    # --- for hosts and streams ---

    def path(self, source: str, target: str) -> Path:
        """Return the one direction between two hosts."""
        path = self._paths.get((source, target))
        if path is None:
            path = self._paths[source, target] = Path(self.path_rng(source, target))
        return path

    def cut(self, source: str, target: str) -> bool:
        """Whether a partition lies in that direction."""
        counts = self._cuts.counts
        return bool(counts) and counts[source, target] > 0

    def latency_s(self, source: str, target: str) -> float:
        """Draw the one-way delay of a small packet."""
        path = self.path(source, target)
        return (path.link or self.link).latency.draw(path.rng)

    def judge(self, packet: Packet) -> Verdict:
        """Ask the rules in their order; a partition is asked after them."""
        for rule in self._rules.by_handle.values():
            verdict = rule(packet)
            if verdict is not None:
                if not isinstance(verdict, Pass):
                    return verdict
                break
        return Drop() if self.cut(packet.source, packet.target) else None

    def delay_s(self, path: Path, link: Link, message: Message) -> float:
        """Draw a packet's delay and let it take its turn on the wire."""
        delay_s = link.latency.draw(path.rng)
        if link.bandwidth_bytes_s is not None:
            now = self._world.now
            start = path.free_at_s if path.free_at_s > now else now
            path.free_at_s = start + self.size_bytes(message) / link.bandwidth_bytes_s
            delay_s += path.free_at_s - now
        return delay_s

    def size_bytes(self, message: Message) -> int:
        """Return a message's size. The last few are kept: gossip sends one object to many."""
        sizes = self._sizes
        known = sizes.get(id(message))
        if known is not None:
            return known[1]  # the entry keeps its message alive, so its id is not another's
        if len(sizes) >= SIZES_KEPT_COUNT_MAX:
            sizes.clear()
        size_bytes = self.size(message)
        sizes[id(message)] = (message, size_bytes)
        return size_bytes

    def count(self, reason: str, host: str, message: Message) -> None:
        """Count a lost message and say so in the trace."""
        self.counts[reason] += 1
        trace = self._world.trace
        if trace is not None:
            trace.line(self._world.now, host, "drop", f"[{reason}]", message)

    def send(self, source: Host, to: Contact, message: Message) -> None:
        """Take one `Send`."""
        world = self._world
        if world.trace is not None:
            world.trace.line(world.now, source.name, "send", message, "to", to)
        if self.carry is not None:
            message = self.carry(message)
        target = self.listeners.get(to.endpoint)
        if message.PLANE is Plane.DATAGRAM:
            if target is None or (to.peer is not None and to.peer != target.contact.peer):
                self.count("nobody", source.name, message)
            elif self._fits(source, message):
                self._send_datagram(source, target, message)
        elif message.PLANE is Plane.STREAM:
            self.streams.send(source, to, target, message)
        else:
            raise InternalError(f"{type(message).__name__} is a part of messages and is never sent alone")

    def _fits(self, source: Host, message: Message) -> bool:
        if not self.checks_mtu:
            return True
        if self.size_bytes(message) + self.envelope_size_bytes <= self.datagram_size_bytes_max:
            return True
        self.count("oversize", source.name, message)
        return False

    def _send_datagram(self, source: Host, target: Host, message: Message) -> None:
        world = self._world
        if source is target:
            world.push(world.now, target.hear, (source.contact, message))
            return
        extra_s = 0.0
        if self._rules.by_handle or self._cuts.counts:
            verdict = self.judge(Packet(source.name, target.name, message, world.now))
            if isinstance(verdict, Drop):
                self.count("cut" if self.cut(source.name, target.name) else "rule", source.name, message)
                return
            if isinstance(verdict, Delay):
                extra_s = verdict.delay_s
        path = self.path(source.name, target.name)
        link = path.link or self.link
        rng = path.rng
        if link.loss and rng.random() < link.loss:
            self.count("loss", source.name, message)
            return
        if link.reorder and rng.random() < link.reorder:
            extra_s += link.reorder_s * rng.random()
        arrival = world.now + self.delay_s(path, link, message) + extra_s
        world.push(arrival, target.hear, (source.contact, message))
        if link.duplicate and rng.random() < link.duplicate:
            self._note("dup", message)
            world.push(arrival + link.latency.draw(rng), target.hear, (source.contact, message))

    def _note(self, what: str, *details: object) -> None:
        trace = self._world.trace
        if trace is not None:
            trace.line(self._world.now, "-", what, *details)


def _names(side: str | Iterable[str]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else tuple(side)
