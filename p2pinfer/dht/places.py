"""Contacts in the order of the key space, and the exact nearest of them to any key.

Rules:

1. Exact, always: the answer is the one that comparing all of them would give.
2. A change costs a binary search and a move in memory, so the order is kept and never made again.

Those that share a prefix with a key stand side by side in this order, and all of them are nearer to the key
than anybody else. So the nearest stand in the shortest such run that has enough of them: it is found by
binary search over the prefix's length, and only that run is sorted by distance.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from p2pinfer.dht.keyspace import KEY_SIZE_BITS
from p2pinfer.ids import Contact

__all__ = ["Places"]


class Places:
    """Contacts by the number that their peer's id is.

    Invariant: `_order` has the keys of `_contacts`, ascending.
    """

    __slots__ = ("_contacts", "_order")

    def __init__(self) -> None:
        self._order: list[int] = []
        self._contacts: dict[int, Contact] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, place: int) -> bool:
        return place in self._contacts

    def put(self, place: int, contact: Contact) -> None:
        """Add a contact, or give the one at that place another address."""
        if place not in self._contacts:
            insort(self._order, place)
        self._contacts[place] = contact

    def remove(self, place: int) -> None:
        """Take a contact out; one that is not in is ignored."""
        if self._contacts.pop(place, None) is not None:
            del self._order[bisect_left(self._order, place)]

    def nearest(self, key: bytes, count: int) -> list[Contact]:
        """The `count` contacts nearest to `key`, nearest first; all of them where there are not so many."""
        target = int.from_bytes(key, "big")
        low, high = self._run(target, count)
        contacts = self._contacts
        distances = [place ^ target for place in self._order[low:high]]
        distances.sort()
        return [contacts[each ^ target] for each in distances[:count]]

    def _run(self, target: int, count: int) -> tuple[int, int]:
        """The shortest run of those that share a prefix with `target` which has `count` of them."""
        order = self._order
        low, high = 0, len(order)
        if high <= count:
            return low, high
        few, enough = -1, KEY_SIZE_BITS  # bits left free: with `few` the run is too short, with `enough` not
        while enough - few > 1:
            free_bits = (few + enough) // 2
            first = target >> free_bits << free_bits
            # The runs lie within one another, so each search goes over the last one that was long enough.
            start = bisect_left(order, first, low, high)
            end = bisect_left(order, first + (1 << free_bits), start, high)
            if end - start >= count:
                low, high, enough = start, end, free_bits
            else:
                few = free_bits
        return low, high
