"""A swarm of real SWIM cores that knows itself from the start, and a count of what its network carries.

1. No join is simulated: every core is given every record, as if all state exchanges were over. A thousand
   joins are another experiment, and take longer than what is to be seen here.
2. Signatures are stand-ins: all are made by honest cores here, and Ed25519 would take most of the time.
3. Nothing depends on the order of sets or on hash(): one seed, one run, in every process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig, lifetime_stretch
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import Member, MemberState
from p2pinfer.testing import Host, Trace, World
from p2pinfer.testing.network import ENVELOPE_SIZE_BYTES
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.records import Signed

__all__ = ["Digest", "FormedSwarm", "Meter", "contact", "peer_id", "public_key", "sign"]

S = TypeVar("S", bound=Signed)

_SIGNATURE = bytes(64)
_MEASURED_EVERY_COUNT = 8
"""Of so many messages one is encoded to learn its size: encoding all takes longer than the swarm."""


def sign(statement: S) -> S:
    """Stands for Ed25519: as long, and without its cost."""
    signed: Any = dataclasses.replace(statement, signature=_SIGNATURE)  # type: ignore[type-var]
    return signed  # type: ignore[no-any-return]


def public_key(index: int) -> bytes:
    return hashlib.sha256(b"member %d" % index).digest()


def peer_id(index: int) -> PeerId:
    return PeerId.from_public_key(public_key(index))


def contact(index: int) -> Contact:
    return Contact(peer_id(index), Endpoint(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 7946))


class Digest(Trace):
    """A trace that only hashes when what happened where: a tenth of a whole trace's time."""

    def line(self, now: float, host: str, what: str, *details: object) -> None:
        first = details[0] if details else ""
        kind = first if type(first) is str else type(first).__name__
        self.count += 1
        self._hash.update(f"{now!r} {host} {what} {kind}\n".encode())


class Meter:
    """Counts what is sent, lost or not; put it into `world.network.carry`.

    Attributes:
        datagrams: Sent so far.
        streamed: Messages sent on streams so far.
    """

    def __init__(self) -> None:
        self.datagrams = self.streamed = 0
        self._datagram_bytes = self._stream_bytes = 0

    def __call__(self, message: Message) -> Message:
        if message.PLANE is Plane.DATAGRAM:
            if self.datagrams % _MEASURED_EVERY_COUNT == 0:
                self._datagram_bytes += encoded_size(message) + ENVELOPE_SIZE_BYTES
            self.datagrams += 1
        else:
            if self.streamed % _MEASURED_EVERY_COUNT == 0:
                self._stream_bytes += encoded_size(message)
            self.streamed += 1
        return message

    @property
    def datagram_bytes(self) -> int:
        """Of all datagrams with their envelopes, estimated from each eighth."""
        return self._datagram_bytes * _MEASURED_EVERY_COUNT

    @property
    def stream_bytes(self) -> int:
        """Of all messages on streams, estimated from each eighth."""
        return self._stream_bytes * _MEASURED_EVERY_COUNT

    def reset(self) -> None:
        """Count from zero: the warm-up is over."""
        self.__init__()  # type: ignore[misc]


class FormedSwarm:
    """Hosts of a world, each of which holds the record of every other.

    Attributes:
        hosts: By index; host i is named `p{i}` and has the id `peer_id(i)`.
        index_of: The index of each id.
    """

    def __init__(self, world: World, count: int, config: SwimConfig) -> None:
        self.world = world
        self.config = config
        lucks = [world.rng(f"luck/{index}") for index in range(count)]
        of_name = {f"p{index}": luck for index, luck in enumerate(lucks)}
        # A generator for each pair, as usual, is 2.5 KB; a thousand hosts are a million pairs.
        world.network.path_rng = lambda source, target: of_name[source]
        self.hosts: list[Host] = [
            world.add(f"p{index}", self._factory(index), contact(index)) for index in range(count)
        ]
        self.index_of = {peer_id(index): index for index in range(count)}
        self._form()
        self._spread_renewals()

    @property
    def renewal_interval_s(self) -> float:
        """Between two records of one member, on average."""
        return 0.45 * self.config.record_lifetime_s * lifetime_stretch(self.config, len(self.hosts))

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> SwimCore:
            here = contact(index)
            return SwimCore(
                public_key=public_key(index),
                endpoint=here.endpoint,
                config=self.config,
                rng=rng,
                sign=sign,
                now=now,
            )

        return make

    def _form(self) -> None:
        """Put every record into every table.

        Through the table, and not as a StateReply: what a reply brings is told on, and a thousand cores that
        tell each other a thousand old records are no swarm at rest.
        """
        now, count = self.world.now, len(self.hosts)
        parts = [host.core._members for host in self.hosts]
        records = [
            (part.own.peer, part.own.sign(now, lifetime_stretch(self.config, count))) for part in parts
        ]
        for part in parts:
            own = part.own.peer
            for peer, record in records:
                if peer != own:
                    part.table.add(peer, Member(record, MemberState.ALIVE, now))

    def _spread_renewals(self) -> None:
        """Let each make its next record at a random time, as in a swarm that has run for long."""
        rng = self.world.rng("renewals")
        for host in self.hosts:
            self.world.at(self.world.now + rng.uniform(0, self.renewal_interval_s), _renamer(host))


def _renamer(host: Host) -> Callable[[], object]:
    return lambda: host.call(lambda core, now: core.set_name(host.name, now))
