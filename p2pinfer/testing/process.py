"""What a test reads of a simulated process: its stage, its log and what became of a command."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from p2pinfer.effects import Core, Effect
from p2pinfer.errors import P2PInferError
from p2pinfer.ids import PeerId

if TYPE_CHECKING:
    from p2pinfer.testing.host import Host

__all__ = ["Call", "Command", "CoreFactory", "HostLog", "Stage"]

CoreFactory = Callable[
    [Mapping[str, bytes], random.Random, float], "Core[Any] | tuple[Core[Any], list[Effect]]"
]
"""Makes a core from what is on disk, its generator and its `now`; at the start and at every restart."""
Command = Callable[[Any, float], "list[Effect] | tuple[Any, list[Effect]]"]


class Stage(enum.Enum):
    """What a host's process is doing."""

    UP = "up"
    PAUSED = "paused"
    """Stalled, as by SIGSTOP or a long page-in: nothing runs, connections stay open, inputs wait."""
    DOWN = "down"


class Call:
    """What became of a command that was given to a core.

    A command to a busy host waits for its turn. `done` says that the core took it; its effects may still wait
    for the disk. Its outcome is unknown for ever if the host crashes first.
    """

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: P2PInferError | None = None


class HostLog:
    """What a host gave to its application, over all its lives, each with the world's time."""

    __slots__ = ("delivered", "misbehaved", "notices", "on_deliver", "on_notify")

    def __init__(self) -> None:
        self.delivered: list[tuple[float, object]] = []
        self.notices: list[tuple[float, object]] = []
        self.misbehaved: list[tuple[float, PeerId, str]] = []
        self.on_deliver: Callable[[Host, object], None] | None = None
        self.on_notify: Callable[[Host, object], None] | None = None
