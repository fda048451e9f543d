"""Long work on threads tells how far it is, and ends when nobody wants it."""

from __future__ import annotations

import pytest
import trio

from p2pinfer.runtime.progress import Activity, Phase, Progress


async def test_a_report_from_a_thread_is_seen_on_the_event_loop() -> None:
    told: list[Progress] = []
    activity = Activity(told.append)
    activity.enter(Phase.LOADING)
    half = Progress("loading layers 0:2 of m", 3, 6, "tensors")
    await trio.to_thread.run_sync(activity.report, half)
    assert told == [half]
    assert activity.as_data() == {
        "phase": "loading",
        "progress": {
            "work": "loading layers 0:2 of m",
            "done": 3,
            "total": 6,
            "unit": "tensors",
            "percent": 50.0,
        },
        "prompts": [],
    }
    activity.enter(Phase.SERVING)
    assert activity.as_data() == {"phase": "serving", "progress": None, "prompts": []}


def test_an_unknown_total_has_no_percentage() -> None:
    assert Progress("x", 5, 0, "bytes").as_data()["percent"] is None


async def test_cancelling_ends_the_work_at_its_next_report() -> None:
    activity = Activity()
    reports = 0

    def work() -> None:
        nonlocal reports
        while True:
            activity.report(Progress("endless", reports, 0, "bytes"))
            reports += 1
            if reports == 3:
                trio.from_thread.run_sync(scope.cancel)

    with trio.fail_after(5), trio.CancelScope() as scope:
        await trio.to_thread.run_sync(work)
    assert scope.cancelled_caught
    assert reports == 3


async def test_a_listener_that_fails_ends_the_work() -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("listener")

    with pytest.raises(ValueError, match="listener"):
        await trio.to_thread.run_sync(Activity(fail).report, Progress("x", 0, 1, "bytes"))
