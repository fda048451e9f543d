"""What every balancer promises, and the bounds of those that only count."""

from __future__ import annotations

import math
import random
import timeit
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import BalancingConfig
from p2pinfer.inference.balancing import BALANCERS, make_balancer
from tests.inference.balancing_tools import PICK_COUNT, made, must_pick, peers, picked

every_strategy = pytest.mark.parametrize("name", BALANCERS)

ops = st.tuples(
    st.sampled_from(["join", "drain", "leave", "pick", "finish"]),
    st.integers(0, 4),
    st.floats(0.01, 100),
    st.sets(st.integers(0, 4)),
)


@every_strategy
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(ops, max_size=60))
def test_whatever_happens_only_a_member_that_may_be_picked_is(
    name: str, steps: list[tuple[str, int, float, set[int]]]
) -> None:
    everybody = peers(5)
    balancer = make_balancer(name, rng=random.Random(3))
    weights: dict[bytes, float] = {}
    in_flight: Counter[bytes] = Counter()
    for number, (kind, index, weight, avoided) in enumerate(steps):
        peer, now = everybody[index], number * 0.7
        if kind in ("join", "drain"):
            weights[peer] = weight if kind == "join" else 0.0
            balancer.join(peer, weights[peer])
        elif kind == "leave":
            weights.pop(peer, None)
            balancer.leave(peer)
        elif kind == "finish":
            in_flight[peer] = max(0, in_flight[peer] - 1)
            balancer.finished(peer, now, weight if avoided else None)
        else:
            avoid = {everybody[i] for i in avoided}
            chosen = balancer.pick(b"%d" % index, now, avoid)
            usable = {p for p in weights if weights[p] and p not in avoid}
            assert (chosen in usable) if usable else (chosen is None)
            if chosen is not None:
                balancer.started(chosen, now)
                in_flight[chosen] += 1
    assert balancer.members == tuple(sorted(weights))
    assert [balancer.in_flight(p) for p in everybody] == [in_flight[p] for p in everybody]


@every_strategy
def test_equal_views_and_seeds_give_equal_picks(name: str) -> None:
    members = peers(7)
    one, other = made(name, members), made(name, members[::-1])
    for number in range(1000):
        chosen = must_pick(one, b"%d" % number, number * 0.01)
        assert chosen == must_pick(other, b"%d" % number, number * 0.01)
        for balancer in (one, other):
            balancer.started(chosen, number * 0.01)
            if number % 3:
                balancer.finished(chosen, number * 0.01, 0.01 + number % 5)


