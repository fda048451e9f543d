"""What the book of holders says to the planner and to the placement."""

from __future__ import annotations

from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.inference.holders import HolderBook
from p2pinfer.inference.placement import choose_move
from p2pinfer.wire.messages.records import Holding

DIGEST = bytes(32)


def put(
    book: HolderBook,
    number: int,
    start: int,
    end: int,
    *,
    draining: bool = False,
    loading: bool = False,
) -> bool:
    held = Holding(
        model="m:1",
        digest=DIGEST,
        layer_count=8,
        start=start,
        end=end,
        step_us=1000,
        movable=True,
        draining=draining,
        loading=loading,
    )
    return book.put(Contact(PeerId(bytes([number]) * 32), Endpoint("127.0.0.1", number)), held)


def test_somebody_moves_to_the_layers_of_a_peer_that_drains_while_it_still_serves() -> None:
    book = HolderBook()
    put(book, 1, 0, 4)
    put(book, 2, 0, 4)
    put(book, 3, 4, 8)
    assert choose_move(8, book.residents(DIGEST)) is None
    put(book, 3, 4, 8, draining=True)
    move = choose_move(8, book.residents(DIGEST))
    assert move is not None
    assert (move.peer[0], move.span) == (1, Span(4, 8))
    assert {holder.peer[0] for holder in book.by_digest[DIGEST]} == {1, 2, 3}


def test_who_loads_counts_for_the_placement_and_not_for_the_planner() -> None:
    book = HolderBook()
    put(book, 1, 0, 8)
    put(book, 2, 4, 8, loading=True)
    assert {resident.peer[0] for resident in book.residents(DIGEST)} == {1, 2}
    assert {r.peer[0] for r in book.residents(DIGEST) if r.may_move} == {1}
    assert {holder.peer[0] for holder in book.by_digest[DIGEST]} == {1}


def test_it_says_when_somebody_begins_to_serve() -> None:
    book = HolderBook()
    assert not put(book, 1, 0, 4, loading=True)
    assert put(book, 1, 0, 4)
    assert not put(book, 1, 0, 4, draining=True)
    assert put(book, 1, 4, 8), "other layers"
    book.forget(PeerId(bytes([1]) * 32))
    assert put(book, 1, 4, 8)
