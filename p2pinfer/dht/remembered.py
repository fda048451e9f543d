"""Contacts to come back through: what is kept of the table over a restart and over bad times.

Rules:

1. Good contacts alone are added; who was lost since stays behind them as long as there is room, for the far
   side of a long partition is lost as well.
2. What the disk gives back is a hint: its contacts are candidates, asked before they are believed. Damaged,
   huge or foreign bytes are counted and ignored.
3. A write costs a disk's turn: at most one in `save_interval_s`, and only after enough has changed.
"""

from __future__ import annotations

from collections import Counter

from p2pinfer.dht.addresses import Reach, plausible
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.table import RoutingTable
from p2pinfer.errors import DecodeError
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.dht import SAVED_COUNT_MAX, SavedContacts

__all__ = ["CONTACTS_KEY", "Remembered"]

CONTACTS_KEY = "dht-contacts"
"""Under which the contacts are on disk."""
_FIRST_SAVE_SHARE = 0.1
"""Of `save_interval_s`, after which a table is saved for the first time: most nodes that stop do so early."""


class Remembered:
    """The contacts that a peer comes back through.

    Invariant: at most `SAVED_COUNT_MAX`, one for each peer.
    """

    def __init__(self, own: PeerId, table: RoutingTable, config: DhtConfig) -> None:
        self._own = own
        self._table = table
        self._config = config
        self._contacts: tuple[Contact, ...] = ()
        self._saved: frozenset[Contact] = frozenset()
        self._save_at: float | None = None
        self._next = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._contacts)

    def restore(self, data: bytes) -> tuple[Contact, ...]:
        """Take what was on disk; returns the contacts in it, none where the bytes are not in order."""
        try:
            message = decode(data)
        except DecodeError:
            message = None
        if not isinstance(message, SavedContacts):
            self.counters["saved_contacts_damaged"] += 1
            return ()
        difficulty = self._config.id_difficulty
        usable = {
            each.peer: each
            for each in message.contacts
            if plausible(each, Reach.LOOPBACK, self._own, difficulty)
        }
        self.counters["saved_contacts_refused"] += len(message.contacts) - len(usable)
        self._contacts = tuple(usable.values())
        self._saved = frozenset(self._contacts)
        return self._contacts

    def choose_next(self, count: int) -> list[Contact]:
        """Those whose turn it is to be asked for a way back, the best first."""
        contacts = self._contacts
        if not contacts:
            return []
        start = self._next % len(contacts)
        self._next = start + count
        return list(dict.fromkeys((contacts[start:] + contacts)[:count]))

    def begin_again(self) -> None:
        """Everybody is lost: ask the best first."""
        self._next = 0

    def save_due(self, now: float) -> bytes | None:
        """What is to be written now, under `CONTACTS_KEY`; None while nothing is."""
        interval_s = self._config.table.save_interval_s
        if self._save_at is None and self._table.good_count:
            self._save_at = now + _FIRST_SAVE_SHARE * interval_s
        if self._save_at is None or now < self._save_at:
            return None
        self._save_at = now + interval_s
        by_peer = {each.peer: each for each in self._table.choose_to_save(SAVED_COUNT_MAX)}
        for each in self._contacts:  # in bad times they are all there is, and worth more than nobody
            by_peer.setdefault(each.peer, each)
        self._contacts = tuple(by_peer.values())[:SAVED_COUNT_MAX]
        contacts = frozenset(self._contacts)
        if len(contacts ^ self._saved) < max(1.0, self._config.table.save_change_share * len(self._saved)):
            return None
        self._saved = contacts
        self.counters["contacts_saved"] += 1
        return encode(SavedContacts(self._contacts))

    @property
    def deadline(self) -> float | None:
        """When to look whether something is to be written."""
        return self._save_at
