"""How the swarm's keyring gets to every member, and who has which version of it.

Rules:

1. The newest version that the owner signed is the one to have; an older one is never taken back. Of two of
   one version the first is kept, and the owner is reported: only a new version ends such a fork.
2. Whoever hears of a newer version fetches it over a stream; whoever hears of an older one says what it has.
   Versions are compared with every state exchange, when a datagram does not open, and in the rounds of
   gossip after a change: a member that slept through a rotation needs one word from anybody.
3. What is fetched is on disk before it is used, so that a restart needs nobody.
4. One fetch at a time, and a peer that did not deliver is left alone for a while: a liar costs a delay.

Without an owner (an open swarm, where everybody could fetch the keys) it does nothing.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pinfer.effects import Effect, Message, Misbehaved, Notify, Persist, Send
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig, retransmit_limit
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.keyring import (
    Keyring,
    KeyringNews,
    KeyringNotice,
    KeyringReply,
    KeyringRequest,
)

__all__ = ["KEYRING_KEY", "KeyringChanged", "KeyringCore"]

KEYRING_KEY = "keyring"
"""Under which the ring is on disk."""
FETCH_PERIODS = 2.0
"""Protocol periods that a fetch may take before another peer is asked."""
PAUSE_S_MAX = 60.0
"""The longest that a peer is not asked again: it doubles from one fetch's time with each that failed."""
SOURCES_COUNT_MAX = 8
"""Peers remembered to fetch from: the gossip names more as long as there is something to fetch."""
PEERS_COUNT_MAX = 1024
"""Peers whose pace is kept."""
SURVEYED_COUNT = 64
"""Members asked for their version in one gossip interval."""


@dataclass(frozen=True, slots=True)
class KeyringChanged:
    """A newer keyring is in force here, and on disk."""

    keyring: Keyring


