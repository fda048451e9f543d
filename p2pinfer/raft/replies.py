"""What a `SessionMachine` answers: one byte that says what follows, then the result.

The machine inside gives bytes of its own: the byte before them keeps its results apart from the sessions'.
"""

from __future__ import annotations

from p2pinfer.errors import CommandRefused, DecodeError
from p2pinfer.raft.refusals import error_of, refusal_of
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.sessions import Refusal

__all__ = [
    "APPLIED",
    "CLOSED",
    "read_result",
    "read_session",
    "reply_opened",
    "reply_refused",
]

APPLIED = b"\x00"
"""The result of the machine inside follows."""
_REFUSED = b"\x01"
"""A `Refusal` follows: the machine inside has not seen the command."""
_OPENED = b"\x02"
"""The new session's number follows, in 8 bytes."""
CLOSED = b"\x03"
"""The session is gone, or was already; nothing follows."""
_SESSION_SIZE_BYTES = 8


def reply_opened(session: int) -> bytes:
    """Return the answer to OpenSession."""
    return _OPENED + session.to_bytes(_SESSION_SIZE_BYTES, "big")


def reply_refused(refused: CommandRefused) -> bytes:
    """Return the answer to a command that was not applied."""
    return _REFUSED + encode(refusal_of(refused))


def read_session(reply: bytes) -> int:
    """Return the number of the session that OpenSession opened.

    Raises:
        CommandRefused: There is no room for it.
        DecodeError: It is no answer to OpenSession.
    """
    _check_refused(reply)
    if reply[:1] != _OPENED or len(reply) != 1 + _SESSION_SIZE_BYTES:
        raise DecodeError("this is no answer to OpenSession")
    return int.from_bytes(reply[1:], "big")


def read_result(reply: bytes) -> bytes:
    """Return the result that the machine inside gave to a SessionCommand.

    Raises:
        CommandRefused: The command was not applied, by its session's rules.
        DecodeError: It is no answer to a SessionCommand.
    """
    _check_refused(reply)
    if reply[:1] != APPLIED:
        raise DecodeError("this is no answer to a SessionCommand")
    return reply[1:]


def _check_refused(reply: bytes) -> None:
    if reply[:1] == _REFUSED:
        refusal = decode(reply[1:])
        if not isinstance(refusal, Refusal):
            raise DecodeError("a refusal was expected")
        raise error_of(refusal)
