"""A client's side of its session: numbers for its commands, and what to propose again.

Rules:

1. A command that may have been applied is proposed again with its number, never with another.
2. The lowest number without an answer travels with every command, so that replicas forget no result too soon
   and keep none for ever.
"""

from __future__ import annotations

from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.sessions import (
    UNANSWERED_COUNT_MAX,
    CloseSession,
    OpenSession,
    SessionCommand,
)

__all__ = ["ClientSession", "open_session", "outside_sessions"]


def open_session() -> bytes:
    """Return the command that opens a session; `replies.read_session` reads its number from the answer."""
    return encode(OpenSession())


def outside_sessions(command: bytes) -> bytes:
    """Return a command that is applied each time it stands in the log: for what may happen twice."""
    return encode(SessionCommand(session=0, sequence=0, acknowledged=0, command=command))


class ClientSession:
    """The commands of one session that are under way, by sequence."""

    def __init__(self, session: int) -> None:
        self.session = session
        self._waiting: dict[int, bytes] = {}
        self._last = 0

    @property
    def acknowledged(self) -> int:
        """The lowest sequence without an answer."""
        return next(iter(self._waiting), self._last + 1)

    @property
    def has_room(self) -> bool:
        """Whether another command may be made: the oldest without an answer is not too far back."""
        return self._last + 1 - self.acknowledged < UNANSWERED_COUNT_MAX

    def make(self, command: bytes) -> tuple[int, bytes]:
        """Return the next sequence, and the command to propose under it.

        Raises:
            Overloaded: Too many have no answer; retry when one does.
        """
        if not self.has_room:
            raise Overloaded(
                f"{UNANSWERED_COUNT_MAX} commands have no answer; retry when {self.acknowledged} has"
            )
        self._last += 1
        self._waiting[self._last] = command
        return self._last, self._proposal(self._last)

    def again(self, sequence: int) -> bytes:
        """Return the command to propose once more: what became of it the first time is unknown.

        Raises:
            LocalProtocolError: It was answered, or never made.
        """
        if sequence not in self._waiting:
            raise LocalProtocolError(f"command {sequence} does not wait for an answer")
        return self._proposal(sequence)

    def answered(self, sequence: int) -> None:
        """Take note that the result of a command came, a refusal as well; twice is once."""
        self._waiting.pop(sequence, None)

    def close(self) -> bytes:
        """Return the command that ends the session."""
        return encode(CloseSession(session=self.session))

    def _proposal(self, sequence: int) -> bytes:
        return encode(
            SessionCommand(
                session=self.session,
                sequence=sequence,
                acknowledged=self.acknowledged,
                command=self._waiting[sequence],
            )
        )
