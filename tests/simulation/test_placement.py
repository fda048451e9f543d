"""Two hundred peers that come and go: how many moves that costs, what stays covered, and that it ends.

Views are late: a peer sees the others as they were up to two rounds ago, so sometimes two move at once. While
peers come and go, the rates that they announce change as well.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import pytest

from p2pinfer.ids import PeerId
from p2pinfer.inference.partition import Worker
from p2pinfer.inference.placement import ENOUGH, Resident, choose_move, choose_span, handover, place

LAYER_COUNT = 80
LAG_ROUNDS_MAX = 2
RATE_CHANGE = 1.25
MOVES_PER_EVENT_MAX = 0.25
TIGHT_MOVES_PER_EVENT_MAX = 6
TIGHT_ROUNDS_MAX = 100
BARE_ROUNDS_MAX = 6
"""A layer whose last holder goes waits for the news, and for one or two moves."""

Holdings = dict[PeerId, Resident]


class Swarm:
    """Peers that place themselves by their own, late views."""

    def __init__(self, seed: int, *, room_max: int) -> None:
        self.rng = random.Random(seed)
        self.room_max = room_max
        self.peers: Holdings = {}
        self.views: deque[Holdings] = deque([{}], maxlen=LAG_ROUNDS_MAX + 1)
        self.named: deque[Resident | None] = deque(maxlen=LAG_ROUNDS_MAX + 1)
        """Who should move, by each view."""
        self.move_count = 0

    @property
    def room(self) -> int:
        return sum(len(r.span) for r in self.peers.values())

    @property
    def uncovered(self) -> int:
        return sum(all(n not in r.span for r in self.peers.values()) for n in range(LAYER_COUNT))

    def join(self) -> None:
        peer = PeerId(self.rng.randbytes(32))
        held = self.rng.choice(self.views).values()
        capacity = self.rng.randint(1, self.room_max)
        rates = [r.rate for r in held]
        span = choose_span(LAYER_COUNT, capacity, [r.span for r in held], rates)
        rate = 1 / (len(span) * self.rng.lognormvariate(-6.9, 0.5))
        self.peers[peer] = Resident(peer, span, rate)

    def measure(self) -> None:
        """Some peers announce a new rate."""
        for peer in self.rng.sample(sorted(self.peers), len(self.peers) // 20):
            r = self.peers[peer]
            self.peers[peer] = replace(r, rate=r.rate * self.rng.uniform(1 / RATE_CHANGE, RATE_CHANGE))

    def leave(self) -> None:
        del self.peers[self.rng.choice(sorted(self.peers))]

    def round(self) -> int:
        """Everybody looks, each at its own late view, and moves if it is the one; return how many did."""
        self.views.append(dict(self.peers))
        self.named.append(choose_move(LAYER_COUNT, self.peers.values()))
        moves: Holdings = {}
        for peer in sorted(self.peers):
            lag = self.rng.randrange(len(self.named))
            move, view = self.named[-1 - lag], self.views[-1 - lag]
            # What a peer holds itself it knows at once: a view in which it holds something else is void.
            if move and move.peer == peer and view[peer].span == self.peers[peer].span:
                moves[peer] = replace(self.peers[peer], span=move.span)
        self.peers |= moves
        self.move_count += len(moves)
        return len(moves)

    def settle(self, round_count: int) -> int:
        """Run rounds without joins and leaves; return the number of moves."""
        return sum(self.round() for _ in range(round_count))

    def weakest(self) -> float:
        """The weakest layer's coverage, relative to an even division."""
        coverage = [
            sum(r.rate for r in self.peers.values() if layer in r.span) for layer in range(LAYER_COUNT)
        ]
        return min(coverage) / (sum(coverage) / LAYER_COUNT)

    def grow_to(self, peer_count: int) -> None:
        while len(self.peers) < peer_count:
            self.join()
            self.views.append(dict(self.peers))
        self.settle(LAG_ROUNDS_MAX + 1)


