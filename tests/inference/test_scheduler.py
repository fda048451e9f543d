"""Which steps a batch takes."""

from __future__ import annotations

from p2pinfer.ids import SessionId
from p2pinfer.inference.scheduler import Waiting, choose_batch


def waiting(number: int, position_count: int, since: float) -> Waiting:
    return Waiting(SessionId(bytes([number]) * 16), position_count, since)


def chosen(*sessions: Waiting, count: int = 8, prefill: int = 256) -> list[int]:
    return [s[0] for s in choose_batch(sessions, batch_count_max=count, prefill_positions_max=prefill)]


def test_every_decode_step_goes_before_a_prompt_that_waited_longer() -> None:
    assert chosen(waiting(1, 128, 0.0), waiting(2, 1, 5.0), waiting(3, 1, 4.0)) == [3, 2, 1]


def test_prompts_are_bounded_but_one_always_goes() -> None:
    assert chosen(waiting(1, 200, 0.0), waiting(2, 100, 1.0), waiting(3, 1, 2.0)) == [3, 1]
    assert chosen(waiting(1, 4096, 0.0)) == [1]
    assert chosen(waiting(1, 128, 0.0), waiting(2, 128, 1.0)) == [1, 2]


def test_the_longest_waiting_wins_and_ties_are_broken_by_name() -> None:
    assert chosen(waiting(3, 1, 1.0), waiting(1, 1, 1.0), waiting(2, 1, 0.5), count=2) == [2, 1]


def test_nobody_waits() -> None:
    assert chosen() == []


def test_a_prompt_is_not_starved_by_decode_steps_that_fill_the_batch() -> None:
    decoding = [waiting(n, 1, 5.0 + n) for n in range(1, 5)]
    assert chosen(*decoding, waiting(9, 128, 1.0), count=4) == [1, 2, 3, 9]
    assert chosen(*decoding, waiting(9, 128, 8.5), count=4) == [1, 2, 3, 9]
    assert chosen(*decoding, waiting(9, 128, 9.5), count=4) == [1, 2, 3, 4]
    assert chosen(waiting(1, 1, 2.0), waiting(9, 128, 1.0), count=1) == [9]
