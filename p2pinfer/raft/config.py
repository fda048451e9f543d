"""The settings of Raft, their units, ranges and sources, and the rules between them.

Sources: the extended paper is Ongaro and Ousterhout (2014), the thesis Ongaro's (2014). "etcd", "raft-rs" and
"hashicorp" are the defaults of those systems, whose values have years of operation behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from p2pinfer.errors import ConfigError
from p2pinfer.wire.messages.raft import (
    BATCH_SIZE_BYTES_MAX,
    SNAPSHOT_CHUNK_BYTES_MAX,
    SNAPSHOT_SIZE_BYTES_MAX,
)

__all__ = ["RaftConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """How quickly a leader is replaced, and how much may be under way; the defaults are for one site."""

    election_timeout_s: float = 1.0
    """A follower that hears nothing stands for election after a random time from one to two of these,
    seconds. 0.05 to 60. Extended paper 5.2, 9.3: well above a round trip and a sync; etcd."""
    heartbeat_interval_s: float = 0.1
    """A leader is heard at least this often, seconds. Below a third of the election timeout, so that two lost
    heartbeats depose nobody. 0.005 to 20. etcd."""
    commit_notice_s: float = 0.01
    """A follower to which nothing else is sent learns after this time that more is committed, seconds. 0 to
    20, and not above the heartbeat interval."""
    pre_vote: bool = True
    """Ask whether an election would be won before one is begun, so that who was cut off does not depose a
    leader when it is back (thesis 9.6). Off for comparisons alone."""
    check_quorum: bool = True
    """A leader that hears no majority for an election timeout steps down, and nobody votes while it hears a
    leader (thesis 6.2, 4.2.3). Off for comparisons alone."""
    lease_reads: bool = False
    """Answer reads without asking a majority while one was heard lately. Assumes that no node's clock runs
    faster than another's by more than `clock_drift_max`, a stopped process included; without that reads may
    be stale. Needs `check_quorum` (thesis 6.4.1)."""
    clock_drift_max: float = 0.1
    """By how much rates of clocks may differ, as a part: a lease lasts so much less than the election
    timeout. 0 to 0.9."""
    hint_delay_s_max: float = 0.05
    """When told that its leader is dead, a node waits a random time up to this before it stands for election,
    seconds, so that not all do so at once. 0 to 10, and not above the election timeout."""
    append_bytes_max: int = 256 << 10
    """Bytes of entries in one AppendEntries, packed; a single larger entry is sent alone. 1 KiB to 4 MiB.
    etcd and raft-rs have 1 MiB; smaller ones let heartbeats through on slow lines."""
    append_entries_max: int = 1024
    """Entries in one AppendEntries. 1 to 65536."""
    inflight_messages_max: int = 256
    """AppendEntries with entries on their way to one follower. 1 to 4096. etcd has 512, hashicorp 2."""
    inflight_bytes_max: int = 8 << 20
    """Bytes of those. At least `append_bytes_max`. 1 KiB to 1 GiB."""
    proposal_size_bytes_max: int = 1 << 20
    """A larger proposal is refused. 1 to 3 MiB. etcd: 1.5 MiB."""
    uncommitted_bytes_max: int = 32 << 20
    """Bytes of proposals that a leader holds and that are not committed; more are refused, to be tried
    again. At least a proposal's limit. etcd has none by default, and runs out of memory in a partition."""
    delivery_bytes_max: int = 4 << 20
    """About how many bytes of entries one `Committed` has; one entry at least. 1 KiB to 64 MiB."""
    proposals_open_max: int = 16384
    """Proposals of this node's clients whose outcome is not known yet; more are refused. 1 to 1048576."""
    proposal_timeout_s: float = 10.0
    """After this time the outcome of a proposal is told as unknown, seconds. 0.1 to 3600, and at least two
    election timeouts."""
    reads_open_max: int = 16384
    """Reads whose index is not confirmed yet; more fail. 1 to 1048576."""
    read_timeout_s: float = 5.0
    """After this time a read fails, seconds. 0.1 to 3600, and at least the election timeout."""
    snapshot_chunk_bytes: int = 256 << 10
    """Bytes of a snapshot in one message. 1 to 1 MiB."""
    snapshot_size_bytes_max: int = 256 << 20
    """A larger snapshot is refused. 1 to 1 GiB."""
    trailing_entries: int = 4096
    """Entries kept before a snapshot, so that a follower a little behind needs none. 0 to 1048576. hashicorp
    has 10240, etcd 5000."""
    term_jump_max: int = 1 << 32
    """A message whose term lies further above ours is dropped. At ten elections a second a node would have
    to be away for thirteen years; without the bound one broken node could use up all terms. 1024 to 2**40."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}: give a value from {low:g} to {high:g}")
        for lower, factor, upper in _ORDERED:
            if not getattr(self, lower) * factor <= getattr(self, upper):
                times = f"{factor} times " if factor != 1 else ""
                limit = f"{upper}, {getattr(self, upper)}"
                raise ConfigError(f"{lower} is {getattr(self, lower)}: {times}that may not exceed {limit}")
        if self.lease_reads and not self.check_quorum:
            raise ConfigError("lease_reads is on and check_quorum off: without it no lease can be relied on")

    @classmethod
    def lan(cls) -> RaftConfig:
        """One site, round trips of milliseconds: a leader is replaced within two seconds."""
        return cls()

    @classmethod
    def wan(cls) -> RaftConfig:
        """Voters around the world, round trips of some 300 ms."""
        return cls(
            election_timeout_s=5.0,
            heartbeat_interval_s=0.5,
            hint_delay_s_max=0.5,
            proposal_timeout_s=30.0,
            read_timeout_s=15.0,
        )

    @classmethod
    def for_tests(cls) -> RaftConfig:
        """`lan()` with small limits, so that short simulations meet every one of them."""
        return cls(
            append_bytes_max=4096,
            append_entries_max=16,
            inflight_messages_max=4,
            inflight_bytes_max=16384,
            proposal_size_bytes_max=4096,
            uncommitted_bytes_max=1 << 16,
            delivery_bytes_max=8192,
            proposal_timeout_s=4.0,
            snapshot_chunk_bytes=512,
            snapshot_size_bytes_max=1 << 20,
            trailing_entries=8,
        )


_RANGES: dict[str, tuple[float, float]] = {
    "election_timeout_s": (0.05, 60),
    "heartbeat_interval_s": (0.005, 20),
    "commit_notice_s": (0, 20),
    "pre_vote": (0, 1),
    "check_quorum": (0, 1),
    "lease_reads": (0, 1),
    "clock_drift_max": (0, 0.9),
    "hint_delay_s_max": (0, 10),
    "append_bytes_max": (1024, BATCH_SIZE_BYTES_MAX),
    "append_entries_max": (1, 65536),
    "inflight_messages_max": (1, 4096),
    "inflight_bytes_max": (1024, 1 << 30),
    "proposal_size_bytes_max": (1, 3 << 20),
    "uncommitted_bytes_max": (1, 1 << 32),
    "delivery_bytes_max": (1024, 64 << 20),
    "proposals_open_max": (1, 1 << 20),
    "proposal_timeout_s": (0.1, 3600),
    "reads_open_max": (1, 1 << 20),
    "read_timeout_s": (0.1, 3600),
    "snapshot_chunk_bytes": (1, SNAPSHOT_CHUNK_BYTES_MAX),
    "snapshot_size_bytes_max": (1, SNAPSHOT_SIZE_BYTES_MAX),
    "trailing_entries": (0, 1 << 20),
    "term_jump_max": (1024, 1 << 40),
}

_ORDERED = (
    ("heartbeat_interval_s", 3, "election_timeout_s"),
    ("commit_notice_s", 1, "heartbeat_interval_s"),
    ("hint_delay_s_max", 1, "election_timeout_s"),
    ("append_bytes_max", 1, "inflight_bytes_max"),
    ("proposal_size_bytes_max", 1, "uncommitted_bytes_max"),
    ("snapshot_chunk_bytes", 1, "snapshot_size_bytes_max"),
    ("election_timeout_s", 2, "proposal_timeout_s"),
    ("election_timeout_s", 1, "read_timeout_s"),
)

if set(_RANGES) != {field.name for field in fields(RaftConfig)}:  # a new setting without a range
    raise TypeError("every field of RaftConfig needs its range in _RANGES")
