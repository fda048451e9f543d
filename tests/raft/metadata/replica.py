"""A replica of the metadata for tests: it counts the entries, and looks that refusals change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2pinfer.errors import CommandRefused
from p2pinfer.ids import PeerId
from p2pinfer.raft.machine import digest_of
from p2pinfer.raft.metadata.commands import acquire_lease, read_lease, read_transaction, transaction
from p2pinfer.raft.metadata.limits import Limits
from p2pinfer.raft.metadata.machine import MetadataMachine
from p2pinfer.raft.metadata.reading import MetadataView
from p2pinfer.wire.messages.metadata import Compare, Get, LeaseDone, Operation, Put, TransactionDone

__all__ = ["ANNA", "BERT", "CARL", "SMALL", "Replica", "get", "put"]

ANNA, BERT, CARL = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))

SMALL = Limits(
    keys_count_max=12,
    keys_size_bytes_max=2000,
    touched_count_max=4,
    result_size_bytes_max=400,
    history_count_max=8,
    history_size_bytes_max=1200,
    leases_count_max=3,
    ttl_ms_min=10,
    ttl_ms_max=1000,
)


def put(key: str, value: bytes = b"", lease: int = 0) -> Put:
    return Put(key=f"app/{key}", value=value, lease=lease)


def get(key: str, *, is_prefix: bool = False, limit: int = 1024) -> Get:
    return Get(key=f"app/{key}", is_prefix=is_prefix, limit=limit)


class Replica:
    """The machine, its view, and the index and time of the last entry."""

    def __init__(self, limits: Limits | None = None, machine: MetadataMachine | None = None) -> None:
        self.machine = machine or MetadataMachine(limits)
        self.view = MetadataView(self.machine)
        self.index = 0
        self.time_ms = 0

    def apply(self, command: bytes, time_ms: int | None = None) -> bytes:
        self.index += 1
        self.time_ms = self.time_ms if time_ms is None else time_ms
        return self.machine.apply(self.index, command, self.time_ms)

    def pass_time(self, time_ms: int) -> None:
        assert self.apply(b"", time_ms) == b""

    def do(
        self,
        *then: Operation,
        compares: Sequence[Compare] = (),
        otherwise: Sequence[Operation] = (),
    ) -> TransactionDone:
        return read_transaction(self.apply(transaction(compares=compares, then=then, otherwise=otherwise)))

    def acquire(self, name: str, holder: PeerId = ANNA, ttl_ms: int = 1000) -> LeaseDone:
        return read_lease(self.apply(acquire_lease(name, holder, ttl_ms)))

    def refusal(self, command: bytes) -> CommandRefused:
        """Apply what is refused, and see that nothing changed."""
        before = self.digest
        result = self.apply(command)
        assert self.digest == before
        with pytest.raises(CommandRefused) as refused:
            read_transaction(result)
        return refused.value

    def refused(self, *then: Operation, compares: Sequence[Compare] = ()) -> str:
        """The code with which a transaction is refused."""
        return self.refusal(transaction(compares=compares, then=then)).code

    def restored(self) -> Replica:
        """Another replica, made from a snapshot of this one."""
        other = Replica(self.machine._limits)
        other.machine.restore(b"".join(self.machine.snapshot()))
        other.index, other.time_ms = self.index, self.time_ms
        return other

    @property
    def digest(self) -> bytes:
        return digest_of(self.machine)

    @property
    def all(self) -> dict[str, bytes]:
        """What is there, by key."""
        records = {key: self.view.get(key) for key in self.view.keys("")}
        return {key: record.value for key, record in records.items() if record is not None}
