"""Our own records: kept alive by storing them again for as long as we want them.

Rules:

1. Only the owner republishes, at a share of the lifetime. A holder that did would need no signature, but a
   record could then outlive the wish of its owner: values that never die are the oldest complaint about
   Kademlia's hourly republication.
2. Sequences only rise, over all of our records: they follow the clock in milliseconds, so that a restart does
   not begin below what was said before, and count on from the last one where the clock has gone back.
3. A compare-and-swap is said once. It is kept alive, without its condition, only after it was confirmed:
   until then, and for ever if it failed, another device's value may be the right one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.put import Put
from p2pinfer.dht.records import check_put
from p2pinfer.errors import LocalProtocolError
from p2pinfer.wire.messages.dht import DhtRecord
from p2pinfer.wire.messages.records import Sign
from p2pinfer.wire.schema import INT_MAX

__all__ = ["Publisher"]

_EARLY_SHARE = 0.1
"""What would be due within this share of its interval is stored together with what is due: records that are
put at different times come to share their lookups. Ours."""
_OUTRUN_S = 5.0
"""A record of ours that a later one hides is put again after this long, seconds: two devices with one key
that want different values do not take turns faster."""


@dataclass(slots=True)
class _OwnPut:
    wanted: Put
    is_settled: bool
    """Whether it is to be kept alive: a compare-and-swap only after it has won."""
    sequence: int = 0
    refresh_at: float = 0.0


class Publisher:
    """What this peer wants stored, by key and sub-key."""

    def __init__(self, public_key: bytes, sign: Sign, config: DhtConfig, rng: random.Random) -> None:
        self._public_key = public_key
        self._sign = sign
        self._config = config.record
        self._rng = rng
        self._namespaces = config.namespaces
        self._puts: dict[tuple[bytes, bytes], _OwnPut] = {}
        self._last_sequence = 0

    def __len__(self) -> int:
        return len(self._puts)

    def put(self, wanted: Put) -> None:
        """Want a value stored from now on; `make_record` gives the record.

        One with a condition is kept alive once `confirm` was called.

        Raises:
            LocalProtocolError: No peer would keep it, or there are more of ours than peers keep of one owner.
        """
        where = wanted.key, wanted.subkey
        check_put(wanted.value, wanted.subkey, wanted.ttl_s, self._config)
        self._namespaces.check_put(self._record(wanted))
        expected = wanted.expected
        if expected is not None and not 0 <= expected < INT_MAX:
            raise LocalProtocolError(f"expected is a sequence below {INT_MAX}, or 0 for none, not {expected}")
        if where not in self._puts and len(self._puts) >= self._config.per_owner_count_max:
            raise LocalProtocolError(
                f"{len(self._puts)} records are put already and peers keep no more of one owner: unput some"
            )
        self._puts[where] = _OwnPut(wanted, expected is None)

    def unput(self, key: bytes, subkey: bytes) -> bool:
        """Want it no longer: it expires by itself. Whether it was wanted."""
        return self._puts.pop((key, subkey), None) is not None

    def make_record(self, key: bytes, subkey: bytes, now: float) -> DhtRecord:
        """Return the next record of a put, signed, and plan the one after it."""
        return self._make_record(key, subkey, now, self._choose_spread())

    def confirm(self, record: DhtRecord) -> None:
        """A compare-and-swap has won: keep it alive from now on. Others are not changed by this."""
        ours = self._puts.get((record.key, record.subkey))
        if ours is not None and ours.sequence == record.sequence:
            ours.is_settled = True

    def refused(self, record: DhtRecord) -> None:
        """A compare-and-swap has lost: want it no longer, unless something else was put there meanwhile."""
        ours = self._puts.get((record.key, record.subkey))
        if ours is not None and not ours.is_settled and ours.sequence == record.sequence:
            del self._puts[record.key, record.subkey]

    def outrun(self, held: DhtRecord, now: float) -> None:
        """A holder has a record of ours that stands in the way of a later wish: say that again, above it.

        That happens when the clock went back over a restart, or when two devices have one key.
        """
        if held.public_key != self._public_key or held.sequence >= INT_MAX:
            return
        self._last_sequence = max(self._last_sequence, held.sequence)
        ours = self._puts.get((held.key, held.subkey))
        if ours is not None and ours.is_settled and ours.sequence <= held.sequence:
            ours.refresh_at = min(ours.refresh_at, now + _OUTRUN_S)

    def due(self, now: float, count_max: int) -> list[DhtRecord]:
        """Make the records that have to be stored again, those of near keys together.

        Args:
            now: Seconds since the Unix epoch.
            count_max: At most so many; the rest is due at the next call.
        """
        settled = [(where, ours) for where, ours in self._puts.items() if ours.is_settled]
        if all(ours.refresh_at > now for _, ours in settled):
            return []
        soon = [
            (ours.refresh_at, where)
            for where, ours in settled
            if ours.refresh_at <= now + _EARLY_SHARE * self._interval_s(ours.wanted)
        ]
        chosen = sorted(where for _, where in sorted(soon)[:count_max])
        spread = self._choose_spread()  # one for all: what was said together stays together
        return [self._make_record(key, subkey, now, spread) for key, subkey in chosen]

    @property
    def deadline(self) -> float | None:
        """When the next one has to be stored again."""
        return min((ours.refresh_at for ours in self._puts.values() if ours.is_settled), default=None)

    def _choose_spread(self) -> float:
        # Over a fifth, so that peers that started together do not republish together for ever.
        return self._rng.uniform(0.8, 1.0)

    def _make_record(self, key: bytes, subkey: bytes, now: float, spread: float) -> DhtRecord:
        ours = self._puts[key, subkey]
        wanted = ours.wanted
        above = 0 if wanted.expected is None or ours.is_settled else wanted.expected
        self._last_sequence = max(self._last_sequence + 1, int(now * 1000), above + 1)
        ours.sequence = self._last_sequence
        ours.refresh_at = now + self._interval_s(wanted) * spread
        expires_ms = int((now + wanted.ttl_s) * 1000)
        return self._sign(replace(self._record(wanted), sequence=ours.sequence, expires_ms=expires_ms))

    def _interval_s(self, wanted: Put) -> float:
        return min(self._config.republish_interval_s, wanted.ttl_s * self._config.republish_share)

    def _record(self, wanted: Put) -> DhtRecord:
        """What is checked before it is put: without sequence, expiry and signature."""
        return DhtRecord(
            public_key=self._public_key,
            namespace=wanted.namespace,
            key=wanted.key,
            subkey=wanted.subkey,
            value=wanted.value,
            sequence=0,
            expires_ms=0,
        )
