"""Chains: which peers compute which layers of a request, at the least cost.

A hop costs something for entering it, which is the way there and the work of taking a step in, and something
for each layer, which is the time to compute it, longer where sessions queue. A hidden state is only
kilobytes, so the number of hops, not the bandwidth, bounds the speed of decoding: among chains of equal cost
the fewest hops win, then the lower PeerIds, so equal views give equal chains.

Where positions are known (`places`), a chain is a ring: the last hop sends each token to the first, so a
token takes every way between two neighbours once, and the way from and to the entry peer counts little. Where
they are not, a hop's way is half the round trip that the entry peer measured, so a chain whose hops are near
each other and far from the entry peer looks dearer than it is.
Departs from Petals (`sequence_manager.py`), which uses a peer that it enters to the end of its span: here
every hop may serve any part of its span, and no peer has two places in a chain.

Plain functions over frozen values: no clock, no state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from p2pinfer.errors import NoChain
from p2pinfer.ids import Contact, PeerId, Span
from p2pinfer.inference.chain_search import Piece, Ways, cheapest_row
from p2pinfer.inference.places import WayMap
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["Holder", "mend_chain", "missing_layers", "plan_chain"]

UNKNOWN_ROUND_TRIP_S = 0.05
"""A peer whose distance was never measured: between a LAN's and a continent's."""
UNKNOWN_LAYER_S = 0.001
"""A layer whose speed was never measured: a 135M model's on one core of a laptop."""
HOP_OVERHEAD_S = 0.0003
"""Framing, encryption and waking up: the goal for one loopback hop; also what makes fewer hops win."""

_HOP_COUNT_BITS = 11
"""The search counts nanoseconds, and below them hops, at most 1024 as layers are."""
_ALWAYS = (round(HOP_OVERHEAD_S * 1e9) << _HOP_COUNT_BITS) + 1
"""What a hop costs wherever it is."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer as the planner sees it."""

    contact: Contact
    span: Span
    step_s: float = 0.0
    """Time of one decode step through the whole span; 0 while unknown."""
    queue: int = 0
    """Sessions open there now."""
    round_trip_s: float | None = None
    draining: bool = False
    """It will stop serving; it is planned with only where nobody else holds its layers."""

    @property
    def peer(self) -> PeerId:
        """Who holds."""
        if self.contact.peer is None:
            raise ValueError("a holder's contact names its peer")
        return self.contact.peer

    @property
    def enter_s(self) -> float:
        """Expected time of reaching it, whatever it computes."""
        return HOP_OVERHEAD_S + (UNKNOWN_ROUND_TRIP_S if self.round_trip_s is None else self.round_trip_s) / 2

    @property
    def layer_s(self) -> float:
        """Expected time of one decode step through one of its layers, those who queue there included."""
        span = self.span
        return (self.step_s / (span.end - span.start) or UNKNOWN_LAYER_S) * (1 + self.queue)

    def cost_s(self, layer_count: int) -> float:
        """Expected time of one decode step through `layer_count` of its layers, the way there included."""
        return self.enter_s + self.layer_s * layer_count


def plan_chain(
    holders: Iterable[Holder], layers: Span, *, avoid: Collection[PeerId] = (), ways: WayMap | None = None
) -> tuple[ChainHop, ...]:
    """Return the cheapest chain over `layers`; a holder may serve a part of its span.

    Exact, but for the limit that `cheapest_row` names.

    Args:
        holders: Who holds what.
        layers: What is wanted.
        avoid: Who is not to be asked.
        ways: How far holders are from each other; without it, what the entry peer measured is all there is.

    Raises:
        NoChain: Some layers have no holder; the error names them.
    """
    usable = {holder.peer: holder for holder in holders if holder.peer not in avoid}
    pieces = (_piece(h, h.span.start, h.span.end, ways) for h in usable.values())
    row = cheapest_row(pieces, layers, _costs(ways))
    if row is None:
        missing = missing_layers((h.span for h in usable.values() if h.span.overlaps(layers)), layers)
        names = ", ".join(map(str, missing))
        raise NoChain(f"no live peer holds layers {names}: start a peer with these layers", missing=missing)
    return tuple(ChainHop(usable[piece.peer].contact, start, end) for piece, start, end in row)


def mend_chain(
    chain: Sequence[ChainHop],
    holders: Collection[Holder],
    *,
    lost: Collection[PeerId],
    ways: WayMap | None = None,
) -> tuple[ChainHop, ...]:
    """Replace the hops of `lost` peers and keep the others, whose caches are worth more than a better plan.

    All the gaps are planned together, so that one does not take the peer that another needs. Where the
    missing layers cannot be found beside the kept hops, a whole new chain is planned.

    Raises:
        NoChain: Some layers have no holder that is not lost.
    """
    whole = Span(chain[0].start, chain[-1].end)
    kept = {hop.contact.peer: hop for hop in chain if hop.contact.peer and hop.contact.peer not in lost}
    gaps = missing_layers((hop.span for hop in kept.values()), whole)
    free = {h.peer: h for h in holders if h.peer not in kept and h.peer not in lost}
    pieces = [
        Piece(0, 0, peer, hop.start, hop.end, ways.place_of(peer) if ways else 0)
        for peer, hop in kept.items()
    ]
    for holder in free.values():
        span = holder.span
        pieces += [
            _piece(holder, max(span.start, gap.start), min(span.end, gap.end), ways)
            for gap in gaps
            if span.overlaps(gap)
        ]
    row = cheapest_row(pieces, whole, _costs(ways))
    if row is None:
        return plan_chain(holders, whole, avoid=lost, ways=ways)
    return tuple(
        kept.get(piece.peer) or ChainHop(free[piece.peer].contact, start, end) for piece, start, end in row
    )


def missing_layers(spans: Iterable[Span], layers: Span) -> tuple[Span, ...]:
    """Return the runs of `layers` that no span covers, in order."""
    missing: list[Span] = []
    covered = layers.start
    for span in sorted(spans):
        if span.start > covered:
            missing.append(Span(covered, min(span.start, layers.end)))
        covered = max(covered, span.end)
        if covered >= layers.end:
            return tuple(missing)
    return (*missing, Span(covered, layers.end))


def _piece(holder: Holder, start: int, end: int, ways: WayMap | None) -> Piece:
    slope, peer = round(holder.layer_s * 1e9) << _HOP_COUNT_BITS, holder.peer
    if ways is None:
        return Piece((round(holder.enter_s * 1e9) << _HOP_COUNT_BITS) + 1, slope, peer, start, end)
    spot = ways.spots.get(peer)
    way_s = holder.enter_s - HOP_OVERHEAD_S if spot is None else spot.access_s
    spare = round(way_s * 1e9) << _HOP_COUNT_BITS
    return Piece(_ALWAYS + spare, slope, peer, start, end, ways.place_of(peer), spare)


def _costs(ways: WayMap | None) -> Ways | None:
    """Ways as the search counts."""
    if ways is None:
        return None
    between, entry = ways.ways_ns
    return Ways(
        tuple(tuple(way << _HOP_COUNT_BITS for way in row) for row in between),
        tuple(way << _HOP_COUNT_BITS for way in entry),
    )
