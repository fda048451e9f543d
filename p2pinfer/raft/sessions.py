"""Exactly-once commands: sessions of clients as a part of the replicated state.

Whoever proposes a command and gets no answer does not know whether it was applied. In a session it may simply
propose it again: each command has a number, and the result of a number that was applied is kept.

Rules:

1. A number is applied once, however often and in whatever order its copies stand in the log. Its result, a
   refusal as well, is kept until the client says that it has it; to try a refused command again takes a new
   number. What the sessions refuse themselves has used no number, though its client was heard.
2. What is kept is bounded: numbers that may be under way at once, bytes of results, sessions. Beyond that a
   command is refused before it is applied, or the session that was silent longest is dropped; never is a
   single result, for its command could then be applied twice.
3. A session ends by what stands in the log alone (the order of use and the leader's stamps), so on all
   replicas at once. Commands of a session that is gone are refused by that name: the client opens another,
   and takes what it has no answer to for unknown.

Source: Ongaro's thesis, 2014, section 6.3; dragonboat keeps the same table (`internal/rsm/session.go`), with
ids that clients draw, where a number is counted here and so never used twice.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from p2pinfer.effects import Message
from p2pinfer.errors import CommandRefused, ConfigError, DecodeError
from p2pinfer.raft.frames import read_frames, write_frames
from p2pinfer.raft.machine import TIME_MS_MAX, StateMachine
from p2pinfer.raft.refusals import refused
from p2pinfer.raft.replies import APPLIED, CLOSED, reply_opened, reply_refused
from p2pinfer.wire.codec import decode
from p2pinfer.wire.messages.sessions import (
    RESULT_SIZE_BYTES_MAX,
    UNANSWERED_COUNT_MAX,
    CloseSession,
    OpenSession,
    SavedResult,
    SavedSession,
    SavedSessions,
    SessionCommand,
)

__all__ = ["SessionLimits", "SessionMachine"]

_MAGIC = b"p2pses1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Bounds of all sessions. They decide what is refused, so they are the same on every replica."""

    sessions_count_max: int = 4096
    """[1, 2**20]. dragonboat keeps 4096 (`LRUMaxSessionCount`)."""
    kept_size_bytes_max: int = 1 << 20
    """Results of one session. While it has more, only the lowest command without an answer is taken."""
    total_size_bytes_max: int = 16 << 20
    """Results of all sessions, at least twice the above; beyond it those that were silent longest go."""
    idle_ms_max: int = 3_600_000
    """A session that was silent for so long is gone."""
    idle_ms_min: int = 10_000
    """A session that was heard this recently does not make room for a new one: opening is refused instead."""

    def __post_init__(self) -> None:
        if not 1 <= self.sessions_count_max <= 1 << 20:
            raise ConfigError(f"sessions_count_max lies in [1, 2**20], unlike {self.sessions_count_max}")
        if not 1 <= self.kept_size_bytes_max <= 32 << 20:
            raise ConfigError(f"kept_size_bytes_max lies in [1, 32 MiB], unlike {self.kept_size_bytes_max}")
        if self.total_size_bytes_max < 2 * self.kept_size_bytes_max:
            raise ConfigError("total_size_bytes_max is at least twice kept_size_bytes_max")
        if not 0 <= self.idle_ms_min <= self.idle_ms_max:
            raise ConfigError("idle_ms_min lies in [0, idle_ms_max]")


class _Session:
    """What is kept for one client."""

    __slots__ = ("acknowledged", "results", "size_bytes", "used_ms")

    def __init__(self, used_ms: int, acknowledged: int = 1) -> None:
        self.used_ms = used_ms
        self.acknowledged = acknowledged
        self.results: dict[int, bytes] = {}
        self.size_bytes = 0

    def keep(self, sequence: int, result: bytes) -> None:
        self.results[sequence] = result
        self.size_bytes += len(result)

    def forget_below(self, acknowledged: int) -> int:
        """Drop the results that the client has; returns their bytes."""
        before = self.size_bytes
        gone: Iterable[int] = range(self.acknowledged, acknowledged)
        if acknowledged - self.acknowledged > len(self.results):
            gone = [each for each in self.results if each < acknowledged]
        for sequence in gone:
            self.size_bytes -= len(self.results.pop(sequence, b""))
        self.acknowledged = acknowledged
        return before - self.size_bytes