@every_strategy
def test_sessions_of_a_member_that_left_are_counted_when_it_comes_back(name: str) -> None:
    (peer,) = peers(1)
    balancer = made(name, [peer])
    balancer.started(peer, 0.0)
    balancer.leave(peer)
    assert balancer.pick(b"", 0.0) is None
    balancer.join(peer)
    assert balancer.in_flight(peer) == 1
    balancer.finished(peer, 1.0, 0.5)
    assert balancer.in_flight(peer) == 0


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"weight is .*, but must be at least 0"):
        make_balancer("round_robin", rng=random.Random(1)).join(peers(1)[0], weight)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"balancer is 'best', but must be one of round_robin, .*, adaptive"
    ):
        make_balancer("best", rng=random.Random(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("load_bound", 1.0), ("ring_points_count", 0), ("decay_s", 0.0), ("memory_plenty_bytes", 1)],
)
def test_settings_name_what_is_wrong(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but must lie in"):
        BalancingConfig(**{field: value})  # type: ignore[arg-type]


# --- round robin ------------------------------------------------------------------------------


def test_round_robin_takes_everybody_once_a_round() -> None:
    members = peers(8)
    balancer = made("round_robin", members)
    chosen = [must_pick(balancer) for _ in range(PICK_COUNT)]
    assert set(Counter(chosen).values()) == {PICK_COUNT // 8}
    assert all(len(set(chosen[i : i + 8])) == 8 for i in range(0, 1000))


def test_round_robin_goes_on_where_it_was_when_members_come_and_go() -> None:
    a, b, c, d, e = peers(5)
    balancer = made("round_robin", [a, c, e])
    assert [must_pick(balancer) for _ in range(2)] == [a, c]
    balancer.join(b)
    assert must_pick(balancer) == e, "the turn of a newcomer that was passed comes in the next round"
    assert [must_pick(balancer) for _ in range(2)] == [a, b]
    balancer.leave(a)
    balancer.join(d)
    assert [must_pick(balancer) for _ in range(5)] == [c, d, e, b, c]
    balancer.leave(c)
    assert balancer.pick(b"", 0.0, {d}) == e, "who is avoided is passed over"


def test_a_pick_of_round_robin_takes_less_than_a_microsecond() -> None:
    pick = made("round_robin", peers(16)).pick
    best_s = min(timeit.repeat(lambda: pick(b"", 0.0), number=10_000, repeat=20)) / 10_000
    print(f"round robin: {best_s * 1e6:.3f} us a pick")
    assert best_s < 1e-6


# --- weighted round robin ---------------------------------------------------------------------


def test_weighted_round_robin_is_smooth() -> None:
    a, b, c = peers(3)
    balancer = made("weighted_round_robin", {a: 5, b: 1, c: 1})
    assert [must_pick(balancer) for _ in range(14)] == [a, a, b, a, c, a, a] * 2, "nginx's own example"


def test_weighted_round_robin_keeps_everybody_within_a_pick_of_its_part() -> None:
    rng = random.Random(5)
    weights = {peer: rng.uniform(0.1, 10) for peer in peers(12)}
    total = sum(weights.values())
    balancer = made("weighted_round_robin", weights)
    counts: Counter[bytes] = Counter()
    for number in range(1, PICK_COUNT + 1):
        chosen = must_pick(balancer)
        counts[chosen] += 1
        assert counts[chosen] - number * weights[chosen] / total < 1
        if number % 1000 == 0:
            assert all(number * w / total - counts[p] < len(weights) - 1 for p, w in weights.items())


def test_whole_weights_come_out_exactly_every_cycle() -> None:
    weights = dict(zip(peers(4), (7, 3, 2, 8), strict=True))
    balancer = made("weighted_round_robin", {p: float(w) for p, w in weights.items()})
    for _ in range(PICK_COUNT // 20):
        assert picked(balancer, 20) == weights


def test_new_weights_hold_from_the_next_pick_on_and_leave_no_debt() -> None:
    a, b, c = peers(3)
    balancer = made("weighted_round_robin", {a: 100, b: 1})
    picked(balancer, 150)
    balancer.join(a, 1)
    assert abs(picked(balancer, 1000)[a] - 500) <= 2
    balancer.join(c, 2)
    assert abs(picked(balancer, 1000)[c] - 500) <= 2
    balancer.leave(a)
    counts = picked(balancer, 900)
    assert abs(counts[b] - 300) <= 2
    assert abs(counts[c] - 600) <= 2


def test_whoever_comes_and_goes_costs_the_others_no_more_than_a_pick_or_two(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    members = peers(8)
    balancer = made("weighted_round_robin", members)
    for _ in range(2000):
        peer = rng.choice(members)
        if rng.random() < 0.5:
            balancer.leave(peer)
        else:
            balancer.join(peer, rng.uniform(0.1, 5))
        for _ in range(3):
            balancer.pick(b"", 0.0)
    for peer in members:
        balancer.join(peer, 1)
    assert all(abs(count - 100) <= 2 for count in picked(balancer, 800).values())


def test_a_weight_that_changes_at_every_pick_is_still_followed() -> None:
    a, b = peers(2)
    balancer = made("weighted_round_robin", {a: 10, b: 1})
    counts: Counter[bytes] = Counter()
    for number in range(1, 1101):
        balancer.join(b, 1 + number * 1e-9)
        counts[must_pick(balancer)] += 1
    assert abs(counts[b] - 100) <= 1


# --- least connections ------------------------------------------------------------------------


def test_least_connections_never_picks_one_with_more() -> None:
    rng = random.Random(6)
    members = peers(10)
    balancer = made("least_connections", members)
    under_way: list[PeerId] = []
    for _ in range(PICK_COUNT):
        if under_way and rng.random() < (0.45 if len(under_way) < 300 else 0.55):
            balancer.finished(under_way.pop(rng.randrange(len(under_way))), 0.0, 0.1)
            continue
        chosen = must_pick(balancer)
        assert balancer.in_flight(chosen) == min(balancer.in_flight(p) for p in members)
        balancer.started(chosen, 0.0)
        under_way.append(chosen)


def test_least_connections_takes_turns_among_the_idle_and_follows_weights() -> None:
    members = peers(5)
    balancer = made("least_connections", members)
    assert set(picked(balancer).values()) == {PICK_COUNT // 5}
    a, b = members[:2]
    balancer = made("least_connections", {a: 3, b: 1})
    for _ in range(400):
        balancer.started(must_pick(balancer), 0.0)
    assert (balancer.in_flight(a), balancer.in_flight(b)) == (300, 100)
    newcomer = members[2]
    balancer.join(newcomer)
    for _ in range(100):
        chosen = must_pick(balancer)
        assert chosen == newcomer, "it takes all until it has as many as the others"
        balancer.started(chosen, 0.0)
    balancer.leave(newcomer)
    assert must_pick(balancer) == a


# --- power of two choices ---------------------------------------------------------------------


def test_power_of_two_keeps_the_fullest_close_to_the_mean(sim_seed: int) -> None:
    count = 500
    members = peers(count)
    balancer = made("power_of_two", members, seed=sim_seed)
    for _ in range(PICK_COUNT):
        balancer.started(must_pick(balancer), 0.0)
    gap = max(balancer.in_flight(p) for p in members) - PICK_COUNT / count
    rng = random.Random(sim_seed)
    one_choice = max(Counter(rng.randrange(count) for _ in range(PICK_COUNT)).values()) - PICK_COUNT / count
    print(f"the fullest of {count} is {gap:.0f} above the mean; with one choice {one_choice:.0f}")
    assert gap <= math.log(math.log(count)) / math.log(2) + 3
    assert one_choice > 25, "what the second choice is for"


def test_power_of_two_draws_evenly_and_never_the_same_twice() -> None:
    members = peers(10)
    counts = picked(made("power_of_two", members))
    sigma = math.sqrt(PICK_COUNT * 0.1 * 0.9)
    assert all(abs(counts[p] - PICK_COUNT / 10) < 5 * sigma for p in members)
    a, b = members[:2]
    balancer = made("power_of_two", [a, b])
    balancer.started(a, 0.0)
    assert set(picked(balancer, 1000)) == {b}, "of two the less loaded wins every time"


def test_power_of_two_follows_weights_joins_and_leaves() -> None:
    a, b, c = peers(3)
    balancer = made("power_of_two", {a: 4, b: 1})
    for _ in range(1000):
        balancer.started(must_pick(balancer), 0.0)
    assert abs(balancer.in_flight(a) - 800) <= 4
    balancer.join(c, 1)
    for _ in range(500):
        balancer.started(must_pick(balancer), 0.0)
    assert balancer.in_flight(c) >= 200, "a newcomer wins nearly every draw until it has its part"
    balancer.leave(a)
    assert a not in picked(balancer, 100)
