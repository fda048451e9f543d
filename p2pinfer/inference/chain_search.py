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
4. Ways between pieces cost what they cost between their places, of which there are few: the sweep has one
   column for each place that is come from. The way from the last piece back to the first closes the ring; it
   is searched for one first place after another, the most promising first, until what a sweep without that
   way says of the next is dearer than what was found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import NamedTuple

from p2pinfer.ids import PeerId, Span

__all__ = ["Part", "Piece", "Ways", "cheapest_row"]

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
    place: int = 0
    """Where it is, as `Ways` counts places."""
    spare: int = 0
    """What of `fixed` falls away where the piece serves alone, with nobody to send anything to."""


class Ways(NamedTuple):
    """What the ways between places cost."""

    between: tuple[tuple[int, ...], ...]
    """From a place to another, or to another peer at the same; symmetric, and no detour is cheaper."""
    entry: tuple[int, ...]
    """From or to the entry peer: for the first and for the last piece of a row."""


_NOBODY: tuple[PeerId, ...] = ()

Part = tuple[Piece, int, int]
"""A piece and the layers that it serves, [start, end)."""
Step = tuple[Piece, int]
"""The first piece of a row, and the cut at which it ends."""
Row = tuple[Part, ...]


class _Ends(NamedTuple):
    """What it costs to begin and to end a row, by place."""

    start: Sequence[float]
    end: Sequence[float]


@dataclass(slots=True)
class _Table:
    """For each place that is come from, and each cut, the cheapest row from there to the end."""

    costs: list[list[float]]
    peers: list[list[tuple[PeerId, ...]]]
    steps: list[dict[int, Step]]
    rests: Mapping[PeerId, _Table]
    """Behind a peer that is kept count of, the table in which it has no place any more."""
    firsts: list[tuple[float, tuple[PeerId, ...], Step | None]] = field(default_factory=list)
    """By place of the first piece, the cheapest row over all layers; the way to it not counted."""


def cheapest_row(pieces: Iterable[Piece], layers: Span, ways: Ways | None = None) -> Row | None:
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
    if ways is None:
        return _Search(clipped, layers, ((0,),)).cheapest(_Ends((0,), (0,)))
    return _cheapest_ring(clipped, layers, ways)


def _cheapest_ring(pieces: Sequence[Piece], layers: Span, ways: Ways) -> Row | None:
    between, entry = ways
    search = _Search(pieces, layers, between)
    # No way back is shorter than the shortest: what this gives is no dearer than any ring.
    loose_ends = _Ends(entry, [out + min(row) for out, row in zip(entry, between, strict=True)])
    table = search.sweep((), loose_ends.end)
    found = _cheapest_alone(pieces, layers, entry)
    hopes = sorted((cost + entry[place], place) for place, (cost, _, _) in enumerate(table.firsts))
    for hope, first in hopes:
        if hope == math.inf or (found is not None and hope > found[0]):
            break
        ends = _Ends(
            [entry[first] if place == first else math.inf for place in range(len(entry))],
            [out + row[first] for out, row in zip(entry, between, strict=True)],
        )
        row = search.read(table, _Ends(ends.start, loose_ends.end))
        if row is None or _has_repeated(row) or search.cost(row, ends) > hope:
            row = search.cheapest(ends)
        if row is not None:
            offer = (search.cost(row, ends), tuple(piece.peer for piece, _, _ in row), row)
            found = offer if found is None or offer[:2] < found[:2] else found
    return found[2] if found is not None else None


def _has_repeated(row: Row) -> bool:
    return len({piece.peer for piece, _, _ in row}) < len(row)


