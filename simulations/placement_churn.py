"""Peers come and go: how often others move for it, and how well every layer stays covered.

    python -m simulations.placement_churn [--json] [--peers 200] [--rounds 100] [--room 24] [--seeds 5]

Every peer places itself by the rule that a node follows (`inference/placement.py`), by a view that is up to
two rounds old, so sometimes two move at once. In seven of ten rounds a peer joins or leaves; meanwhile the
rates that peers announce change as well. Coverage of a layer is the sum of its holders' rates, relative to an
even division.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import deque
from dataclasses import replace

from rich.table import Table

from p2pinfer.cli.output import console
from p2pinfer.ids import PeerId
from p2pinfer.inference.placement import Resident, choose_move, choose_span

LAYER_COUNT = 80
LAG_ROUNDS_MAX = 2
RATE_CHANGE = 1.25
CHURN = 0.7

Holdings = dict[PeerId, Resident]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object a seed")
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=100, help="with churn; as many follow without")
    parser.add_argument("--room", type=int, default=24, help="a peer has room for 1 to so many layers")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    results = [simulate(seed, args.peers, args.rounds, args.room) for seed in range(1, args.seeds + 1)]
    if args.json:
        print("\n".join(map(json.dumps, results)))
        return
    table = Table(*results[0])
    for result in results:
        table.add_row(*map(str, result.values()))
    console().print(table)


def simulate(seed: int, peer_count: int, round_count: int, room_max: int) -> dict[str, float]:
    """Run one swarm and return what it cost and what stayed covered."""
    swarm = Swarm(seed, room_max=room_max)
    swarm.grow_to(peer_count)
    swarm.settle(20)
    swarm.move_count = 0
    events = bare_rounds = 0
    weakest: list[float] = []
    for _ in range(round_count):
        events += swarm.churn(peer_count)
        swarm.measure()
        swarm.round()
        bare_rounds += swarm.uncovered > 0
        weakest.append(swarm.weakest())
    moves = swarm.move_count
    moves_after = swarm.settle(round_count)
    return {
        "seed": seed,
        "joins_and_leaves": events,
        "moves": moves,
        "moves_after": moves_after,
        "rounds_with_a_bare_layer": bare_rounds,
        "weakest_layer_p50": round(statistics.median(weakest), 3),
        "weakest_layer_min": round(min(weakest), 3),
        "weakest_layer_at_the_end": round(swarm.weakest(), 3),
    }


class Swarm:
    """Peers that place themselves by their own, late views.

    Args:
        seed: Decides everything.
        room_max: A peer has room for 1 to so many layers.
    """

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
        """Layers that are held, counted for each holder."""
        return sum(len(r.span) for r in self.peers.values())

    @property
    def uncovered(self) -> int:
        """Layers that nobody holds."""
        return sum(all(n not in r.span for r in self.peers.values()) for n in range(LAYER_COUNT))

    def join(self) -> None:
        """A peer comes, and takes the layers that are weakest in some late view."""
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
        """A peer goes without a word."""
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

    def churn(self, peer_count: int) -> bool:
        """In seven of ten rounds one joins or leaves, such that about so many stay; whether one did."""
        if self.rng.random() >= CHURN:
            return False
        if self.rng.random() < peer_count / (peer_count + len(self.peers)):
            self.join()
        else:
            self.leave()
        return True

    def grow_to(self, peer_count: int) -> None:
        """Let peers join one after another."""
        while len(self.peers) < peer_count:
            self.join()
            self.views.append(dict(self.peers))
        self.settle(LAG_ROUNDS_MAX + 1)


if __name__ == "__main__":
    main()
