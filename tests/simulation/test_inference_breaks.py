"""A fault at every single message of a short generation, and a second one at every message after it."""

from __future__ import annotations

import pytest

from p2pinfer.errors import P2PInferError
from tests.inference.swarm import Swarm
from tests.simulation.inference_faults import (
    Strike,
    break_stream,
    check_run,
    crash_target,
    pause_target,
    restart_target,
    strike_at,
)

PROMPT, ANSWER = 6, 4
MESSAGES = 32
"""A generation of that size takes 3 opens, 3 answers, 16 steps and tokens and what a recovery adds."""

STRIKES = [break_stream, crash_target, restart_target, pause_target]


def run(seed: int, copies: int, *strikes: tuple[int, Strike]) -> P2PInferError | None:
    swarm = Swarm(seed, copies=copies)
    total = 0
    for number, strike in strikes:
        total += number
        strike_at(swarm, total, strike)
    session = swarm.ask(prompt=PROMPT, answer=ANSWER)
    return check_run(swarm, session, prompt=PROMPT, answer=ANSWER)


@pytest.mark.parametrize("strike", STRIKES)
def test_a_fault_at_every_message(strike: Strike) -> None:
    for number in range(MESSAGES):
        assert run(number, 2, (number, strike)) is None, number


@pytest.mark.parametrize("strike", [break_stream, restart_target])
def test_a_fault_at_every_message_where_nobody_could_take_over(strike: Strike) -> None:
    for number in range(MESSAGES):
        assert run(number, 1, (number, strike)) is None, number


@pytest.mark.parametrize("second", STRIKES)
@pytest.mark.parametrize("first", [crash_target, break_stream])
def test_a_second_fault_at_every_message_of_the_recovery(first: Strike, second: Strike) -> None:
    for number in (1, 8, 20):
        for later in range(1, 20):
            assert run(number, 3, (number, first), (later, second)) is None, (number, later)


def test_three_crashes_in_quick_succession() -> None:
    for number in range(2, 20, 3):
        for later in range(1, 12, 2):
            strikes = [(number, crash_target), (later, crash_target), (later, crash_target)]
            assert run(number, 4, *strikes) is None, (number, later)