def _cheapest_alone(
    pieces: Iterable[Piece], layers: Span, entry: Sequence[int]
) -> tuple[float, tuple[PeerId, ...], Row] | None:
    """Return the cheapest of the rows of one piece, which sends nothing to anybody but the entry peer."""
    alone = (
        (piece.fixed - piece.spare + piece.slope * len(layers) + 2 * entry[piece.place], (piece.peer,), piece)
        for piece in pieces
        if piece.start == layers.start and piece.end == layers.end
    )
    cost, peers, piece = min(alone, default=(math.inf, _NOBODY, None))
    return None if piece is None else (cost, peers, ((piece, layers.start, layers.end),))


class _Search:
    """Sweeps over the same pieces with other ends."""

    def __init__(self, pieces: Sequence[Piece], layers: Span, between: Sequence[Sequence[int]]) -> None:
        self._pieces = pieces
        self._layers = layers
        self._between = between
        self._useful: dict[tuple[PeerId, ...], tuple[list[Piece], list[int]]] = {}

    def cheapest(self, ends: _Ends) -> Row | None:
        """Return the cheapest row with these ends; see `cheapest_row`."""
        counted: list[PeerId] = []
        while True:
            row = self.read(self.sweep(counted, ends.end), ends, counted)
            if row is None:
                return None
            peers = [piece.peer for piece, _, _ in row]
            repeated = sorted({peer for peer in peers if peers.count(peer) > 1})
            if not repeated:
                return row
            counted += repeated
            if len(counted) > COUNTED_PEERS_MAX:
                return _merged(row)

    def cost(self, row: Row, ends: _Ends) -> float:
        """What a row costs with these ends."""
        places = [piece.place for piece, _, _ in row]
        ways = sum(self._between[a][b] for a, b in pairwise(places))
        work = sum(piece.fixed + piece.slope * (end - start) for piece, start, end in row)
        return ends.start[places[0]] + work + ways + ends.end[places[-1]]

    def sweep(self, counted: Sequence[PeerId], end: Sequence[float]) -> _Table:
        """Return the table in which no counted peer comes twice; others may."""
        useful, cuts = self._useful_pieces(counted)
        tables: dict[frozenset[PeerId], _Table] = {}
        for count in range(len(counted) + 1):
            for chosen in combinations(counted, count):
                allowed = frozenset(chosen)
                rests = {peer: tables[allowed - {peer}] for peer in chosen}
                banned = set(counted) - allowed
                usable = [piece for piece in useful if piece.peer not in banned]
                last = len(cuts) - 1
                table = _Table(
                    [[math.inf] * last + [out] for out in end],
                    [[_NOBODY] * (last + 1) for _ in end],
                    [{} for _ in end],
                    rests,
                )
                _fill(table, usable, cuts, self._between)
                tables[allowed] = table
        return tables[frozenset(counted)]

    def read(self, table: _Table, ends: _Ends, counted: Sequence[PeerId] = ()) -> Row | None:
        """Return the cheapest row of a swept table that begins like this."""
        _, cuts = self._useful_pieces(counted)
        best, _, step = min(
            (
                (way + cost, peers, step)
                for way, (cost, peers, step) in zip(ends.start, table.firsts, strict=True)
            ),
            key=lambda each: each[:2],
        )
        if best == math.inf or step is None:
            return None
        row: list[Part] = []
        index = 0
        while True:
            piece, end = step
            row.append((piece, cuts[index], cuts[end]))
            if end == len(cuts) - 1:
                return tuple(row)
            table, index = table.rests.get(piece.peer, table), end
            step = table.steps[piece.place][index]

    def _useful_pieces(self, counted: Sequence[PeerId]) -> tuple[list[Piece], list[int]]:
        """The pieces worth looking at, and the cuts between them."""
        known = self._useful.get(tuple(counted))
        if known is None:
            useful = _undominated(self._pieces, counted)
            cuts = {self._layers.start, self._layers.end}
            cuts.update(piece.start for piece in useful)
            cuts.update(piece.end for piece in useful)
            known = self._useful[tuple(counted)] = (useful, sorted(cuts))
        return known


