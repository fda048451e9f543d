"""Our own records: kept alive by storing them again for as long as we want them.

Only the owner republishes. A holder that did would need no signature, but a record could then outlive the
wish of its owner: values that never die are the oldest complaint about Kademlia's hourly republication.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from p2pinfer.dht.config import RecordConfig
from p2pinfer.errors import LocalProtocolError
from p2pinfer.wire.messages.dht import DhtRecord
from p2pinfer.wire.messages.records import Sign

__all__ = ["Publisher"]


@dataclass(slots=True)
class _OwnPut:
    value: bytes
    namespace: str
    ttl_s: float
    sequence: int
    refresh_at: float


class Publisher:
    """What this peer wants stored, by key and sub-key."""

    def __init__(self, public_key: bytes, sign: Sign, config: RecordConfig, rng: random.Random) -> None:
        self._public_key = public_key
        self._sign = sign
        self._config = config
        self._rng = rng
        self._puts: dict[tuple[bytes, bytes], _OwnPut] = {}

    def __len__(self) -> int:
        return len(self._puts)

    def put(self, key: bytes, subkey: bytes, value: bytes, ttl_s: float, namespace: str) -> None:
        """Want `value` stored from now on; `make_record` gives the record.

        Raises:
            LocalProtocolError: More sub-keys than other peers keep for one owner.
        """
        known = self._puts.get((key, subkey))
        if known is None and len(self._puts) >= self._config.per_owner_count_max:
            raise LocalProtocolError(
                f"{len(self._puts)} records are put already and peers keep no more of one owner: unput some"
            )
        self._puts[key, subkey] = _OwnPut(value, namespace, ttl_s, known.sequence if known else 0, 0.0)

    def unput(self, key: bytes, subkey: bytes) -> bool:
        """Want it no longer: it expires by itself. Whether it was wanted."""
        return self._puts.pop((key, subkey), None) is not None

    def make_record(self, key: bytes, subkey: bytes, now: float) -> DhtRecord:
        """Return the next record of a put, signed, and plan the one after it."""
        wanted = self._puts[key, subkey]
        wanted.sequence = max(wanted.sequence + 1, int(now * 1000))
        config = self._config
        wait_s = min(config.republish_interval_s, wanted.ttl_s * config.republish_share)
        # Spread over a fifth, so that peers that started together do not republish together for ever.
        wanted.refresh_at = now + wait_s * self._rng.uniform(0.8, 1.0)
        record = DhtRecord(
            public_key=self._public_key,
            namespace=wanted.namespace,
            key=key,
            subkey=subkey,
            value=wanted.value,
            sequence=wanted.sequence,
            expires_ms=int((now + wanted.ttl_s) * 1000),
        )
        return self._sign(record)

    def due(self, now: float) -> list[tuple[bytes, bytes]]:
        """Key and sub-key of what has to be stored again."""
        return [where for where, wanted in self._puts.items() if wanted.refresh_at <= now]

    @property
    def deadline(self) -> float | None:
        """When the next one has to be stored again."""
        return min((wanted.refresh_at for wanted in self._puts.values()), default=None)