class KeyringCore:
    """One peer's copy of the swarm's keyring.

    Invariant: `_keyring` is sound and the owner's; `_versions` has live members alone.

    Args:
        owner: The owner's public key, which is the swarm's id; empty where there is no keyring.
        config: The membership's: its pace of gossip is used.
        rng: Chooses whom to tell.
    """

    def __init__(self, *, owner: bytes, config: SwimConfig, rng: random.Random) -> None:
        self._owner = owner
        self._config = config
        self._rng = rng
        self._keyring: Keyring | None = None
        self._members: dict[PeerId, Contact] = {}
        self._versions: dict[PeerId, int] = {}
        self._rounds_left = 0
        self._to_survey: list[PeerId] = []
        self._gossip_at = 0.0
        self._sources: OrderedDict[PeerId, Contact] = OrderedDict()
        self._fetch_at = 0.0
        self._pauses = _Pauses(config.probe_interval_s * FETCH_PERIODS)
        self._told: OrderedDict[PeerId, float] = OrderedDict()
        self._forked_version = 0
        self._counts: Counter[str] = Counter()

    # ------------------------------------------------------------------ commands

    def restore(self, keyring: Keyring) -> None:
        """Begin with what the disk has; nothing is told or written."""
        if keyring.is_sound(self._owner):
            self._keyring = keyring

    def publish(self, keyring: Keyring, now: float) -> list[Effect]:
        """Put a new version into force, here and then everywhere: the owner's command.

        Raises:
            LocalProtocolError: It is not the owner's, or not newer than what is here.
        """
        if not keyring.is_sound(self._owner):
            raise LocalProtocolError("this keyring is not the swarm's: only its owner makes one")
        if keyring.version <= self.version:
            raise LocalProtocolError(
                f"the keyring is at version {self.version} already, not below {keyring.version}: try again"
            )
        return self._adopt(keyring, now)

    def survey(self, now: float) -> list[Effect]:
        """Ask all members that are not known to have this version which one they have."""
        self._to_survey = list(self.behind())
        return self.tick(now)

    def unopened(self, sender: Contact, now: float) -> list[Effect]:
        """A member's datagram did not open: it may be ahead of us, or behind. Compare with it."""
        if not self._owner or sender.peer is None:
            return []
        self._counts["unopened"] += 1
        self._put_source(self._members.get(sender.peer, sender), is_sure=False)
        return self._maybe_fetch(now)

    def exchange(self, to: Contact) -> list[Effect]:
        """Compare versions with whoever a state exchange goes to."""
        return [Send(to, KeyringRequest(notice=self._notice))] if self._owner else []

    def member_came(self, contact: Contact) -> None:
        """SWIM says that a member is there, or where."""
        if self._owner and contact.peer is not None:
            self._members[contact.peer] = contact

    def member_gone(self, peer: PeerId) -> None:
        """SWIM says that a member is dead or left."""
        self._members.pop(peer, None)
        self._versions.pop(peer, None)

    # ------------------------------------------------------------------ queries

    @property
    def keyring(self) -> Keyring | None:
        """What is in force here."""
        return self._keyring

    @property
    def version(self) -> int:
        """Of the keyring in force; 0 while there is none."""
        return 0 if self._keyring is None else self._keyring.version

    def version_of(self, peer: PeerId) -> int | None:
        """The version that a member last said it has; 0 for none, None if it said nothing."""
        return self._versions.get(peer)

    def behind(self) -> tuple[PeerId, ...]:
        """The live members not known to have the version that is in force here, in the order of their ids."""
        version = self.version
        return tuple(sorted(peer for peer in self._members if self._versions.get(peer, -1) < version))

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, and `version`, `keys` and `members_behind`."""
        return {
            **self._counts,
            "version": self.version,
            "keys": 0 if self._keyring is None else len(self._keyring.keys),
            "members_behind": len(self.behind()) if self._keyring is not None else 0,
        }

    # ------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called: only while there is something to tell or to fetch."""
        times = []
        if self._rounds_left or self._to_survey:
            times.append(self._gossip_at)
        if self._sources:
            times.append(self._fetch_at)
        return min(times, default=None)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects = self._maybe_fetch(now)
        if now < self._gossip_at or not (self._rounds_left or self._to_survey):
            return effects
        self._gossip_at = now + self._config.gossip_interval_s
        return effects + self._gossip()

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream ended: if the keyring was to come over it, another peer is asked at once."""
        if not self._sources:
            return []
        self._fetch_at = now
        return self._maybe_fetch(now)

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        """Use the keyring without a copy on disk: after a restart it is fetched again."""
        if key != KEYRING_KEY or self._keyring is None:
            return []
        self._counts["not_stored"] += 1
        return [Notify(KeyringChanged(self._keyring))]

    # ------------------------------------------------------------------ messages

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Take one message; see `wire/messages/keyring.py` for what each means."""
        if not self._owner or sender.peer is None:
            return []
        match message:
            case KeyringNews() | KeyringRequest() | KeyringReply():
                notice = message.notice
            case _:
                self._counts["messages_ignored"] += 1
                return []
        if notice is not None and notice.public_key != self._owner:
            self._counts["strangers_notices"] += 1
            return [Misbehaved(sender.peer, "a keyring that is not the swarm's owner's")]
        effects = self._note(sender.peer, notice)
        match message:
            case KeyringNews():
                effects += self._maybe_tell(sender, notice, message.asks, now)
            case KeyringRequest():
                is_older = notice is None or notice.version < self.version
                effects.append(Send(sender, self._reply(is_older)))
            case KeyringReply():
                self._pauses.answered(sender.peer, now)
                self._fetch_at = now  # whoever was asked next need not wait for it
                if message.keyring is not None:
                    return effects + self._consider(sender.peer, message.keyring, now)
        if notice is not None and notice.version > self.version:
            self._put_source(sender, is_sure=True)
        return effects + self._maybe_fetch(now)

    def _reply(self, is_older: bool) -> KeyringReply:
        return KeyringReply(notice=self._notice, keyring=self._keyring if is_older else None)

    def _note(self, peer: PeerId, notice: KeyringNotice | None) -> list[Effect]:
        """Remember which version a peer has; report the owner if it signed two of one version."""
        own = self._notice
        version = 0 if notice is None else notice.version
        is_fork = (
            own is not None
            and notice is not None
            and notice.version == own.version
            and notice.content != own.content
        )
        if peer in self._members:
            self._versions[peer] = 0 if is_fork else version
        if not is_fork or version == self._forked_version:
            return []
        self._forked_version = version
        self._counts["forks"] += 1
        owner = PeerId.from_public_key(self._owner)
        return [Misbehaved(owner, f"the owner signed two keyrings of version {version}: install a key anew")]

    def _maybe_tell(
        self, to: Contact, notice: KeyringNotice | None, is_asked: bool, now: float
    ) -> list[Effect]:
        """Say what is here, to whoever asks or has less; not more often than gossip goes."""
        is_older = self.version > (0 if notice is None else notice.version)
        peer = to.peer
        if peer is None or not (is_asked or is_older) or now < self._told.get(peer, now):
            return []
        self._told[peer] = now + self._config.gossip_interval_s
        self._told.move_to_end(peer)
        if len(self._told) > PEERS_COUNT_MAX:
            self._told.popitem(last=False)
        return [Send(to, KeyringNews(notice=self._notice))]

    def _consider(self, sender: PeerId, keyring: Keyring, now: float) -> list[Effect]:
        if not keyring.is_sound(self._owner):
            self._counts["unsound"] += 1
            return [Misbehaved(sender, "a keyring whose keys and notice do not belong together")]
        if keyring.version <= self.version:
            if keyring.version < self.version:
                self._counts["rollbacks_refused"] += 1
            return []
        return self._adopt(keyring, now)

    # ------------------------------------------------------------------ small parts

    @property
    def _notice(self) -> KeyringNotice | None:
        return None if self._keyring is None else self._keyring.notice

    def _adopt(self, keyring: Keyring, now: float) -> list[Effect]:
        self._keyring = keyring
        self._counts["changes"] += 1
        self._sources.clear()
        self._pauses.clear()
        self._told.clear()
        self._to_survey.clear()
        self._rounds_left = retransmit_limit(self._config.retransmit_factor, len(self._members) + 1)
        self._gossip_at = now
        return [Persist(KEYRING_KEY, encode(keyring)), Notify(KeyringChanged(keyring))]

    def _gossip(self) -> list[Effect]:
        """Tell a few members that seem to have less, and ask some whose version is wanted."""
        effects: list[Effect] = []
        if self._rounds_left:
            behind = self.behind()
            self._rounds_left = self._rounds_left - 1 if behind else 0
            for peer in self._rng.sample(behind, min(len(behind), self._config.gossip_count)):
                effects.append(Send(self._members[peer], KeyringNews(notice=self._notice)))
        asked, self._to_survey = self._to_survey[:SURVEYED_COUNT], self._to_survey[SURVEYED_COUNT:]
        for peer in asked:
            contact = self._members.get(peer)
            if contact is not None:
                effects.append(Send(contact, KeyringNews(notice=self._notice, asks=True)))
        return effects

    def _put_source(self, contact: Contact, *, is_sure: bool) -> None:
        """Remember a peer to fetch from; who showed a newer notice goes before who may have one."""
        if contact.peer is None:
            return
        if contact.peer not in self._sources and len(self._sources) >= SOURCES_COUNT_MAX:
            if not is_sure:
                return
            self._sources.popitem()
        self._sources.setdefault(contact.peer, contact)
        if is_sure:
            self._sources.move_to_end(contact.peer, last=False)

    def _maybe_fetch(self, now: float) -> list[Effect]:
        while self._sources and now >= self._fetch_at:
            peer, contact = self._sources.popitem(last=False)
            if self._pauses.allows(peer, now):
                self._fetch_at = now + self._config.probe_interval_s * FETCH_PERIODS
                self._counts["fetches"] += 1
                return [Send(contact, KeyringRequest(notice=self._notice))]
        return []


class _Pauses:
    """Who was asked in vain, and until when it is left alone.

    Invariant: at most `PEERS_COUNT_MAX` peers are remembered.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._peers: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def clear(self) -> None:
        """Somebody delivered: everybody may be asked again."""
        self._peers.clear()

    def answered(self, peer: PeerId, now: float) -> None:
        """It answered, if with nothing new: its wait is short again."""
        self._peers[peer] = (now + self._first_s, self._first_s)
        self._forget_oldest(peer)

    def allows(self, peer: PeerId, now: float) -> bool:
        """Whether to ask a peer now; if so, the next time comes after twice the wait."""
        until, wait_s = self._peers.get(peer, (now, self._first_s))
        if now < until:
            return False
        self._peers[peer] = (now + wait_s, min(2 * wait_s, PAUSE_S_MAX))
        self._forget_oldest(peer)
        return True

    def _forget_oldest(self, latest: PeerId) -> None:
        self._peers.move_to_end(latest)
        if len(self._peers) > PEERS_COUNT_MAX:
            self._peers.popitem(last=False)
