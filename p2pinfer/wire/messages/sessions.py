"""Client sessions of a replicated state machine: what makes a retried command count once.

    client                                log, then every replica
      |--OpenSession---------------------------->|   the reply names the session
      |--SessionCommand(session, 1, ...)-------->|   applied, and its result kept
      |--SessionCommand(session, 1, ...)-------->|   again, for no answer came: the kept result
      |--SessionCommand(session, 2, acknowledged=2)>|  the result of 1 is forgotten
      |--CloseSession(session)------------------>|

These are the data of log entries and never travel alone: replicas of different age must read them alike, so
each is `Exact`. `raft/sessions.py` applies them.

Source: Ongaro's thesis, 2014, section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.wire.schema import Between, Count, Exact, Size, registered

__all__ = [
    "COMMAND_SIZE_BYTES_MAX",
    "RESULT_SIZE_BYTES_MAX",
    "UNANSWERED_COUNT_MAX",
    "CloseSession",
    "OpenSession",
    "Refusal",
    "SavedResult",
    "SavedSession",
    "SavedSessions",
    "SessionCommand",
]

COMMAND_SIZE_BYTES_MAX = 1 << 20
"""Of one command of the application. etcd takes requests of 1.5 MiB (`--max-request-bytes`)."""
RESULT_SIZE_BYTES_MAX = 1 << 20
"""Of the result of one command."""
UNANSWERED_COUNT_MAX = 256
"""Commands of one session that may be under way at once; so many results are kept for it at most."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession(Exact):
    """A client's first command: give me a session. Sent again, it opens another; the first then ends idle."""

    TAG: ClassVar[int] = 144


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession(Exact):
    """A client's last command: forget my session and the results in it."""

    TAG: ClassVar[int] = 145

    session: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCommand(Exact):
    """A command of the application: applied once for each session and sequence, however often it comes."""

    TAG: ClassVar[int] = 146

    session: int
    """0 for a command outside of any session: it is applied each time it stands in the log."""
    sequence: int
    """1 for the session's first command, and one more for each after that."""
    acknowledged: int
    """The lowest sequence whose answer the client does not have: results below it may be forgotten."""
    command: Annotated[bytes, Size(COMMAND_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Exact):
    """A result: the command was not taken, and nothing changed. It becomes `errors.CommandRefused`.

    It has no words: those are put to the code where it is read (`raft/refusals.py`), since results are a part
    of the replicated state, and words are mended.
    """

    TAG: ClassVar[int] = 147

    code: Annotated[str, Size(32)]
    about: Annotated[str, Size(512)]
    number: int
    retry: Annotated[int, Between(0, 255)]
    """An `errors.Retry`; one that is not known is taken for NEVER."""
    retry_after_ms: int = 0
    """0 where that is unknown."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSessions(Exact):
    """Beginning of a snapshot of sessions; a SavedSession for each follows, the least recently used first."""

    TAG: ClassVar[int] = 148

    time_ms: int
    """The log's time: the highest stamp that was applied."""
    opened_count: int
    """Sessions that were ever opened; the last of them has this number."""
    session_count: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedResult(Exact):
    """The kept result of one command."""

    TAG: ClassVar[int] = 149

    sequence: int
    result: Annotated[bytes, Size(RESULT_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSession(Exact):
    """One session of a snapshot, with its results in the order of their sequence."""

    TAG: ClassVar[int] = 150

    session: int
    used_ms: int
    """When its client was heard last, in the log's time."""
    acknowledged: int
    results: Annotated[tuple[SavedResult, ...], Count(UNANSWERED_COUNT_MAX)]
