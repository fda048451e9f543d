"""The one contract between every protocol core and whatever runs it.

A core is a pure state machine. It is given inputs and returns a list of effects; it knows no clock, no
socket, no thread and no global randomness. Two loops run cores: `runtime/driver.py` in a real process and
`testing/world.py` in the simulator.

Rules:

1. The order of the list is the contract: what stands after a `Persist` happens only once that is on disk.
2. `now` is handed in. It is seconds since the Unix epoch as this peer believes, taken from a clock that
   never goes backwards: one number serves timeouts and the expiry of signed records. A core never compares
   its `now` with another peer's more finely than the allowed clock skew.
3. Randomness is an injected `random.Random`.
4. `tick` may come early or twice: it then does nothing.
5. A core never raises on remote input. What reaches `receive` is authenticated, bounded and typed by
   `wire/`; nonsense is counted and ignored, or answered with `Misbehaved`.
6. Cores never call each other: news crosses in `peer_core` as `Notify`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from p2pinfer.ids import Contact, PeerId, SessionId

__all__ = [
    "Compute",
    "Core",
    "Deliver",
    "Disconnect",
    "DropCache",
    "Effect",
    "EngineEffect",
    "ExtendCache",
    "HearsDisk",
    "HearsEngine",
    "HearsStreams",
    "Message",
    "Misbehaved",
    "Notify",
    "OpenCache",
    "Persist",
    "Plane",
    "Priority",
    "Save",
    "Send",
]


class Plane(enum.Enum):
    """How a kind of message travels."""

    DATAGRAM = "datagram"
    """UDP, at most 1400 bytes, may be lost, repeated or reordered."""
    STREAM = "stream"
    """TCP with TLS: in order while the connection lives, gone when it breaks."""
    EITHER = "either"
    """A part of another message, never sent alone."""


class Priority(enum.IntEnum):
    """Which of several waiting messages a stream sends first; the lowest number wins."""

    CONTROL = 0
    DECODE = 1
    PREFILL = 2
    BULK = 3


class Message:
    """Base of every message and of every structure inside one; the subclasses are frozen dataclasses.

    The subclass' docstring is the protocol's documentation: who sends it, when, and what answers it.
    """

    __slots__ = ()
    TAG: ClassVar[int]
    PLANE: ClassVar[Plane] = Plane.EITHER

    @property
    def priority(self) -> Priority:
        """Which queue of a stream the message waits in."""
        return Priority.CONTROL


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a message to the network. Whether it arrives is not known, on either plane."""

    to: Contact
    message: Message


@dataclass(frozen=True, slots=True)
class Persist:
    """Write `value` under `key` so that it survives a crash, before any later effect happens.

    A value of None forgets the key. Writing a key again replaces its value as one step.
    """

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Save:
    """Make a change of a replicated log durable, all of it or nothing, before any later effect of its list.

    `write` is a `raft.types.LogWrite`. It is answered with the core's input `saved(number)`, in the order of
    the numbers, or with `save_failed`, and then neither it nor what came after it in its list has happened.
    Neighbouring lists may share one sync, if what stands after any `Save` of them happens after that sync.
    """

    write: Any


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand something to the application that uses this core."""

    item: object


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the sibling cores news of a kind that `peer_core` carries between them."""

    news: object


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A peer broke the protocol in a way that honest software does not."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the stream to a peer, if there is one; it is dialled again when something is sent."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class OpenCache:
    """Make room in the engine for a session of at most `positions_max` positions."""

    session: SessionId
    positions_max: int


@dataclass(frozen=True, slots=True)
class ExtendCache:
    """Let a session that has a cache reach more positions than it was opened for."""

    session: SessionId
    positions_max: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a batch of steps in the engine; its results come back as one input to the core.

    `batch` holds `work.EngineInput`: one for each session, or a run of single positions that follow one
    another; the answer is `work.EngineOutput` in the same order.
    """

    batch: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class DropCache:
    """Give a session's room in the engine back."""

    session: SessionId


EngineEffect = OpenCache | ExtendCache | Compute | DropCache
"""What the engine's worker does, in the order in which it was asked."""

Effect = Send | Persist | Save | Deliver | Notify | Misbehaved | Disconnect | EngineEffect

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Core(Protocol[M_contra]):
    """What the driver and the simulator need of a state machine."""

    def receive(self, sender: Contact, message: M_contra, now: float) -> list[Effect]:
        """Take one message from an authenticated sender."""
        ...

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is early."""
        ...

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called next; None while nothing is planned."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Counters and gauges by name, for people and metrics; a copy."""
        ...


@runtime_checkable
class HearsStreams(Protocol):
    """A core that wants to know when a stream ends."""

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream to `contact` broke or could not be opened; what was sent last may be lost.

        `contact.peer` is None where nobody ever answered at that endpoint.
        """
        ...


@runtime_checkable
class HearsEngine(Protocol):
    """A core that returns `Compute`."""

    def computed(self, results: tuple[Any, ...], now: float) -> list[Effect]:
        """The outputs of the oldest `Compute` that is not answered yet, in its batch's order."""
        ...


@runtime_checkable
class HearsDisk(Protocol):
    """A core that can go on without its disk."""

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        """A `Persist` did not happen; the effects after it in its list were not performed either."""
        ...
