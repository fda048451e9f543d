"""Calls: one request, answered by a stream of messages, over the stream of two peers.

    caller                     handler
      |--CallOpen(request)------->|
      |<--CallItem----------------|   while the caller's credit lasts
      |--CallCredit-------------->|   as the caller reads
      |<--CallEnd | CallFailed----|
      |--CallCancel-------------->|   instead, if the caller loses interest: nothing more comes

Numbers are drawn by the caller, upwards from 0 on each connection; the two directions do not share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.wire.schema import Between, Size, registered

__all__ = [
    "CALL_MESSAGE_SIZE_BYTES_MAX",
    "CallCancel",
    "CallCredit",
    "CallEnd",
    "CallFailed",
    "CallItem",
    "CallOpen",
]

CALL_MESSAGE_SIZE_BYTES_MAX = 20 << 20
"""A request or an answer, encoded: room for the largest of `client.py`."""
_NUMBER_MAX = (1 << 48) - 1


@registered
@dataclass(frozen=True, slots=True)
class CallOpen(Message):
    """Caller: please answer this. `credit` is how many bytes of answers it takes before it says more."""

    TAG: ClassVar[int] = 96
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]
    credit: Annotated[int, Between(1, 1 << 30)]
    request: Annotated[bytes, Size(CALL_MESSAGE_SIZE_BYTES_MAX)]
    """A message of its own, encoded."""


@registered
@dataclass(frozen=True, slots=True)
class CallItem(Message):
    """Handler: one answer, encoded. Sent only while credit is left; the last one may exceed it."""

    TAG: ClassVar[int] = 97
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]
    item: Annotated[bytes, Size(CALL_MESSAGE_SIZE_BYTES_MAX)]


@registered
@dataclass(frozen=True, slots=True)
class CallCredit(Message):
    """Caller: so many more bytes were read and may be sent."""

    TAG: ClassVar[int] = 98
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]
    credit: Annotated[int, Between(1, 1 << 30)]


@registered
@dataclass(frozen=True, slots=True)
class CallEnd(Message):
    """Handler: that was all."""

    TAG: ClassVar[int] = 99
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]


@registered
@dataclass(frozen=True, slots=True)
class CallFailed(Message):
    """Handler: the call ended with an error; `code` is the name of one of the project's errors."""

    TAG: ClassVar[int] = 100
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]
    code: Annotated[str, Size(64)]
    detail: Annotated[str, Size(1024)] = ""
    retry_after_ms: Annotated[int, Between(0, 1 << 31)] = 0
    """When to come back; 0 where that is unknown."""


@registered
@dataclass(frozen=True, slots=True)
class CallCancel(Message):
    """Caller: no interest any more. Not answered; what is on its way is dropped."""

    TAG: ClassVar[int] = 101
    PLANE: ClassVar[Plane] = Plane.STREAM

    call: Annotated[int, Between(0, _NUMBER_MAX)]
