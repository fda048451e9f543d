"""Balancers that hash: how even they are, what moves, and the bound on load."""

from __future__ import annotations

import math
import random

import pytest

from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import Balancer, BalancingConfig
from tests.inference.balancing_tools import PICK_COUNT, made, must_pick, peers, picked

both = pytest.mark.parametrize("name", ["consistent_hash", "client_address"])
KEYS = [b"client %d" % number for number in range(20_000)]


def places(balancer: Balancer) -> dict[bytes, PeerId]:
    return {key: must_pick(balancer, key) for key in KEYS}


@both
def test_when_one_of_n_leaves_only_its_own_keys_move(name: str) -> None:
    members = peers(20)
    balancer = made(name, members)
    before = places(balancer)
    balancer.leave(members[7])
    after = places(balancer)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == members[7]}
    assert len(moved) <= len(KEYS) / 20 * 1.35
    takers = {after[key] for key in moved}
    assert len(takers) > 12, "the others share what was left"
    balancer.join(members[7])
    assert places(balancer) == before


@both
def test_when_one_joins_it_takes_its_part_and_nothing_else_moves(name: str) -> None:
    members = peers(20)
    balancer = made(name, members[:19])
    before = places(balancer)
    balancer.join(members[19])
    after = places(balancer)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert all(after[key] == members[19] for key in moved)
    assert len(KEYS) / 20 * 0.65 <= len(moved) <= len(KEYS) / 20 * 1.35


@both
def test_a_higher_weight_only_draws_keys_and_who_is_avoided_is_passed_over(name: str) -> None:
    members = peers(8)
    balancer = made(name, members)
    before = places(balancer)
    balancer.join(members[2], 2.0)
    after = places(balancer)
    assert all(after[key] == members[2] for key in KEYS if before[key] != after[key])
    drawn = sum(place == members[2] for place in after.values())
    assert drawn == pytest.approx(len(KEYS) * 2 / 9, rel=0.25)
    for key in KEYS[:2000]:
        chosen = balancer.pick(key, 0.0, {members[2]})
        assert chosen == after[key] or after[key] == members[2]


def test_rendezvous_is_as_even_as_chance_and_follows_weights() -> None:
    members = peers(10)
    counts = picked(made("client_address", members))
    assert all(abs(counts[p] - PICK_COUNT / 10) < 5 * math.sqrt(PICK_COUNT * 0.09) for p in members)
    a, b, c = members[:3]
    counts = picked(made("client_address", {a: 1.0, b: 2.0, c: 3.0}))
    for peer, part in ((a, 1 / 6), (b, 2 / 6), (c, 3 / 6)):
        assert abs(counts[peer] - PICK_COUNT * part) < 5 * math.sqrt(PICK_COUNT * part * (1 - part))


def test_the_ring_is_even_to_its_points() -> None:
    members = peers(10)
    for point_count in (40, 160, 640):
        config = BalancingConfig(ring_points_count=point_count)
        counts = picked(made("consistent_hash", members, config=config))
        strays = [counts[p] / (PICK_COUNT / 10) - 1 for p in members]
        spread = math.sqrt(sum(s * s for s in strays) / 10)
        print(f"{point_count} points: strays {spread:.3f} of its due")
        assert spread < 1.6 / math.sqrt(point_count)


@pytest.mark.parametrize("bound", [1.1, 1.25, 2.0])
def test_the_bound_on_load_is_never_passed_also_where_few_keys_are_wanted_most(bound: float) -> None:
    rng = random.Random(4)
    members = peers(16)
    weights = {peer: float(1 + index % 3) for index, peer in enumerate(members)}
    total = sum(weights.values())
    config = BalancingConfig(load_bound=bound)
    balancer, idle = (made("consistent_hash", weights, config=config) for _ in range(2))
    under_way: list[PeerId] = []
    passed_on_count = 0
    for _ in range(PICK_COUNT):
        if under_way and rng.random() < (0.45 if len(under_way) < 500 else 0.55):
            balancer.finished(under_way.pop(rng.randrange(len(under_way))), 0.0, 0.1)
            continue
        key = b"%d" % int(rng.paretovariate(0.5))
        chosen = must_pick(balancer, key)
        room = math.ceil(bound * (len(under_way) + 1) * weights[chosen] / total)
        assert balancer.in_flight(chosen) + 1 <= room
        balancer.started(chosen, 0.0)
        under_way.append(chosen)
        passed_on_count += chosen != must_pick(idle, key)
    assert passed_on_count > 1000, "the wanted keys did overflow"


def test_a_key_stays_where_its_cache_is_while_there_is_room() -> None:
    balancer = made("consistent_hash", peers(8))
    home = must_pick(balancer, b"a chat")
    assert {must_pick(balancer, b"a chat") for _ in range(100)} == {home}
    balancer.started(home, 0.0)
    assert must_pick(balancer, b"a chat") != home, "1 of 1 session is its bound of ceil(1.25 * 2 / 8)"
    balancer.finished(home, 1.0, 0.1)
    assert must_pick(balancer, b"a chat") == home