@pytest.mark.parametrize("room_max", [3, 6, 24])
def test_churn_costs_few_moves_and_leaves_no_layer_bare(sim_seed: int, room_max: int) -> None:
    swarm = Swarm(sim_seed, room_max=room_max)
    swarm.grow_to(200)
    assert swarm.settle(20) <= 1, "peers that came one after another lie well already"
    swarm.move_count = 0
    event_count = bare_rounds = 0
    for _ in range(100):
        if swarm.rng.random() < 0.7:
            event_count += 1
            if swarm.rng.random() < 200 / (200 + len(swarm.peers)):
                swarm.join()
            else:
                swarm.leave()
        swarm.measure()
        swarm.round()
        bare_rounds = bare_rounds + 1 if swarm.uncovered else 0
        assert bare_rounds <= BARE_ROUNDS_MAX
    assert swarm.move_count <= event_count * MOVES_PER_EVENT_MAX, (swarm.move_count, event_count)
    swarm.settle(20)
    assert swarm.settle(20) == 0
    assert swarm.weakest() >= ENOUGH


def test_where_the_room_is_just_enough_every_layer_is_covered_again(sim_seed: int) -> None:
    """No peer can be spared, so gaps close by shifting one peer after another."""
    swarm = Swarm(sim_seed, room_max=8)
    event_count = 15
    for _ in range(event_count):
        if swarm.peers:
            swarm.leave()
        while swarm.room < LAYER_COUNT:
            swarm.join()
        round_count = 0
        while swarm.uncovered:
            swarm.round()
            round_count += 1
            assert round_count <= TIGHT_ROUNDS_MAX
    assert swarm.move_count <= event_count * TIGHT_MOVES_PER_EVENT_MAX, (swarm.move_count, event_count)
    swarm.settle(40)
    assert swarm.settle(20) == 0


def test_when_a_whole_site_goes_others_take_over_and_no_more(sim_seed: int) -> None:
    swarm = Swarm(sim_seed, room_max=6)
    swarm.grow_to(200)
    lost = [peer for peer, r in swarm.peers.items() if r.span.start < 40 and swarm.rng.random() < 0.9]
    for peer in lost:
        del swarm.peers[peer]
    swarm.settle(30)
    assert swarm.uncovered == 0, "gaps come first"
    swarm.settle(90)
    assert swarm.weakest() >= ENOUGH
    assert swarm.move_count <= 0.75 * len(lost), (swarm.move_count, len(lost))
    assert swarm.settle(20) == 0


def test_peers_that_drain_one_after_another_leave_no_layer_bare(sim_seed: int) -> None:
    """Each goes only when the takers it was told serve their spans; all along, every layer has a holder."""
    swarm = Swarm(sim_seed, room_max=8)
    swarm.grow_to(40)
    assert swarm.uncovered == 0
    for leaving in sorted(swarm.peers):
        plan = handover(LAYER_COUNT, swarm.peers.values(), leaving)
        rest = swarm.room - len(swarm.peers[leaving].span)
        assert bool(plan.orphaned) == (rest < LAYER_COUNT)
        if plan.orphaned:
            break
        for taker in plan.takers:
            swarm.peers[taker.peer] = replace(swarm.peers[taker.peer], span=taker.span)
        del swarm.peers[leaving]
        assert swarm.uncovered == 0
    assert swarm.room < LAYER_COUNT + 8, "they went until there was no more room"


def test_a_swarm_placed_at_once_stays_as_it_is(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    workers = [
        Worker(
            peer=PeerId(rng.randbytes(32)),
            layer_s=rng.lognormvariate(-6.9, 0.5),
            layer_count_max=rng.randint(0, 20),
        )
        for _ in range(200)
    ]
    placed = place(LAYER_COUNT, workers)
    assert choose_move(LAYER_COUNT, placed) is None
    coverage = [sum(r.rate for r in placed if layer in r.span) for layer in range(LAYER_COUNT)]
    assert min(coverage) >= 0.8 * sum(coverage) / LAYER_COUNT