class SessionMachine:
    """A state machine whose commands count once; it carries another one, which knows nothing of sessions.

    Its commands are the messages of `wire/messages/sessions.py`, its results those of `raft/replies.py`.
    """

    def __init__(self, machine: StateMachine, limits: SessionLimits | None = None) -> None:
        self._machine = machine
        self._limits = limits or SessionLimits()
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        """The least recently used first."""
        self._opened_count = 0
        self._time_ms = 0
        self._kept_size_bytes = 0
        self._counters: Counter[str] = Counter()

    # The state machine's contract

    def apply(self, index: int, command: bytes, time_ms: int) -> bytes:
        """Take the next entry: see `StateMachine.apply`. A result over 1 MiB is given as an empty one."""
        self._time_ms = max(self._time_ms, min(time_ms, TIME_MS_MAX))
        self._drop_idle()
        try:
            todo = self._judge(command)
        except CommandRefused as error:
            self._counters[f"refused_{error.code}"] += 1
            todo = reply_refused(error)
        if isinstance(todo, bytes):
            self._machine.apply(index, b"", self._time_ms)  # the time passes for it all the same
            return todo
        result = self._machine.apply(index, todo.command, self._time_ms)
        if len(result) > RESULT_SIZE_BYTES_MAX:
            result = b""
        if todo.session:
            self._keep(todo, result)
        return APPLIED + result

    def snapshot(self) -> Iterator[bytes]:
        """Capture the sessions, then the machine inside: see `StateMachine.snapshot`."""
        inside = self._machine.snapshot()
        return itertools.chain(write_frames(_MAGIC, self._saved()), inside)

    def restore(self, data: bytes) -> None:
        """Replace the sessions and the state of the machine inside: see `StateMachine.restore`."""
        messages, rest = read_frames(_MAGIC, data)
        header, sessions = _read_saved(messages)
        self._machine.restore(rest)
        self._sessions = sessions
        self._opened_count, self._time_ms = header.opened_count, header.time_ms
        self._kept_size_bytes = sum(each.size_bytes for each in sessions.values())

    # What can be asked of it, which is not replicated

    @property
    def time_ms(self) -> int:
        """The log's time: the highest stamp that was applied."""
        return self._time_ms

    @property
    def deadline_ms(self) -> int | None:
        """When the next session ends if its client stays silent, in the log's time.

        An entry with a stamp that late ends it: the leader may propose an empty command.
        """
        first = next(iter(self._sessions.values()), None)
        return None if first is None else first.used_ms + self._limits.idle_ms_max

    def statistics(self) -> Mapping[str, Any]:
        """Counters and gauges by name; a copy."""
        gauges = {
            "sessions": len(self._sessions),
            "sessions_opened": self._opened_count,
            "results_size_bytes": self._kept_size_bytes,
        }
        return {**gauges, **self._counters}

    # Inside

    def _judge(self, command: bytes) -> SessionCommand | bytes:
        """Return the command if it is to be applied, or the reply if nothing is."""
        if not command:
            return b""
        try:
            message = decode(command)
        except DecodeError:
            message = None
        match message:
            case SessionCommand(session=0):
                return message
            case SessionCommand():
                known = self._find(message)
                if known is None:
                    return message
                self._counters["commands_repeated"] += 1
                return APPLIED + known
            case OpenSession():
                return self._open()
            case CloseSession():
                return self._close(message.session)
            case _:
                raise refused("malformed")

    def _find(self, message: SessionCommand) -> bytes | None:
        """Return the result that a command had, or None if it is to be applied."""
        session = self._sessions.get(message.session)
        if session is None:
            raise refused("session_expired", number=message.session)
        self._sessions.move_to_end(message.session)
        session.used_ms = self._time_ms
        sequence = message.sequence
        if not 1 <= message.acknowledged <= sequence:
            raise refused("wrong_sequence", number=sequence)
        if message.acknowledged > session.acknowledged:
            self._kept_size_bytes -= session.forget_below(message.acknowledged)
        if sequence < session.acknowledged:
            raise refused("answered_before", number=sequence)
        known = session.results.get(sequence)
        if known is None:
            self._check_room(session, sequence)
        return known

    def _check_room(self, session: _Session, sequence: int) -> None:
        """Refuse a new command of a client that leaves too much unanswered; the lowest is always taken."""
        ahead = sequence - session.acknowledged
        if ahead >= UNANSWERED_COUNT_MAX or (ahead and session.size_bytes > self._limits.kept_size_bytes_max):
            raise refused("too_many_unanswered", number=session.acknowledged)

    def _open(self) -> bytes:
        if len(self._sessions) >= self._limits.sessions_count_max:
            oldest = next(iter(self._sessions.values()))
            until_ms = oldest.used_ms + self._limits.idle_ms_min
            if until_ms > self._time_ms:
                raise refused(
                    "too_many_sessions", number=len(self._sessions), retry_after_ms=until_ms - self._time_ms
                )
            self._drop_oldest()
        self._opened_count += 1
        self._sessions[self._opened_count] = _Session(self._time_ms)
        return reply_opened(self._opened_count)

    def _close(self, number: int) -> bytes:
        session = self._sessions.pop(number, None)
        if session is not None:
            self._kept_size_bytes -= session.size_bytes
        return CLOSED

    def _keep(self, command: SessionCommand, result: bytes) -> None:
        self._sessions[command.session].keep(command.sequence, result)
        self._kept_size_bytes += len(result)
        # The session in use is the last of the order, so it stays.
        while self._kept_size_bytes > self._limits.total_size_bytes_max and len(self._sessions) > 1:
            self._drop_oldest()

    def _drop_idle(self) -> None:
        until_ms = self._time_ms - self._limits.idle_ms_max
        while self._sessions and next(iter(self._sessions.values())).used_ms <= until_ms:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, session = self._sessions.popitem(last=False)
        self._kept_size_bytes -= session.size_bytes
        self._counters["sessions_dropped"] += 1

    def _saved(self) -> list[Message]:
        header = SavedSessions(
            time_ms=self._time_ms, opened_count=self._opened_count, session_count=len(self._sessions)
        )
        sessions = [
            SavedSession(
                session=number,
                used_ms=each.used_ms,
                acknowledged=each.acknowledged,
                results=tuple(
                    SavedResult(sequence=sequence, result=result)
                    for sequence, result in sorted(each.results.items())
                ),
            )
            for number, each in self._sessions.items()
        ]
        return [header, *sessions]


def _read_saved(messages: list[Message]) -> tuple[SavedSessions, OrderedDict[int, _Session]]:
    """Read a snapshot's messages; what could not have been written is refused."""
    header = messages[0] if messages else None
    if not isinstance(header, SavedSessions) or header.session_count != len(messages) - 1:
        raise DecodeError("a snapshot of sessions says how many there are, and has them")
    sessions: OrderedDict[int, _Session] = OrderedDict()
    for saved in messages[1:]:
        if not isinstance(saved, SavedSession) or not 1 <= saved.session <= header.opened_count:
            raise DecodeError("a snapshot of sessions holds only those that were opened")
        session = sessions[saved.session] = _Session(saved.used_ms, saved.acknowledged)
        for each in saved.results:
            session.keep(each.sequence, each.result)
    if len(sessions) != header.session_count:
        raise DecodeError("a snapshot of sessions holds each of them once")
    return header, sessions
