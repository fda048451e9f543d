"""What a hop takes from others is bounded by what the session reserved, whatever they send."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pinfer.effects import Compute, Send
from p2pinfer.ids import SessionId
from p2pinfer.wire.messages.inference import SessionReady, SessionRefused, Tensor
from p2pinfer.work import EngineOutput
from tests.inference.test_hop_core import ENTRY, OUT, SESSION, A, C, hop, opened, place, step


def rows(count: int, size_bytes: int = 4) -> Tensor:
    return Tensor("f4", (count, 1), b"x" * size_bytes * count)


def test_steps_that_all_begin_anew_keep_no_more_outputs_than_were_reserved() -> None:
    core = opened()
    for number in range(10):
        core.receive(A, step(number, base=0, hidden=rows(8)), 1.0)
        for batch in list(core._in_work):
            core.computed((EngineOutput(hidden=OUT),) * len(batch), 1.0)
    session = core._sessions.get(SESSION)
    assert session is not None
    assert session.row_count == 16
    assert len(session.kept) == 2


def test_early_steps_are_bounded_like_those_that_are_computed() -> None:
    core = opened()
    for number in range(1, 10):
        core.receive(A, step(number, base=0, hidden=rows(8)), 1.0)
    assert core.statistics()["waiting_steps"] == 2


def test_a_step_of_more_bytes_than_its_positions_may_take_is_dropped() -> None:
    core = opened()
    assert core.receive(A, step(0, hidden=rows(1, size_bytes=11)), 1.0) == []
    assert core.receive(A, step(0, hidden=rows(1, size_bytes=10)), 1.0) != []


def test_a_new_epoch_gives_the_room_of_waiting_steps_back() -> None:
    core = opened()
    for epoch in range(1, 6):
        core.receive(A, step(3, base=3, hidden=rows(12)), 1.0)
        assert core.statistics()["waiting_steps"] == 1
        core.receive(ENTRY, place(epoch=epoch), 1.0)
        assert core.statistics()["waiting_steps"] == 0


def test_a_failed_step_gives_its_room_back() -> None:
    core = opened()
    for _ in range(6):
        assert isinstance(core.receive(A, step(0, hidden=rows(12)), 1.0)[0], Compute)
        core.computed((EngineOutput(error="no"),), 1.0)


def test_the_number_of_sessions_is_bounded() -> None:
    core = hop(session_count_max=2)
    for number in range(3):
        (*_, answer) = core.receive(ENTRY, replace(place(), session=SessionId(bytes([number]) * 16)), 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, SessionRefused)
    assert answer.message.code == "overloaded"


@pytest.mark.parametrize("at_hand", [False, True])
def test_a_hop_says_whether_it_is_at_work(at_hand: bool) -> None:
    core = opened()
    if at_hand:
        core.receive(A, step(0), 1.0)
    assert core.receive(ENTRY, place(), 1.0) == [
        Send(ENTRY, SessionReady(session=SESSION, epoch=0, next_step=0, working=at_hand))
    ]


def test_strangers_do_not_keep_a_session_alive() -> None:
    core = opened()
    core.receive(C, step(0), 119.0)
    core.tick(120.0)
    assert core.statistics()["sessions"] == 0
