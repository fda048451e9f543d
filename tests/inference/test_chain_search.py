"""The limit of the search's exactness, and what a sweep must not depend on."""

from __future__ import annotations

import itertools
import random

from p2pinfer.ids import PeerId, Span
from p2pinfer.inference.chain_search import COUNTED_PEERS_MAX, Part, Piece, cheapest_row


def peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


def cost(row: tuple[Part, ...]) -> int:
    return sum(piece.fixed + piece.slope * (end - start) for piece, start, end in row)


def comb(slow_count: int) -> list[Piece]:
    """Quick pieces with gaps between them, and slow peers that hold everything, the next dearer.

    Each gap wants the cheapest slow peer, which has one place only.
    """
    quick = [Piece(1, 0, peer(100 + n), 2 * n + 1, 2 * n + 2) for n in range(slow_count - 1)]
    slow = [Piece(1, 50 + n, peer(n), 0, 2 * slow_count - 1) for n in range(slow_count)]
    return quick + slow


def test_each_gap_gets_another_peer_where_one_would_be_wanted_everywhere() -> None:
    row = cheapest_row(comb(5), Span(0, 9))
    assert row is not None
    assert [piece.peer[0] for piece, _, _ in row] == [0, 100, 1, 101, 2, 102, 3, 103, 4]


def test_beyond_the_peers_that_are_kept_count_of_a_row_is_still_found() -> None:
    count = COUNTED_PEERS_MAX + 3
    row = cheapest_row(comb(count), Span(0, 2 * count - 1))
    assert row is not None
    peers = [piece.peer for piece, _, _ in row]
    assert len(set(peers)) == len(peers)
    assert (row[0][1], row[-1][2]) == (0, 2 * count - 1)
    assert all(a[2] == b[1] for a, b in itertools.pairwise(row))
    assert all(piece.start <= start < end <= piece.end for piece, start, end in row)


def test_where_a_peer_must_come_twice_there_is_no_row() -> None:
    pieces = [Piece(1, 1, peer(1), 0, 2), Piece(1, 1, peer(2), 2, 4), Piece(1, 1, peer(1), 4, 6)]
    assert cheapest_row(pieces, Span(0, 6)) is None
    assert cheapest_row(pieces, Span(0, 4)) is not None


def test_what_is_worse_everywhere_and_the_order_change_nothing(sim_seed: int) -> None:
    """Each piece is there twice, the second time dearer: of the same peer, since another could step in."""
    rng = random.Random(sim_seed)
    pieces = [Piece(10_000, 100, peer(200), 0, 40)]
    for number in range(100):
        start = rng.randrange(40)
        fixed, slope = rng.randrange(1, 300), rng.randrange(1, 60)
        pieces.append(Piece(fixed, slope, peer(number), start, rng.randint(start + 1, 40)))
    row = cheapest_row(pieces, Span(0, 40))
    more = pieces + [p._replace(fixed=p.fixed + 1, end=max(p.start + 1, p.end - 1)) for p in pieces]
    rng.shuffle(more)
    assert row is not None
    assert cheapest_row(more, Span(0, 40)) == row
