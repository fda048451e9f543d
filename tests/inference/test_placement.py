"""Which span a newcomer takes."""

from __future__ import annotations

from p2pinfer.ids import Span
from p2pinfer.inference.placement import choose_span


def test_peers_that_come_one_after_another_fill_the_model_in_order() -> None:
    held: list[Span] = []
    for _ in range(6):
        held.append(choose_span(30, 10, held))
    assert held == [Span(0, 10), Span(10, 20), Span(20, 30)] * 2


def test_a_gap_is_filled_before_anything_is_doubled() -> None:
    assert choose_span(30, 5, [Span(0, 12), Span(14, 30)]) == Span(9, 14)
    assert choose_span(30, 2, [Span(0, 12), Span(14, 30)]) == Span(12, 14)


def test_one_peer_that_holds_everything_is_enough() -> None:
    assert choose_span(30, 999, []) == Span(0, 30)
    assert choose_span(30, 0, [Span(0, 29)]) == Span(29, 30)


def test_what_others_claim_beyond_the_model_is_ignored() -> None:
    assert choose_span(4, 2, [Span(2, 900)]) == Span(0, 2)
