"""The planner against a brute-force twin, and the rules that its callers rely on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import NoChain
from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.inference.chain_search import Ways
from p2pinfer.inference.places import Spot, WayMap
from p2pinfer.inference.planner import HOP_OVERHEAD_S, Holder, mend_chain, missing_layers, plan_chain
from p2pinfer.wire.messages.inference import ChainHop


def holder(
    number: int,
    start: int,
    end: int,
    *,
    step_s: float = 0.01,
    queue: int = 0,
    round_trip_s: float | None = 0.001,
) -> Holder:
    contact = Contact(PeerId(bytes([number]) * 32), Endpoint("127.0.0.1", 7000 + number))
    return Holder(contact, Span(start, end), step_s, queue, round_trip_s)


def parts(chain: Sequence[ChainHop]) -> list[tuple[int, int, int]]:
    return [(hop.contact.peer[0] if hop.contact.peer else -1, hop.start, hop.end) for hop in chain]


Rank = tuple[int, int, tuple[PeerId, ...]]
"""What a chain is chosen by: nanoseconds, hops, PeerIds."""


def rank(chain: Sequence[ChainHop], holders: Sequence[Holder]) -> Rank:
    by_peer = {h.peer: h for h in holders}
    peers = tuple(hop.contact.peer for hop in chain if hop.contact.peer)
    assert all(by_peer[p].span.covers(hop.span) for p, hop in zip(peers, chain, strict=True))
    cost_ns = sum(cost_in_ns(by_peer[p], len(hop.span)) for p, hop in zip(peers, chain, strict=True))
    return (cost_ns, len(chain), peers)


def cost_in_ns(h: Holder, layer_count: int) -> int:
    return round(h.enter_s * 1e9) + layer_count * round(h.layer_s * 1e9)


def best_rank(holders: Sequence[Holder], gaps: Sequence[Span], used: tuple[PeerId, ...] = ()) -> Rank | None:
    """All ways to fill the gaps in which no peer comes twice, tried one by one: the dumb twin."""
    if not gaps:
        return (0, 0, ())
    first, *others = gaps
    ranks: list[Rank] = []
    for h in holders:
        if h.peer in used or first.start not in h.span:
            continue
        for end in range(first.start + 1, min(h.span.end, first.end) + 1):
            left = [Span(end, first.end), *others] if end < first.end else others
            rest = best_rank(holders, left, (*used, h.peer))
            if rest is not None:
                cost_ns = cost_in_ns(h, end - first.start) + rest[0]
                ranks.append((cost_ns, rest[1] + 1, (h.peer, *rest[2])))
    return min(ranks, default=None)


@st.composite
def swarms(draw: st.DrawFn, count_max: int = 6) -> list[Holder]:
    """Few values of each, so that costs are often equal; entering is cheap, so that chains have many hops."""
    holders = []
    for number in range(draw(st.integers(1, count_max))):
        start = draw(st.integers(0, 5))
        end = draw(st.integers(start + 1, 6))
        layer_s = draw(st.sampled_from([0.0005, 0.001, 0.002, 0.008]))
        round_trip_s = draw(st.sampled_from([0.0, 0.0014, 0.003, 0.02]))
        queue = draw(st.sampled_from([0, 0, 1]))
        step_s = layer_s * (end - start)
        holders.append(holder(number, start, end, step_s=step_s, queue=queue, round_trip_s=round_trip_s))
    return draw(st.permutations(holders))


@settings(deadline=None, derandomize=True, max_examples=400)
@given(swarms())
def test_the_plan_is_the_best_of_all_chains(holders: list[Holder]) -> None:
    layers = Span(0, 6)
    if missing_layers((h.span for h in holders), layers):
        with pytest.raises(NoChain):
            plan_chain(holders, layers)
        return
    chain = plan_chain(holders, layers)
    assert chain[0].start == 0
    assert chain[-1].end == 6
    assert all(a.end == b.start for a, b in itertools.pairwise(chain))
    assert rank(chain, holders) == best_rank(holders, [layers])


def test_a_peer_whose_best_use_is_twice_is_used_once_and_not_merged() -> None:
    """1 is the cheapest at both ends, but 2 in the middle is worth another peer at one of the ends."""
    slow, quick = holder(1, 0, 30, step_s=0.3), holder(2, 10, 20, step_s=0.001)
    assert parts(plan_chain([slow, quick], Span(0, 30))) == [(1, 0, 30)]
    other = holder(3, 20, 30, step_s=0.11)
    assert parts(plan_chain([slow, quick, other], Span(0, 30))) == [(1, 0, 10), (2, 10, 20), (3, 20, 30)]


def test_one_good_hop_wins_over_three() -> None:
    holders = [holder(1, 0, 10), holder(2, 10, 20), holder(3, 20, 30), holder(9, 0, 30, step_s=0.03)]
    assert parts(plan_chain(holders, Span(0, 30))) == [(9, 0, 30)]


def test_a_busy_or_slow_holder_is_left_for_an_equal_one() -> None:
    layers = Span(0, 10)
    assert parts(plan_chain([holder(1, 0, 10, queue=3), holder(2, 0, 10)], layers)) == [(2, 0, 10)]
    assert parts(plan_chain([holder(1, 0, 10, step_s=0.1), holder(2, 0, 10)], layers)) == [(2, 0, 10)]
    far, near = holder(1, 0, 10, round_trip_s=0.2), holder(2, 0, 10)
    assert parts(plan_chain([far, near], layers)) == [(2, 0, 10)]


def test_ties_are_broken_by_peer_id_whatever_the_order() -> None:
    holders = [holder(n, 0, 10) for n in (5, 3, 4)]
    assert parts(plan_chain(holders, Span(0, 10))) == [(3, 0, 10)]
    assert plan_chain(holders, Span(0, 10)) == plan_chain(holders[::-1], Span(0, 10))


def test_ties_between_unlike_holders_are_broken_by_peer_id_too() -> None:
    """A near slow peer and a far quick one cost the same; so do two places to hand over."""
    near, far = holder(2, 0, 10, step_s=0.02, round_trip_s=0.0), holder(1, 0, 10, round_trip_s=0.02)
    assert near.cost_s(10) == pytest.approx(far.cost_s(10))
    assert parts(plan_chain([near, far], Span(0, 10))) == [(1, 0, 10)]
    holders = [
        holder(1, 0, 8, step_s=8 * 0.004),
        holder(3, 5, 10, step_s=5 * 0.002, round_trip_s=0.010),
        holder(9, 6, 10, step_s=4 * 0.001, round_trip_s=0.014),
    ]
    assert parts(plan_chain(holders, Span(0, 10))) == [(1, 0, 5), (3, 5, 10)]
    assert parts(plan_chain([holders[0], holders[2]], Span(0, 10))) == [(1, 0, 6), (9, 6, 10)]


def test_overlapping_spans_are_cut() -> None:
    chain = plan_chain([holder(1, 0, 18), holder(2, 12, 30, step_s=0.001)], Span(0, 30))
    assert parts(chain) == [(1, 0, 12), (2, 12, 30)]


def test_no_chain_names_the_layers() -> None:
    with pytest.raises(NoChain, match=r"\[3,5\), \[8,10\)") as caught:
        plan_chain([holder(1, 0, 3), holder(2, 5, 8)], Span(0, 10))
    assert caught.value.missing == (Span(3, 5), Span(8, 10))


def test_nobody_at_all() -> None:
    with pytest.raises(NoChain) as caught:
        plan_chain([], Span(0, 4))
    assert caught.value.missing == (Span(0, 4),)


def test_mending_keeps_the_healthy_hops() -> None:
    holders = [holder(n, 10 * (n % 3), 10 * (n % 3) + 10) for n in range(6)]
    chain = plan_chain(holders, Span(0, 30))
    assert parts(chain) == [(0, 0, 10), (1, 10, 20), (2, 20, 30)]
    mended = mend_chain(chain, holders, lost={PeerId(bytes([1]) * 32)})
    assert parts(mended) == [(0, 0, 10), (4, 10, 20), (2, 20, 30)]
    two = mend_chain(chain, holders, lost={PeerId(bytes([n]) * 32) for n in (1, 2)})
    assert parts(two) == [(0, 0, 10), (4, 10, 20), (5, 20, 30)]


def test_two_lost_neighbours_may_be_replaced_by_one() -> None:
    holders = [holder(0, 0, 10), holder(1, 10, 20), holder(2, 20, 30), holder(7, 10, 30)]
    chain = (
        ChainHop(holders[0].contact, 0, 10),
        ChainHop(holders[1].contact, 10, 20),
        ChainHop(holders[2].contact, 20, 30),
    )
    mended = mend_chain(chain, holders, lost={holders[1].peer, holders[2].peer})
    assert parts(mended) == [(0, 0, 10), (7, 10, 30)]


def test_gaps_are_mended_together_so_that_none_takes_what_another_needs() -> None:
    """4 is the cheaper for the first gap, but the only one for the second."""
    holders = [holder(0, 0, 10), holder(1, 10, 20), holder(2, 20, 30)]
    spare = [holder(4, 0, 30, step_s=0.01), holder(5, 0, 10, step_s=0.2)]
    chain = plan_chain(holders, Span(0, 30))
    mended = mend_chain(chain, holders + spare, lost={holders[0].peer, holders[2].peer})
    assert parts(mended) == [(5, 0, 10), (1, 10, 20), (4, 20, 30)]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(swarms(count_max=5), st.sets(st.integers(0, 2), min_size=1))
def test_mending_keeps_what_lives_and_is_the_cheapest_that_does(others: list[Holder], gone: set[int]) -> None:
    old = [holder(10 + n, 2 * n, 2 * n + 2) for n in range(3)]
    chain = tuple(ChainHop(h.contact, h.span.start, h.span.end) for h in old)
    kept = {n: chain[n] for n in range(3) if n not in gone}
    gaps = missing_layers((hop.span for hop in kept.values()), Span(0, 6))
    best = best_rank(others, gaps)
    lost = {old[n].peer for n in gone}
    try:
        mended = mend_chain(chain, others + old, lost=lost)
    except NoChain:
        assert best is None
        return
    if best is not None:
        assert [hop for hop in mended if hop in chain] == list(kept.values())
        assert rank([hop for hop in mended if hop not in chain], others) == best


def test_where_only_a_peer_of_the_chain_has_the_missing_layers_all_is_planned_anew() -> None:
    holders = [holder(0, 0, 30, step_s=0.3), holder(1, 10, 20)]
    chain = (
        ChainHop(holders[0].contact, 0, 10),
        ChainHop(holders[1].contact, 10, 20),
        ChainHop(Contact(PeerId(bytes([8]) * 32), Endpoint("127.0.0.1", 1)), 20, 30),
    )
    lost = {PeerId(bytes([8]) * 32), holders[1].peer}
    assert parts(mend_chain(chain, holders, lost=lost)) == [(0, 0, 30)]
    with pytest.raises(NoChain):
        mend_chain(chain, holders, lost={holders[0].peer})


# ---------------------------------------------------------------------- with ways between places

Chain = tuple[tuple[PeerId, int, int], ...]


def all_chains(
    holders: Sequence[Holder], gaps: Sequence[Span], used: tuple[PeerId, ...] = ()
) -> Iterator[Chain]:
    """Every way to fill the gaps in which no peer comes twice."""
    if not gaps:
        yield ()
        return
    first, *others = gaps
    for h in holders:
        if h.peer in used or first.start not in h.span:
            continue
        for end in range(first.start + 1, min(h.span.end, first.end) + 1):
            left = [Span(end, first.end), *others] if end < first.end else others
            for rest in all_chains(holders, left, (*used, h.peer)):
                yield ((h.peer, first.start, end), *rest)


def ring_rank(chain: Chain, holders: Mapping[PeerId, Holder], ways: WayMap) -> Rank:
    """The cost of a token: work, access links and ways of the ring, and a part of the ways to the entry."""
    between, entry = ways.ways_ns
    peers = tuple(peer for peer, _, _ in chain)
    places = [ways.place_of(peer) for peer in peers]
    cost_ns = entry[places[0]] + entry[places[-1]]
    if len(chain) > 1:
        cost_ns += sum(between[a][b] for a, b in zip(places, [*places[1:], places[0]], strict=True))
    for peer, start, end in chain:
        known = holders.get(peer)
        if known is None:
            continue  # kept: its work is paid for
        spot = ways.spots.get(peer)
        way_s = known.enter_s - HOP_OVERHEAD_S if spot is None else spot.access_s
        access_ns = round(way_s * 1e9) if len(chain) > 1 else 0
        cost_ns += round(HOP_OVERHEAD_S * 1e9) + access_ns + (end - start) * round(known.layer_s * 1e9)
    return (cost_ns, sum(1 for peer in peers if peer in holders), peers)


@st.composite
def maps(draw: st.DrawFn, peers: Sequence[PeerId]) -> WayMap:
    """Few values, so that costs are often equal; closed, so that no detour is cheaper."""
    count = draw(st.integers(1, 4))
    steps_ns = st.sampled_from([0, 400_000, 1_000_000, 2_000_000, 10_000_000])
    between = [[0] * count for _ in range(count)]
    for a in range(count):
        for b in range(a, count):
            between[a][b] = between[b][a] = draw(steps_ns)
    for via, a, b in itertools.product(range(count), repeat=3):
        between[a][b] = min(between[a][b], between[a][via] + between[via][b])
    entry = tuple(draw(st.sampled_from([0, 100_000, 700_000])) for _ in range(count))
    spots = {
        peer: Spot(draw(st.integers(0, count - 1)), draw(st.sampled_from([0.0, 0.0004, 0.002])))
        for peer in peers
        if draw(st.integers(0, 4))
    }
    return WayMap(Ways(tuple(map(tuple, between)), entry), draw(st.integers(0, count - 1)), spots)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.data())
def test_with_ways_the_plan_is_the_best_of_all_rings(data: st.DataObject) -> None:
    holders = data.draw(swarms(count_max=5))
    ways = data.draw(maps([h.peer for h in holders]))
    layers, by_peer = Span(0, 6), {h.peer: h for h in holders}
    ranks = [ring_rank(chain, by_peer, ways) for chain in all_chains(holders, [layers])]
    if not ranks:
        with pytest.raises(NoChain):
            plan_chain(holders, layers, ways=ways)
        return
    chain = plan_chain(holders, layers, ways=ways)
    assert all(a.end == b.start for a, b in itertools.pairwise(chain))
    hops = tuple((hop.contact.peer, hop.start, hop.end) for hop in chain if hop.contact.peer)
    assert ring_rank(hops, by_peer, ways) == min(ranks)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.data())
def test_with_ways_mending_is_the_best_ring_that_keeps_what_lives(data: st.DataObject) -> None:
    others = data.draw(swarms(count_max=4))
    gone = data.draw(st.sets(st.integers(0, 2), min_size=1, max_size=2))
    old = [holder(10 + n, 2 * n, 2 * n + 2) for n in range(3)]
    ways = data.draw(maps([h.peer for h in [*others, *old]]))
    kept = [(h.peer, h.span.start, h.span.end) for n, h in enumerate(old) if n not in gone]
    gaps = missing_layers((Span(start, end) for _, start, end in kept), Span(0, 6))
    by_peer = {h.peer: h for h in others}
    ranks = [
        ring_rank(tuple(sorted([*kept, *filling], key=lambda part: part[1])), by_peer, ways)
        for filling in all_chains(others, gaps)
    ]
    chain = tuple(ChainHop(h.contact, h.span.start, h.span.end) for h in old)
    if not ranks:
        return
    mended = mend_chain(chain, [*others, *old], lost={old[n].peer for n in gone}, ways=ways)
    hops = tuple((hop.contact.peer, hop.start, hop.end) for hop in mended if hop.contact.peer)
    assert ring_rank(hops, by_peer, ways) == min(ranks)


def test_a_group_far_away_wins_over_peers_that_are_all_near_here_and_far_from_each_other() -> None:
    """What the entry peer measures says the opposite: each of the group is 100 ms away."""
    here = [holder(n, 10 * n, 10 * n + 10, round_trip_s=0.04) for n in range(3)]
    group = [holder(n + 5, 10 * n, 10 * n + 10, round_trip_s=0.1) for n in range(3)]
    assert {hop.contact.peer for hop in plan_chain(here + group, Span(0, 30))} == {h.peer for h in here}
    far, ms = 40 * 500_000, 500_000
    between = ((ms, far, far, far), (far, ms, far, far), (far, far, ms, far), (far, far, far, ms))
    spots = {h.peer: Spot(place, 0.0) for place, h in enumerate(here)}
    spots |= {h.peer: Spot(3, 0.0) for h in group}
    ways = WayMap(Ways(between, (0, far // 16, far // 16, far // 16)), 0, spots)
    chain = plan_chain(here + group, Span(0, 30), ways=ways)
    assert {hop.contact.peer for hop in chain} == {h.peer for h in group}
