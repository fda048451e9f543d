"""The order in which a turn's effects leave the peer."""

from __future__ import annotations

from typing import cast

from p2pinfer.effects import Compute, EngineEffect, Message, OpenCache
from p2pinfer.ids import Contact, PeerId, SessionId
from p2pinfer.runtime.datagrams import Datagrams
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.planes import Planes
from p2pinfer.runtime.streams import Streams
from p2pinfer.runtime.worker import Worker
from tests.runtime.attacker import NOWHERE
from tests.runtime.test_streams import step

SESSION = SessionId(bytes(16))


class Recorder:
    """Stands for the streams and for the worker, and writes down what they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def send_nowait(self, contact: Contact, message: Message, *, hold: bool = False) -> bool:
        self.told.append("hold" if hold else "send")
        return True

    def flush(self) -> None:
        self.told.append("flush")

    def submit(self, effect: EngineEffect) -> None:
        self.told.append(type(effect).__name__)


def test_outputs_leave_before_the_engine_wakes_which_is_asked_in_order_and_once() -> None:
    recorder = Recorder()
    planes = Planes(cast(Datagrams, None), cast(Streams, recorder), cast(Disk, None))
    planes.worker = cast(Worker, recorder)
    planes.compute(OpenCache(SESSION, 1))
    planes.compute(Compute(()))
    planes.send(Contact(PeerId(bytes(32)), NOWHERE), step(1))
    planes.flush()
    planes.flush()
    assert recorder.told == ["hold", "flush", "OpenCache", "Compute", "flush"]
