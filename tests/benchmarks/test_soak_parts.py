"""How the soak judges answers and memory, without any process of a swarm."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any, cast

import pytest

from benchmarks.soak_memory import MemoryLog, resident_bytes
from benchmarks.soak_requests import Case, Tally, draw_cases
from p2pinfer.runtime.answer import Answer
from p2pinfer.wire.messages.inference import Sampling

MIB = 1 << 20


def log_of(sizes_mib: list[float], interval_s: float = 10.0) -> MemoryLog:
    log = MemoryLog("a process")
    for number, size in enumerate(sizes_mib):
        log.add(1000 + number * interval_s, int(size * MIB))
    return log


def test_memory_that_rises_steadily_grows_and_the_slope_is_told() -> None:
    log = log_of([100 + n / 6 for n in range(180)])  # a MiB a minute, for half an hour
    assert log.is_growing
    assert log.figures()["mib_per_minute"] == pytest.approx(1, rel=1e-3)
    assert log.figures()["mib_max"] == pytest.approx(129.8, abs=0.1)


def test_a_warm_up_and_noise_are_no_growth() -> None:
    noise = random.Random(1)
    sizes = [50 + min(50, n) + noise.uniform(-3, 3) for n in range(180)]
    assert not log_of(sizes).is_growing


def test_a_run_too_short_to_tell_is_not_judged() -> None:
    assert not log_of([100 + n for n in range(30)]).is_growing
    assert not log_of([]).is_growing


def test_resident_memory_is_that_of_the_process() -> None:
    before = resident_bytes(os.getpid())
    held = bytearray(os.urandom(64 * MIB))
    assert resident_bytes(os.getpid()) - before > 48 * MIB
    assert len(held) == 64 * MIB
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert resident_bytes(ended.pid) == 0


class Given:
    """An answer of which only the summary is asked."""

    def __init__(self, tokens: list[int], text: str) -> None:
        self.summary: dict[str, Any] = {
            "token_ids": tokens,
            "tokens": len(tokens),
            "text": text,
            "recoveries": [{"stall_ms": 7.0}],
        }


EXPECTED = {"token_ids": [5, 6, 7], "text": "abc"}


@pytest.mark.parametrize(
    ("tokens", "text", "is_whole", "is_right"),
    [
        ([5, 6, 7], "abc", True, True),
        ([5, 6, 8], "abd", True, False),
        ([5, 6, 7], "ab", True, False),
        ([5, 6], "abc", True, False),
        ([5, 6], "ab", False, True),
        ([], "", False, True),
        ([5, 9], "ax", False, False),
    ],
)
def test_an_answer_is_held_against_the_undisturbed_one(
    tokens: list[int], text: str, is_whole: bool, is_right: bool
) -> None:
    tally, case = Tally(), Case("short", ("?",), Sampling(), (EXPECTED,))
    tally.judge(case, 0, cast(Answer, Given(tokens, text)), is_whole=is_whole)
    assert len(tally.wrong) == (not is_right)
    assert sum(tally.answered.values()) == (is_right and is_whole)
    assert tally.cancelled == (is_right and not is_whole)
    assert tally.pauses_ms == [7.0]


def test_the_cases_are_drawn_from_the_seed_and_of_every_kind() -> None:
    cases = draw_cases(random.Random(3), 12, token_count_max=40)
    assert cases == draw_cases(random.Random(3), 12, token_count_max=40)
    assert {case.kind for case in cases} == {"short", "long", "sampled", "chat"}
    assert all(len(case.turns) > 1 for case in cases if case.kind == "chat")
    assert all(2 <= case.sampling.token_count_max <= 40 for case in cases)
