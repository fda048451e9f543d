"""Chains: which peers compute which layers of a request, at the least cost.

The cost of a hop is the way to it and the time it computes, longer where sessions queue. A hidden state is
only kilobytes, so the number of hops, not the bandwidth, bounds the speed of decoding: good hops being
equal, the fewest win. Ties are broken by PeerId, so equal views give equal chains.

Plain functions over frozen values: no clock, no state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from p2pinfer.errors import NoChain
from p2pinfer.ids import Contact, PeerId, Span
from p2pinfer.wire.messages.inference import ChainHop

__all__ = ["Holder", "mend_chain", "missing_layers", "plan_chain"]

UNKNOWN_ROUND_TRIP_S = 0.05
"""A peer whose distance was never measured: between a LAN's and a continent's."""
UNKNOWN_LAYER_S = 0.001
"""A layer whose speed was never measured: a 135M model's on one core of a laptop."""
HOP_OVERHEAD_S = 0.0003
"""Framing, encryption and waking up: the goal for one loopback hop; also what makes fewer hops win."""


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

    @property
    def peer(self) -> PeerId:
        """Who holds."""
        if self.contact.peer is None:
            raise ValueError("a holder's contact names its peer")
        return self.contact.peer

    def cost_s(self, layer_count: int) -> float:
        """Expected time of one decode step through `layer_count` of its layers, the way there included."""
        layer_s = self.step_s / len(self.span) if self.step_s else UNKNOWN_LAYER_S
        way_s = (UNKNOWN_ROUND_TRIP_S if self.round_trip_s is None else self.round_trip_s) / 2
        return HOP_OVERHEAD_S + way_s + layer_s * layer_count * (1 + self.queue)


_Plan = tuple[float, int, tuple[PeerId, ...], tuple[ChainHop, ...]]


def plan_chain(
    holders: Iterable[Holder], layers: Span, *, avoid: Collection[PeerId] = ()
) -> tuple[ChainHop, ...]:
    """Return the cheapest chain over `layers`; a holder may serve a part of its span.

    Raises:
        NoChain: Some layers have no holder; the error names them.
    """
    usable = sorted((h for h in holders if h.peer not in avoid and h.span.overlaps(layers)), key=_by_peer)
    missing = missing_layers((h.span for h in usable), layers)
    if missing:
        names = ", ".join(map(str, missing))
        raise NoChain(f"no live peer holds layers {names}: start a peer with these layers", missing=missing)
    ends = {cut for holder in usable for cut in (holder.span.start, holder.span.end)}
    cuts = sorted({cut for cut in ends if layers.start < cut < layers.end} | {layers.start, layers.end})
    best: dict[int, _Plan] = {layers.end: (0.0, 0, (), ())}
    for start in reversed(cuts[:-1]):
        plans = (
            _prepend(holder, start, end, best[end])
            for holder in usable
            if start in holder.span
            for end in cuts
            if start < end <= holder.span.end and end in best
        )
        best[start] = min(plans, key=lambda plan: plan[:3])
    return _without_repeats(best[layers.start][3])


def mend_chain(
    chain: Sequence[ChainHop], holders: Sequence[Holder], *, lost: Collection[PeerId]
) -> tuple[ChainHop, ...]:
    """Replace the hops of `lost` peers and keep the others, whose caches are worth more than a better plan.

    Where the missing layers alone cannot be found beside the kept hops, a whole new chain is planned.

    Raises:
        NoChain: Some layers have no holder that is not lost.
    """
    kept = {hop.contact.peer for hop in chain if hop.contact.peer not in lost}
    avoid = {peer for peer in kept if peer is not None} | set(lost)
    mended: list[ChainHop] = []
    try:
        for run in _runs(chain, lost):
            if isinstance(run, ChainHop):
                mended.append(run)
            else:
                part = plan_chain(holders, run, avoid=avoid)
                avoid.update(hop.contact.peer for hop in part if hop.contact.peer)
                mended.extend(part)
    except NoChain:
        whole = Span(chain[0].start, chain[-1].end)
        return plan_chain(holders, whole, avoid=lost)
    return tuple(mended)


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


def _by_peer(holder: Holder) -> PeerId:
    return holder.peer


def _prepend(holder: Holder, start: int, end: int, rest: _Plan) -> _Plan:
    cost_s, hop_count, peers, hops = rest
    hop = ChainHop(holder.contact, start, end)
    return (cost_s + holder.cost_s(end - start), hop_count + 1, (holder.peer, *peers), (hop, *hops))


def _without_repeats(hops: tuple[ChainHop, ...]) -> tuple[ChainHop, ...]:
    """Merge what lies between two uses of one peer into its first: a peer has one place in a chain."""
    merged: list[ChainHop] = []
    for hop in hops:
        earlier = [i for i, other in enumerate(merged) if other.contact.peer == hop.contact.peer]
        if earlier:
            first = merged[earlier[0]]
            del merged[earlier[0] :]
            merged.append(ChainHop(first.contact, first.start, hop.end))
        else:
            merged.append(hop)
    return tuple(merged)


def _runs(chain: Sequence[ChainHop], lost: Collection[PeerId]) -> Iterable[ChainHop | Span]:
    """Yield the kept hops and, between them, each run of lost layers as one span."""
    run: Span | None = None
    for hop in chain:
        if hop.contact.peer in lost:
            run = Span(run.start if run else hop.start, hop.end)
            continue
        if run:
            yield run
            run = None
        yield hop
    if run:
        yield run
