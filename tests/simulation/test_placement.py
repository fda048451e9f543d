"""Two hundred peers that come and go: how many moves that costs, what stays covered, and that it ends.

The swarm is that of `simulations/placement_churn.py`, which prints the figures.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from p2pinfer.ids import PeerId
from p2pinfer.inference.partition import Worker
from p2pinfer.inference.placement import ENOUGH, choose_move, handover, place
from simulations import placement_churn
from simulations.placement_churn import LAYER_COUNT, Swarm

MOVES_PER_EVENT_MAX = 0.25
TIGHT_MOVES_PER_EVENT_MAX = 6
TIGHT_ROUNDS_MAX = 100
BARE_ROUNDS_MAX = 6
"""A layer whose last holder goes waits for the news, and for one or two moves."""


@pytest.mark.parametrize("room_max", [3, 6, 24])
def test_churn_costs_few_moves_and_leaves_no_layer_bare(sim_seed: int, room_max: int) -> None:
    swarm = Swarm(sim_seed, room_max=room_max)
    swarm.grow_to(200)
    assert swarm.settle(20) <= 1, "peers that came one after another lie well already"
    swarm.move_count = 0
    event_count = bare_rounds = 0
    for _ in range(100):
        event_count += swarm.churn(200)
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


def test_the_experiment_prints_moves_and_coverage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["placement_churn", "--json", "--peers", "60", "--seeds", "2"])
    placement_churn.main()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["seed"] == 1
    assert first != second
    assert first["moves"] <= first["joins_and_leaves"] * MOVES_PER_EVENT_MAX
    assert first["moves_after"] <= 3
    assert 0 < first["weakest_layer_at_the_end"] <= 1
    monkeypatch.setattr("sys.argv", ["placement_churn", "--peers", "60", "--rounds", "3", "--seeds", "1"])
    placement_churn.main()
    assert "weakest" in capsys.readouterr().out
