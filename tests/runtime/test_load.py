"""What a status tells of the engine's work and of recoveries."""

from __future__ import annotations

from p2pinfer.ids import SessionId
from p2pinfer.runtime.load import Load
from p2pinfer.work import EngineInput


def step(session: int, rows: int = 1) -> EngineInput:
    return EngineInput(session=SessionId(bytes([session]) * 16), base=0, tokens=(1,) * rows)


def test_nothing_has_happened_yet() -> None:
    data = Load(0.0).as_data(5.0)
    assert data["batches"] == {"count": 0, "mean": None, "sizes": {}}
    assert data["speed"]["decode_tokens_per_s"] == {"last_10_s": 0.0, "last_60_s": 0.0}
    assert data["recoveries"] == {"count": 0, "last_pause_ms": None, "last_ago_s": None}


def test_batches_are_counted_by_their_sessions() -> None:
    load = Load(0.0)
    load.batch_done([step(1)], 0.01, 1.0)
    load.batch_done([step(1), step(2)], 0.01, 2.0)
    load.batch_done([step(1), step(1), step(1)], 0.01, 3.0)  # a replay: one session's steps in a run
    assert load.as_data(3.0)["batches"] == {"count": 3, "mean": 1.33, "sizes": {"1": 2, "2": 1}}
    assert load.as_data(90.0)["batches"]["count"] == 0


def test_prompts_and_answers_have_a_speed_each() -> None:
    load = Load(0.0)
    for second in range(60):
        load.batch_done([step(1, rows=64), step(2)], 0.5, float(second))
    speed = load.as_data(60.0)["speed"]
    assert speed["decode_tokens_per_s"]["last_60_s"] == 1.0
    assert speed["prefill_tokens_per_s"]["last_60_s"] == 64.0
    assert 45 <= speed["busy_percent"]["last_10_s"] <= 50


def test_the_last_recovery_is_told() -> None:
    load = Load(0.0)
    load.recovered(0.2, 1.0)
    load.recovered(0.0415, 2.0)
    assert load.as_data(5.0)["recoveries"] == {"count": 2, "last_pause_ms": 41.5, "last_ago_s": 3.0}
