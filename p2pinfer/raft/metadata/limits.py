"""How large the metadata may become. What is beyond is refused by name, on every replica alike.

Rules:

1. These bounds decide what is refused, and so what the state is: they are the same on every replica.
   Snapshots carry their digest, and one that was made under others is refused.
2. Everything that is kept has a bound, in number and in bytes; a full swarm goes on with what it has.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from p2pinfer.errors import ConfigError

__all__ = ["RECORD_OVERHEAD_BYTES", "Limits"]

RECORD_OVERHEAD_BYTES = 64
"""What a key counts for beside its own bytes and its value's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the replicated metadata. All are at least 1."""

    keys_count_max: int = 65_536
    keys_size_bytes_max: int = 64 << 20
    """Keys, values and 64 bytes for each. Far above what a swarm needs: a snapshot travels as a whole."""
    touched_count_max: int = 1024
    """Keys that one transaction may look at or change by prefixes, and that one lease may have."""
    result_size_bytes_max: int = 1 << 19
    """Keys and values that one transaction may return."""
    history_count_max: int = 8192
    """Changes that are kept for watchers. etcd keeps 5000 entries for slow followers (`--snapshot-count`)."""
    history_size_bytes_max: int = 8 << 20
    leases_count_max: int = 4096
    ttl_ms_min: int = 1000
    """A lease that is shorter than the delays of a commit would end before its holder knew of it."""
    ttl_ms_max: int = 86_400_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} is at least 1, unlike {getattr(self, field.name)}")
        if self.ttl_ms_min > self.ttl_ms_max:
            raise ConfigError("ttl_ms_min is at most ttl_ms_max")

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal where all bounds are."""
        text = repr(dataclasses.astuple(self)).encode()
        return hashlib.blake2b(text, digest_size=16).digest()
