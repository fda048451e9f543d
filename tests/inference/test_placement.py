"""Which span a newcomer takes, who moves, who takes over, and what a whole swarm looks like."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.ids import PeerId, Span
from p2pinfer.inference.partition import Worker
from p2pinfer.inference.placement import Handover, Resident, choose_move, choose_span, handover, place
from p2pinfer.inference.planner import missing_layers


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


def resident(number: int, start: int, end: int, rate: float = 1.0, *, may_move: bool = True) -> Resident:
    return Resident(PeerId(bytes([number]) * 32), Span(start, end), rate, may_move)


def moved(move: Resident | None) -> tuple[int, Span] | None:
    return (move.peer[0], move.span) if move else None


def test_a_strong_holder_counts_for_more() -> None:
    assert choose_span(4, 2, [Span(0, 2), Span(2, 4)], [1.0, 5.0]) == Span(0, 2)
    assert choose_span(4, 2, [Span(0, 2), Span(2, 4)], [5.0, 1.0]) == Span(2, 4)


def test_nobody_moves_while_all_is_well_enough() -> None:
    assert choose_move(4, []) is None
    assert choose_move(4, [resident(1, 0, 4)]) is None
    uneven = [resident(n, 0, 2) for n in range(5)] + [resident(9, 2, 4, rate=2.0)]
    assert choose_move(4, uneven) is None, "2 of an even 3.5 is more than half"


def test_one_of_the_many_goes_where_it_is_weakest_the_lowest_id_first() -> None:
    swarm = [resident(n, 0, 2) for n in range(5)] + [resident(9, 2, 4)]
    assert moved(choose_move(4, swarm)) == (0, Span(2, 4))
    assert choose_move(4, swarm) == choose_move(4, swarm[::-1])


def test_a_move_that_lifts_the_weakest_by_less_than_the_margin_is_not_worth_it() -> None:
    strong = [resident(n, 0, 2, 10.0, may_move=False) for n in range(5)]
    weak = [resident(9, 2, 4, rate=10.0)]
    assert choose_move(4, [*strong, *weak, resident(1, 0, 2, rate=2.0)]) is None
    assert moved(choose_move(4, [*strong, *weak, resident(1, 0, 2, rate=3.0)])) == (1, Span(2, 4))


def test_a_gap_is_closed_by_who_can_be_spared_and_reads_least() -> None:
    swarm = [resident(1, 0, 4), resident(2, 0, 4), resident(3, 2, 6), resident(4, 4, 8)]
    assert moved(choose_move(9, swarm)) == (4, Span(5, 9))


def test_who_may_not_move_stays() -> None:
    swarm = [resident(1, 0, 2, may_move=False), resident(2, 0, 2, may_move=False)]
    assert choose_move(4, swarm) is None
    assert moved(choose_move(4, [*swarm, resident(3, 0, 2)])) == (3, Span(2, 4))
    assert choose_move(4, [resident(1, 0, 9), resident(2, 5, 9)]) is None, "beyond the model: another's"


def test_where_nobody_can_be_spared_a_double_layer_is_passed_on_to_the_gap() -> None:
    """1 and 9 are bare; 4 is held twice."""
    swarm = [resident(1, 1, 5), resident(2, 5, 9), resident(3, 3, 5)]
    moves = []
    for _ in range(9):
        move = choose_move(10, swarm)
        if move is None:
            break
        moves.append(move)
        swarm = [move if r.peer == move.peer else r for r in swarm]
    assert not missing_layers((r.span for r in swarm), Span(0, 10))
    assert len(moves) <= 4


swarms = st.lists(
    st.tuples(st.integers(0, 11), st.integers(1, 6), st.sampled_from([0.2, 1.0, 3.0])), min_size=1, max_size=9
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(swarms)
def test_moves_end_and_every_layer_is_covered_if_there_is_room(rows: list[tuple[int, int, float]]) -> None:
    layer_count = 12
    residents = [
        resident(n, min(start, layer_count - length), min(start, layer_count - length) + length, rate)
        for n, (start, length, rate) in enumerate(rows)
    ]
    for _ in range(200):
        move = choose_move(layer_count, residents)
        if move is None:
            break
        before = next(r for r in residents if r.peer == move.peer)
        assert len(move.span) == len(before.span)
        residents = [move if r.peer == move.peer else r for r in residents]
    else:
        pytest.fail("200 moves and no end")
    is_enough = sum(len(r.span) for r in residents) >= layer_count
    is_whole = not missing_layers((r.span for r in residents), Span(0, layer_count))
    assert is_whole == is_enough


def test_a_peer_whose_layers_others_hold_may_go_at_once() -> None:
    swarm = [resident(1, 0, 4), resident(2, 0, 4)]
    assert handover(4, swarm, swarm[0].peer) == Handover((), ())


def test_who_goes_is_replaced_by_who_can_be_spared() -> None:
    swarm = [resident(1, 0, 4), resident(2, 0, 4), resident(3, 4, 8)]
    assert handover(8, swarm, swarm[2].peer) == Handover((resident(1, 4, 8),), ())


def test_layers_that_nobody_has_room_for_are_named() -> None:
    swarm = [resident(1, 0, 4), resident(3, 4, 8)]
    assert handover(8, swarm, swarm[1].peer) == Handover((), (Span(4, 8),))
    assert handover(8, swarm[:1], swarm[0].peer) == Handover((), (Span(0, 8),))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.0001, 0.1)), max_size=12))
def test_a_swarm_placed_at_once_is_whole_if_there_is_room(rows: list[tuple[int, float]]) -> None:
    workers = [
        Worker(peer=PeerId(bytes([n]) * 32), layer_s=layer_s, layer_count_max=room)
        for n, (room, layer_s) in enumerate(rows)
    ]
    placed = place(20, workers)
    assert all(len(r.span) == w.layer_count_max for r in placed for w in workers if w.peer == r.peer)
    assert len(placed) == sum(room > 0 for room, _ in rows)
    is_enough = sum(room for room, _ in rows) >= 20
    assert is_enough == (not missing_layers((r.span for r in placed), Span(0, 20)))
    assert set(place(20, workers[::-1])) == set(placed)
