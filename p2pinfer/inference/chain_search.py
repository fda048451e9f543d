"""The cheapest row of pieces over a run of layers, in which no peer has two places.

A piece is a straight line: serving n of its layers costs `fixed + slope * n`. Rules:

1. Costs are whole numbers, so that sums do not depend on their order and equal costs are really equal. Of
   those the row of PeerIds decides: equal views give equal chains.
2. Between two hops the cost is linear in where the one hands over to the other, so some best row changes
   hops only where a piece starts or ends: the search looks at these cuts alone.
3. A row that may use a peer twice is found in one sweep from the last layer to the first. Where the cheapest
   does use peers twice, the sweep is repeated and keeps count of these peers alone, until no peer comes
   twice: the cheapest of a larger set that lies in the smaller one is the cheapest there, so this is exact.
   Source: Righini and Salani, "New dynamic programming algorithms for the resource constrained elementary
   shortest path problem" (Networks 51, 2008): decremental state space relaxation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from p2pinfer.ids import PeerId, Span

__all__ = ["Part", "Piece", "cheapest_row"]

COUNTED_PEERS_MAX = 8
"""Each peer that is kept count of doubles the work; what needs more is merged, which is not the cheapest."""
_DOMINANT_COUNT_MAX = 64


class Piece(NamedTuple):
    """Layers that a peer may serve, whole or in part. The order of the fields is the order of preference."""

    fixed: int
    slope: int
    """Of one layer; at least 0."""
    peer: PeerId
    start: int
    end: int


_NOBODY: tuple[PeerId, ...] = ()

Part = tuple[Piece, int, int]
"""A piece and the layers that it serves, [start, end)."""


@dataclass(slots=True)
class _Table:
    """For each cut, the cheapest row from there to the end."""

    costs: list[float]
    peers: list[tuple[PeerId, ...]]
    steps: dict[int, tuple[Piece, int]]
    """The first piece of the row, and the cut at which it ends."""
    rests: Mapping[PeerId, _Table] = field(default_factory=dict)
    """Behind a peer that is kept count of, the table in which it has no place any more."""


def cheapest_row(pieces: Iterable[Piece], layers: Span) -> tuple[Part, ...] | None:
    """Return the cheapest row over `layers`, or None if there is none; pieces may reach beyond the layers.

    Exact while at most `COUNTED_PEERS_MAX` peers have to be kept count of. Beyond that, what lies between
    two places of a peer is given to it, and there is None where that cannot be.
    """
    clipped = sorted(
        piece
        if layers.start <= piece.start and piece.end <= layers.end
        else piece._replace(start=max(piece.start, layers.start), end=min(piece.end, layers.end))
        for piece in pieces
        if piece.start < layers.end and piece.end > layers.start
    )
    counted: list[PeerId] = []
    while True:
        row = _cheapest_relaxed(clipped, counted, layers)
        if row is None:
            return None
        peers = [piece.peer for piece, _, _ in row]
        repeated = sorted({peer for peer in peers if peers.count(peer) > 1})
        if not repeated:
            return row
        counted += repeated
        if len(counted) > COUNTED_PEERS_MAX:
            return _merged(row)


def _cheapest_relaxed(
    pieces: Sequence[Piece], counted: Sequence[PeerId], layers: Span
) -> tuple[Part, ...] | None:
    """Return the cheapest row in which no counted peer comes twice; others may."""
    useful = _undominated(pieces, counted)
    cuts = sorted({layers.start, layers.end} | {p.start for p in useful} | {p.end for p in useful})
    tables: dict[frozenset[PeerId], _Table] = {}
    for count in range(len(counted) + 1):
        for chosen in combinations(counted, count):
            allowed = frozenset(chosen)
            rests = {peer: tables[allowed - {peer}] for peer in chosen}
            banned = set(counted) - allowed
            tables[allowed] = _table([p for p in useful if p.peer not in banned], cuts, rests)
    table, index = tables[frozenset(counted)], 0
    if table.costs[0] == math.inf:
        return None
    row: list[Part] = []
    while index < len(cuts) - 1:
        piece, end = table.steps[index]
        row.append((piece, cuts[index], cuts[end]))
        table, index = table.rests.get(piece.peer, table), end
    return tuple(row)


def _undominated(pieces: Sequence[Piece], counted: Collection[PeerId]) -> list[Piece]:
    """Drop each piece whose every use another could take over at no greater cost.

    `pieces` are sorted, so the other comes earlier, and at equal cost it is the one preferred. A counted
    peer dominates nobody, for its own place may be taken. Who dominated lately is asked first, and who did
    not for long is asked no more: a piece too many costs less than to ask them all.
    """
    dominant: list[Piece] = []
    useful: list[Piece] = []
    for piece in pieces:
        _, slope, peer, start, end = piece
        for index, (_, other_slope, _, other_start, other_end) in enumerate(dominant):
            if other_start <= start and end <= other_end and other_slope <= slope:
                dominant.insert(0, dominant.pop(index))
                break
        else:
            useful.append(piece)
            if peer not in counted:
                dominant.insert(0, piece)
                del dominant[_DOMINANT_COUNT_MAX:]
    return useful


def _table(pieces: Iterable[Piece], cuts: Sequence[int], rests: Mapping[PeerId, _Table]) -> _Table:
    """Sweep from the last cut to the first.

    For each piece that covers the layers before a cut, the cheapest way to go on behind it is carried along:
    one more cut can only offer one more place to hand over.
    """
    last = len(cuts) - 1
    table = _Table([math.inf] * last + [0], [()] * (last + 1), {}, rests)
    ending: dict[int, list[Piece]] = {}
    for piece in pieces:
        ending.setdefault(piece.end, []).append(piece)
    active: list[tuple[float, int, Piece, _Table]] = []
    for index in range(last - 1, -1, -1):
        behind, start = index + 1, cuts[index]
        width = cuts[behind] - start
        active += [(math.inf, behind, p, rests.get(p.peer, table)) for p in ending.get(cuts[behind], ())]
        best, best_peers = math.inf, _NOBODY
        still: list[tuple[float, int, Piece, _Table]] = []
        for cost, end, piece, rest in active:
            fixed, slope, peer, piece_start, _ = piece
            handed = rest.costs[behind]
            if handed < cost or (handed == cost and rest.peers[behind] < rest.peers[end]):
                cost, end = handed, behind
            cost += slope * width
            total = cost + fixed
            if total <= best:
                peers = (peer, *rest.peers[end])
                if total < best or peers < best_peers:
                    best, best_peers, table.steps[index] = total, peers, (piece, end)
            if piece_start < start:
                still.append((cost, end, piece, rest))
        active = still
        table.costs[index], table.peers[index] = best, best_peers
    return table


def _merged(row: Iterable[Part]) -> tuple[Part, ...] | None:
    """Give what lies between two places of a peer to that peer, or return None if it does not hold it."""
    merged: list[Part] = []
    for piece, start, end in row:
        earlier = next((i for i, part in enumerate(merged) if part[0].peer == piece.peer), None)
        if earlier is None:
            merged.append((piece, start, end))
            continue
        first, first_start, _ = merged[earlier]
        if first.end < end:
            return None
        merged[earlier:] = [(first, first_start, end)]
    return tuple(merged)