def _undominated(pieces: Sequence[Piece], counted: Collection[PeerId]) -> list[Piece]:
    """Drop each piece whose every use another at the same place could take over at no greater cost.

    `pieces` are sorted, so the other comes earlier, and at equal cost it is the one preferred. A counted
    peer dominates nobody, for its own place may be taken. Who dominated lately is asked first, and who did
    not for long is asked no more: a piece too many costs less than to ask them all.
    """
    dominants: dict[int, list[Piece]] = {}
    useful: list[Piece] = []
    for piece in pieces:
        _, slope, peer, start, end, place, _ = piece
        dominant = dominants.get(place)
        if dominant is None:
            dominant = dominants[place] = []
        for index, (_, other_slope, _, other_start, other_end, _, _) in enumerate(dominant):
            if other_start <= start and end <= other_end and other_slope <= slope:
                dominant.insert(0, dominant.pop(index))
                break
        else:
            useful.append(piece)
            if peer not in counted:
                dominant.insert(0, piece)
                del dominant[_DOMINANT_COUNT_MAX:]
    return useful


Active = tuple[float, int, Piece, list[float], list[tuple[PeerId, ...]]]
"""A piece that covers the layers before a cut: the cost of the cheapest way to go on behind it, the cut at
which that begins, and the costs and peers of the table that it goes on in, as seen from the piece's place."""


def _fill(
    table: _Table, pieces: Iterable[Piece], cuts: Sequence[int], between: Sequence[Sequence[int]]
) -> None:
    """Sweep from the last cut to the first.

    For each piece that covers the layers before a cut, the cheapest way to go on behind it is carried along:
    one more cut can only offer one more place to hand over.
    """
    ending: dict[int, list[Piece]] = {}
    for piece in pieces:
        ending.setdefault(piece.end, []).append(piece)
    active: list[Active] = []
    places = range(len(between))
    for index in range(len(cuts) - 2, -1, -1):
        behind, start = index + 1, cuts[index]
        width = cuts[behind] - start
        for piece in ending.get(cuts[behind], ()):
            rest = table.rests.get(piece.peer, table)
            active.append((math.inf, behind, piece, rest.costs[piece.place], rest.peers[piece.place]))
        best: list[float] = [math.inf] * len(places)
        best_peers = [_NOBODY] * len(places)
        best_steps: list[Step | None] = [None] * len(places)
        still: list[Active] = []
        for cost, end, piece, costs, rests in active:
            fixed, slope, peer, piece_start, _, place, _ = piece
            handed = costs[behind]
            if handed < cost or (handed == cost and rests[behind] < rests[end]):
                cost, end = handed, behind
            cost += slope * width
            total, least = cost + fixed, best[place]
            if total <= least:
                peers = (peer, *rests[end])
                if total < least or peers < best_peers[place]:
                    best[place], best_peers[place], best_steps[place] = total, peers, (piece, end)
            if piece_start < start:
                still.append((cost, end, piece, costs, rests))
        active = still
        firsts = list(zip(best, best_peers, best_steps, strict=True))
        _enter(table, index, between, firsts)
        table.firsts = firsts


def _enter(
    table: _Table,
    index: int,
    between: Sequence[Sequence[int]],
    firsts: Sequence[tuple[float, tuple[PeerId, ...], Step | None]],
) -> None:
    """From each place, choose where to enter what begins at a cut."""
    offers = [(place, *first) for place, first in enumerate(firsts) if first[2] is not None]
    for come_from, ways in enumerate(between):
        best, best_peers, best_step = math.inf, _NOBODY, None
        for place, cost, peers, step in offers:
            total = cost + ways[place]
            if total < best or (total == best and peers < best_peers):
                best, best_peers, best_step = total, peers, step
        if best_step is not None:
            table.costs[come_from][index] = best
            table.peers[come_from][index] = best_peers
            table.steps[come_from][index] = best_step


def _merged(row: Iterable[Part]) -> Row | None:
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
