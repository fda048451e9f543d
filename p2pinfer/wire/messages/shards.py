"""The messages of a group: peers that compute the layers of one span together, each its heads and columns.

    leader                                  member
      |--CallOpen(JoinGroup)----------------->|   the call lasts as long as the group
      |<--CallItem(GroupReady)----------------|   its part of the weights is loaded
      |--ShardCache-------------------------->|   a session begins, grows or ends
      |--ShardBatch(rows)-------------------->|   all ranks begin with the same rows
      |--ShardPart(turn 0)-->|<--ShardPart(0)-|   attention of the first layer: everybody to everybody
      |--ShardPart(turn 1)-->|<--ShardPart(1)-|   feed-forward of the first layer
      | ... twice for each layer              |

The first rank is the leader, the hop that the swarm sees. Turns are counted by every rank alone, from 0 on,
for the life of the group. All parts of a turn have the same size. A rank sends its next part only when it has
the others' last, so at most two parts of a sender wait anywhere. Whatever breaks the rules ends the group,
and the call with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.ids import Contact, SessionId
from p2pinfer.wire.messages.inference import POSITIONS_MAX, STEP_POSITIONS_MAX, TENSOR_SIZE_BYTES_MAX, Tensor
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "GROUP_ID_SIZE_BYTES",
    "RANKS_COUNT_MAX",
    "GroupReady",
    "GroupRank",
    "JoinGroup",
    "ShardBatch",
    "ShardCache",
    "ShardPart",
    "ShardStep",
]

GROUP_ID_SIZE_BYTES = 16
RANKS_COUNT_MAX = 64
_PART_MAX = 1 << 24


@registered
@dataclass(frozen=True, slots=True)
class GroupRank(Message):
    """One rank of a group: who, and which heads of keys and values and columns it holds, half-open."""

    TAG: ClassVar[int] = 80

    contact: Contact
    heads_start: Annotated[int, Between(0, _PART_MAX)]
    heads_end: Annotated[int, Between(0, _PART_MAX)]
    columns_start: Annotated[int, Between(0, _PART_MAX)]
    columns_end: Annotated[int, Between(0, _PART_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup(Message):
    """Leader to member, as a call: load your part of this span. Answered by GroupReady once it is loaded.

    The call then stays open: its end is the group's, in either direction. A member that lends itself to
    nobody, to another group or for another model refuses.
    """

    TAG: ClassVar[int] = 81
    PLANE: ClassVar[Plane] = Plane.STREAM

    group: Annotated[bytes, Exactly(GROUP_ID_SIZE_BYTES)]
    digest: Annotated[bytes, Exactly(32)]
    """Of the model's file."""
    start: Annotated[int, Between(0, 1023)]
    end: Annotated[int, Between(1, 1024)]
    ranks: Annotated[tuple[GroupRank, ...], Count(RANKS_COUNT_MAX)]
    """In their order, the leader first."""
    deadline_ms: Annotated[int, Between(1, 600_000)]
    """How long a rank waits for a part of another."""


@registered
@dataclass(frozen=True, slots=True)
class GroupReady(Message):
    """Member to leader: my part is loaded."""

    TAG: ClassVar[int] = 82
    PLANE: ClassVar[Plane] = Plane.STREAM


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCache(Message):
    """Leader to member: open a session's cache, extend it, or drop it with `positions_max` 0. Not answered.

    A member that has no room gives NaN for the session's steps.
    """

    TAG: ClassVar[int] = 83
    PLANE: ClassVar[Plane] = Plane.STREAM

    group: Annotated[bytes, Exactly(GROUP_ID_SIZE_BYTES)]
    session: SessionId
    positions_max: Annotated[int, Between(0, POSITIONS_MAX)]
    extends: bool = False

    @property
    def priority(self) -> Priority:
        return Priority.DECODE


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStep(Message):
    """One step of a batch, with its hidden states as they come into its first layer."""

    TAG: ClassVar[int] = 84

    session: SessionId
    base: Annotated[int, Between(0, POSITIONS_MAX)]
    start: Annotated[int, Between(0, 1023)]
    end: Annotated[int, Between(1, 1024)]
    hidden: Tensor


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBatch(Message):
    """Leader to every member: compute these steps with me. Answered by nothing but parts."""

    TAG: ClassVar[int] = 85
    PLANE: ClassVar[Plane] = Plane.STREAM

    group: Annotated[bytes, Exactly(GROUP_ID_SIZE_BYTES)]
    steps: Annotated[tuple[ShardStep, ...], Count(STEP_POSITIONS_MAX)]

    @property
    def priority(self) -> Priority:
        return Priority.DECODE


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart(Message):
    """Every rank to every other: my part of half a layer, for all steps of the batch that go through it.

    Shapes: (T of all steps, D) little-endian float32, in the batch's order. NaN where a step cannot be
    computed here.
    """

    TAG: ClassVar[int] = 86
    PLANE: ClassVar[Plane] = Plane.STREAM

    group: Annotated[bytes, Exactly(GROUP_ID_SIZE_BYTES)]
    turn: Annotated[int, Between(0, (1 << 48) - 1)]
    data: Annotated[bytes, Size(TENSOR_SIZE_BYTES_MAX)]

    @property
    def priority(self) -> Priority:
        return Priority.DECODE
