"""The replicated metadata: keys with revisions, leases, and the history of changes, as one state machine.

Rules:

1. What an entry does follows from the state and the entry alone (`raft/machine.py`). First its stamp moves
   the time on, which ends leases; then its command is done or refused. A refusal changes nothing.
2. The state has a format. A command of a later one is skipped by every replica, whatever its software knows;
   RaiseFormat makes all of them take it from that index on, and a replica that does not know it stops.
3. One command makes at most one revision; each lease that ends makes one of its own, in the order of their
   ends. Every revision is in the history until it is too old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from p2pinfer.effects import Message
from p2pinfer.errors import CommandRefused, DecodeError, VersionMismatch
from p2pinfer.raft.frames import read_frames, write_frames
from p2pinfer.raft.metadata.limits import Limits
from p2pinfer.raft.metadata.saving import MAGIC, read_state, saved_state
from p2pinfer.raft.metadata.sections import check_lease_name
from p2pinfer.raft.metadata.state import State
from p2pinfer.raft.metadata.transactions import Evaluation
from p2pinfer.raft.refusals import refusal_of, refused
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.metadata import (
    AcquireLease,
    FormatDone,
    LeaseDone,
    MetadataCommand,
    RaiseFormat,
    ReleaseLease,
    RenewLease,
    Transaction,
    TransactionDone,
)

__all__ = ["FORMAT", "MetadataMachine"]

FORMAT = 1
"""The highest format that this software knows: what a member tells the others before RaiseFormat."""

Handler = Callable[[Any], Message]


class MetadataMachine:
    """The metadata of a swarm; to be read through `reading.MetadataView`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._state = State(self._limits)
        self._commands = self._known_commands()
        self._too_old = ""
        """Why this software cannot go on, once it cannot."""
        self._counters: Counter[str] = Counter()

    def _known_commands(self) -> Mapping[type[Message], tuple[int, Handler]]:
        """What this software does: by command, the first format that has it, and what does it.

        An entry is never changed once a format has it.
        """
        return {
            Transaction: (1, self._on_transaction),
            AcquireLease: (1, self._on_acquire_lease),
            RenewLease: (1, self._on_renew_lease),
            ReleaseLease: (1, self._on_release_lease),
            RaiseFormat: (1, self._on_raise_format),
        }

    # The state machine's contract

    def apply(self, index: int, command: bytes, time_ms: int) -> bytes:
        """Take the next entry: see `StateMachine.apply`."""
        self._check_known()
        self._state.pass_time(time_ms)
        if not command:
            return b""
        try:
            handler, message = self._read(command)
            answer = handler(message)
        except CommandRefused as error:
            self._counters[f"refused_{error.code}"] += 1
            return encode(refusal_of(error))
        return encode(answer)

    def snapshot(self) -> Iterator[bytes]:
        """Capture the metadata: see `StateMachine.snapshot`."""
        self._check_known()
        return write_frames(MAGIC, saved_state(self._state))

    def restore(self, data: bytes) -> None:
        """Replace the metadata: see `StateMachine.restore`."""
        messages, rest = read_frames(MAGIC, data)
        if rest:
            raise DecodeError("something follows the snapshot of the metadata")
        state = read_state(messages, self._limits)
        if state.format > self.format_known:
            raise VersionMismatch(_too_old(state.format, self.format_known))
        self._state = state
        self._too_old = ""

    # What can be asked of it

    @property
    def format_known(self) -> int:
        """The highest format that this software knows."""
        return FORMAT

    @property
    def state(self) -> State:
        """What is replicated, as of the last entry; never to be changed. A restore makes another."""
        return self._state

    @property
    def deadline_ms(self) -> int | None:
        """When the next lease ends, in the log's time.

        An entry with a stamp that late ends it: the leader may propose an empty command.
        """
        return self._state.leases.deadline_ms

    def statistics(self) -> Mapping[str, Any]:
        """Counters and gauges by name; a copy."""
        state = self._state
        gauges = {
            "format": state.format,
            "history": len(state.history),
            "keys": len(state.keys),
            "keys_size_bytes": state.keys.size_bytes,
            "leases": len(state.leases),
            "revision": state.keys.revision,
            "revision_compacted": state.history.compacted,
        }
        return {**gauges, **self._counters}

    # Commands

    def _on_transaction(self, message: Transaction) -> Message:
        state = self._state
        work = Evaluation(state.keys, state.leases, state.format, state.time_ms)
        work.run(message)
        state.write(work.draft.changes)
        return TransactionDone(
            succeeded=work.succeeded, revision=state.keys.revision, answers=tuple(work.answers)
        )

    def _on_acquire_lease(self, message: AcquireLease) -> Message:
        state = self._state
        check_lease_name(message.name)
        lease, keys = state.leases.acquire(message.name, message.holder, message.ttl_ms, state.time_ms)
        state.delete(keys)
        return LeaseDone(token=lease.token, time_ms=state.time_ms, expires_ms=lease.expires_ms)

    def _on_renew_lease(self, message: RenewLease) -> Message:
        now_ms = self._state.time_ms
        lease = self._state.leases.renew(message.name, message.token, message.ttl_ms, now_ms)
        return LeaseDone(token=lease.token, time_ms=now_ms, expires_ms=lease.expires_ms)

    def _on_release_lease(self, message: ReleaseLease) -> Message:
        state = self._state
        lease = state.leases.check(message.name, message.token)
        state.delete(state.leases.end(lease.token))
        return LeaseDone(token=lease.token, time_ms=state.time_ms, expires_ms=state.time_ms)

    def _on_raise_format(self, message: RaiseFormat) -> Message:
        state = self._state
        if message.format != state.format + 1:
            raise refused("wrong_format", number=state.format + 1)
        if message.format > self.format_known:
            self._too_old = _too_old(message.format, self.format_known)
            self._check_known()
        state.format = message.format
        return FormatDone(format=state.format)

    # Inside

    def _check_known(self) -> None:
        if self._too_old:
            raise VersionMismatch(self._too_old)

    def _read(self, data: bytes) -> tuple[Handler, Message]:
        """Return the command that the bytes are, and what does it, in the format that the state has.

        What is refused is refused alike by software that knows more than this one, or less.
        """
        wrapped = _decoded(data)
        if not isinstance(wrapped, MetadataCommand):
            raise refused("malformed")
        if wrapped.format > self._state.format:
            raise refused("later_format", number=wrapped.format)
        message = _decoded(wrapped.command)
        known = self._commands.get(type(message)) if message is not None else None
        if message is None or known is None or known[0] > wrapped.format:
            raise refused("malformed")
        return known[1], message


def _decoded(data: bytes) -> Message | None:
    try:
        return decode(data)
    except DecodeError:
        return None


def _too_old(format_now: int, known: int) -> str:
    return (
        f"the metadata has format {format_now}, and this software knows those up to {known}: "
        "update it; what was applied so far stays, and the rest is taken up then"
    )
