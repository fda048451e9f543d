"""A simulated swarm whose datagrams are real bytes: signed, sealed and opened as in a process."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from p2pinfer.dht.config import DhtConfig
from p2pinfer.effects import Effect, Message, Notify, Plane, Send
from p2pinfer.errors import RemoteProtocolError, SealError
from p2pinfer.identity import Identity, Verifier
from p2pinfer.ids import Contact, Endpoint, SwarmId
from p2pinfer.membership import SwarmPolicy, issue_certificate
from p2pinfer.peer_core import PeerConfig, PeerCore
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.keyring import KEYRING_KEY, KeyringChanged
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.rotation import first_keyring, install_key, remove_key, use_key
from p2pinfer.testing import Host, World
from p2pinfer.wire.codec import decode
from p2pinfer.wire.envelope import Envelopes
from p2pinfer.wire.messages.keyring import Keyring, key_id
from p2pinfer.wire.messages.membership import Membership

OWNER = Identity.from_seed(b"w" * 32)
SWARM = SwarmPolicy(SwarmId(OWNER.public_key))
OLD, NEW = b"o" * 32, b"n" * 32
V1 = first_keyring(OWNER.public_key, OLD, OWNER.sign_statement)
V2 = install_key(V1, NEW, OWNER.sign_statement)
V3 = use_key(V2, key_id(NEW), OWNER.sign_statement)
V4 = remove_key(V3, key_id(OLD), OWNER.sign_statement)
CONFIG = PeerConfig(swim=SwimConfig.for_tests(), dht=DhtConfig.for_tests(), owner=OWNER.public_key)
VALID_S = 1e6


@dataclass(frozen=True, slots=True)
class Datagram(Message):
    """The bytes of a datagram on their way. It is no message of the protocol: what is inside is."""

    TAG: ClassVar[int] = 127
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    data: bytes


@cache
def identity_of(index: int) -> Identity:
    return Identity.from_seed(index.to_bytes(32, "big"))


def contact(index: int) -> Contact:
    return Contact(identity_of(index).peer_id, Endpoint(f"10.0.0.{index + 1}", 7946))


@cache
def membership_of(index: int) -> Membership:
    subject = identity_of(index).public_key
    certificate = issue_certificate(OWNER, SWARM.id, subject, not_before=0.0, not_after=VALID_S)
    return Membership(swarm=SWARM.id, chain=(certificate,))


def envelopes_of(index: int, keyring: Keyring | None = None, verifier: Verifier | None = None) -> Envelopes:
    made = Envelopes(identity_of(index), SWARM, membership_of(index), verifier or Verifier())
    if keyring is not None:
        made.use_keyring(keyring)
    return made


class SealedPeer:
    """A whole peer behind its envelopes: does what `runtime/datagrams.py` and `planes.py` do."""

    def __init__(self, core: PeerCore, envelopes: Envelopes) -> None:
        self.core = core
        self.refused: Counter[str] = Counter()
        self._envelopes = envelopes

    def begin(self, keyring: Keyring | None, addresses: Sequence[Endpoint], now: float) -> list[Effect]:
        if keyring is not None:
            self.core.keyring.restore(keyring)
            self._envelopes.use_keyring(keyring)
        return self._sealed(self.core.join(addresses, now), now)

    def publish(self, keyring: Keyring, now: float) -> list[Effect]:
        return self._sealed(self.core.publish_keyring(keyring, now), now)

    def survey(self, now: float) -> list[Effect]:
        return self._sealed(self.core.survey_keyring(now), now)

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        if not isinstance(message, Datagram):
            return self._sealed(self.core.receive(sender, message, now), now)
        try:
            opened = self._envelopes.open(message.data, now)
        except RemoteProtocolError as error:
            self.refused[type(error).__name__] += 1
            if not isinstance(error, SealError):
                return []
            found = self.core.unopened(Contact(error.sender, sender.endpoint), now)
        else:
            found = self.core.receive(Contact(opened.sender, sender.endpoint), opened.message, now)
        return self._sealed(found, now)

    def tick(self, now: float) -> list[Effect]:
        return self._sealed(self.core.tick(now), now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        return self._sealed(self.core.disconnected(contact, now), now)

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        return self._sealed(self.core.disk_failed(key, now), now)

    @property
    def deadline(self) -> float | None:
        return self.core.deadline

    def statistics(self) -> Mapping[str, Any]:
        return self.core.statistics()

    def _sealed(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Notify) and isinstance(effect.news, KeyringChanged):
                self._envelopes.use_keyring(effect.news.keyring)
            if isinstance(effect, Send) and effect.message.PLANE is Plane.DATAGRAM:
                done.append(Send(effect.to, Datagram(self._envelopes.seal(effect.message, now))))
            else:
                done.append(effect)
        return done


class SealedSwarm:
    """Hosts p0 to p(n-1); p0 founded the swarm and has its first keyring, the others join through it."""

    def __init__(self, world: World, count: int, config: PeerConfig = CONFIG) -> None:
        self.world = world
        self.config = config
        self.hosts: list[Host] = []
        self._verifier = Verifier()  # signatures are checked once for all, which makes it faster
        for index in range(count):
            self.add(index)

    def add(self, index: int) -> Host:
        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            identity = identity_of(index)
            core = PeerCore(
                public_key=identity.public_key,
                endpoint=contact(index).endpoint,
                config=self.config,
                rng=rng,
                sign=identity.sign_statement,
                now=now,
            )
            peer = SealedPeer(core, envelopes_of(index, verifier=self._verifier))
            stored = decode(disk[KEYRING_KEY]) if KEYRING_KEY in disk else V1 if index == 0 else None
            assert stored is None or isinstance(stored, Keyring)
            return peer, peer.begin(stored, [contact(0).endpoint] if index else [], now)

        host = self.world.add(f"p{index}", make, contact(index))
        self.hosts.append(host)
        return host

    def publish(self, keyring: Keyring) -> None:
        self.hosts[0].call(lambda peer, now: peer.publish(keyring, now))

    def wait_acknowledged(self, timeout_s: float = 30.0) -> float:
        """As the owner does before the next step: ask until every live member has it; returns how long."""
        began = self.world.now
        keyring = self.hosts[0].core.core.keyring
        while keyring.behind():
            assert self.world.now < began + timeout_s, f"{len(keyring.behind())} members stay behind"
            self.hosts[0].call(lambda peer, now: peer.survey(now))
            self.world.run_for(0.5)
        return self.world.now - began

    def versions(self, indices: Iterable[int] | None = None) -> set[int]:
        chosen = range(len(self.hosts)) if indices is None else indices
        return {self.hosts[index].core.core.keyring.version for index in chosen}

    def all_alive(self, indices: Iterable[int]) -> bool:
        """Whether each of these takes exactly these for alive."""
        members = list(indices)
        wanted = {contact(index).peer for index in members}
        return all(
            {
                view.record.owner
                for view in self.hosts[index].core.core.swim.members()
                if view.state is MemberState.ALIVE
            }
            == wanted
            for index in members
        )

    def refused(self, kind: str, indices: Iterable[int] | None = None) -> int:
        chosen = range(len(self.hosts)) if indices is None else indices
        return sum(self.hosts[index].core.refused[kind] for index in chosen)
