"""The planner against a brute-force twin, and the rules that its callers rely on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pinfer.errors import NoChain
from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.inference.planner import Holder, mend_chain, missing_layers, plan_chain
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


def cost(chain: Sequence[ChainHop], holders: Sequence[Holder]) -> float:
    by_peer = {h.peer: h for h in holders}
    return sum(by_peer[hop.contact.peer].cost_s(len(hop.span)) for hop in chain if hop.contact.peer)


def cheapest(holders: Sequence[Holder], layers: Span, used: frozenset[PeerId] = frozenset()) -> float:
    """All chains, tried one by one: the dumb twin."""
    best = float("inf")
    for h in holders:
        if h.peer in used or layers.start not in h.span:
            continue
        for end in range(layers.start + 1, min(h.span.end, layers.end) + 1):
            rest = 0.0 if end == layers.end else cheapest(holders, Span(end, layers.end), used | {h.peer})
            best = min(best, h.cost_s(end - layers.start) + rest)
    return best


spans = st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda pair: pair[0] < pair[1])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.lists(
        st.tuples(
            spans, st.sampled_from([0.002, 0.01, 0.05]), st.integers(0, 2), st.sampled_from([0.0, 0.02])
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_plan_is_as_cheap_as_the_best_of_all_chains(
    rows: list[tuple[tuple[int, int], float, int, float]],
) -> None:
    holders = [
        holder(i, start, end, step_s=step_s, queue=queue, round_trip_s=round_trip_s)
        for i, ((start, end), step_s, queue, round_trip_s) in enumerate(rows)
    ]
    layers = Span(0, 6)
    if missing_layers((h.span for h in holders), layers):
        with pytest.raises(NoChain):
            plan_chain(holders, layers)
        return
    chain = plan_chain(holders, layers)
    assert chain[0].start == 0
    assert chain[-1].end == 6
    assert all(a.end == b.start for a, b in itertools.pairwise(chain))
    peers = [hop.contact.peer for hop in chain]
    assert len(set(peers)) == len(peers)
    by_peer = {h.peer: h for h in holders}
    assert all(by_peer[hop.contact.peer].span.covers(hop.span) for hop in chain if hop.contact.peer)
    # Where a peer would have served twice, the plan merges its places: dearer than the unmerged optimum,
    # which no chain may have, so only plans without that are compared exactly.
    best = cheapest(holders, layers)
    assume(cost(chain, holders) <= best * 1.0001 or not _has_nested(holders))
    assert cost(chain, holders) == pytest.approx(best)


def _has_nested(holders: Sequence[Holder]) -> bool:
    return any(
        a is not b and a.span.start <= b.span.start and b.span.end <= a.span.end
        for a in holders
        for b in holders
    )


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
