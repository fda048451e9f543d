"""Balancers that measure: whom they prefer, by how much, and how they learn that it changed."""

from __future__ import annotations

from collections import Counter

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import BalancingConfig
from p2pinfer.inference.measuring import ResourceAware, Resources
from tests.inference.balancing_tools import PICK_COUNT, closed_loop, made, must_pick, peers, picked

both_latencies = pytest.mark.parametrize("name", ["least_latency", "peak_latency"])
GIB = 1 << 30


@both_latencies
def test_sessions_under_way_are_in_proportion_to_speed(name: str) -> None:
    a, b, c = peers(3)
    latencies = {a: 0.010, b: 0.020, c: 0.040}
    balancer = made(name, [a, b, c])
    for number, _ in enumerate(closed_loop(balancer, lambda p, now: latencies[p], concurrency=70)):
        if number > 1000:
            held = [balancer.in_flight(p) for p in (a, b, c)]
            assert all(abs(x - due) <= 2 for x, due in zip(held, (40, 20, 10), strict=True)), held


@both_latencies
def test_one_session_at_a_time_goes_to_the_fastest_and_the_slow_are_tried_again(name: str) -> None:
    a, b = peers(2)
    latencies = {a: 0.010, b: 0.100}
    balancer = made(name, [a, b])
    runs = list(closed_loop(balancer, lambda p, now: latencies[p] if now < 300 else 0.010))
    counts = Counter(peer for peer, now in runs if now < 300)
    assert 5 <= counts[b] < 0.01 * counts.total(), "tried now and then"
    late = Counter(peer for peer, now in runs if now > 400)
    assert late[b] > 0.2 * late.total(), "a peer that became fast gets its part again"


@both_latencies
def test_who_fails_at_once_does_not_look_fast(name: str) -> None:
    a, b, c = peers(3)
    balancer = made(name, [a, b, c])
    runs = closed_loop(balancer, lambda p, now: None if p == a else 0.05, concurrency=4, pick_count=20_000)
    counts = Counter(peer for peer, _ in runs)
    assert counts[a] < 0.01 * counts.total()


def test_a_peak_is_believed_at_once_and_an_average_only_with_time() -> None:
    a, b = peers(2)
    for name, expected in (("peak_latency", b), ("least_latency", a)):
        balancer = made(name, [a, b])
        for number in range(100):
            for peer, latency_s in ((a, 0.010), (b, 0.030)):
                balancer.started(peer, number * 0.1)
                balancer.finished(peer, number * 0.1, latency_s)
        assert must_pick(balancer, now=10.0) == a
        balancer.started(a, 10.0)
        balancer.finished(a, 10.1, 0.5)
        assert must_pick(balancer, now=10.1) == expected


@both_latencies
def test_a_newcomer_is_tried_with_one_session_before_it_gets_more(name: str) -> None:
    a, b = peers(2)
    balancer = made(name, [a])
    balancer.started(a, 0.0)
    balancer.finished(a, 0.0, 0.01)
    balancer.join(b)
    assert must_pick(balancer) == b
    balancer.started(b, 0.0)
    assert {must_pick(balancer) for _ in range(10)} == {a}
    balancer.leave(b)
    balancer.finished(b, 1.0, 0.001)
    balancer.join(b)
    assert must_pick(balancer, now=1.0) == b, "what was measured left with it"


# --- resources --------------------------------------------------------------------------------


def resource_aware(**reports: Resources) -> tuple[ResourceAware, dict[str, PeerId]]:
    names = dict(zip(reports, peers(len(reports)), strict=True))
    balancer = made("resource_aware", list(names.values()))
    assert isinstance(balancer, ResourceAware)
    for name, resources in reports.items():
        balancer.report(names[name], resources, 0.0)
    return balancer, names


def test_sessions_go_where_speed_idle_time_and_memory_are() -> None:
    balancer, names = resource_aware(
        gpu=Resources(memory_free_bytes=8 * GIB, load=0.2, speed=10),
        cpu=Resources(memory_free_bytes=8 * GIB, load=0.2, speed=5),
        busy=Resources(memory_free_bytes=8 * GIB, load=0.8, speed=10),
        tight=Resources(memory_free_bytes=GIB // 2, load=0.2, speed=10),
    )
    counts = picked(balancer)
    parts = {"gpu": 0.8, "cpu": 0.4, "busy": 0.2, "tight": 0.4}
    for name, part in parts.items():
        assert abs(counts[names[name]] - PICK_COUNT * part / 1.8) <= 3, name


def test_who_has_no_room_gets_nothing_while_another_has() -> None:
    balancer, names = resource_aware(
        full=Resources(memory_free_bytes=0, load=0.0), other=Resources(memory_free_bytes=GIB, load=0.9)
    )
    assert picked(balancer, 1000) == {names["other"]: 1000}
    balancer.report(names["other"], Resources(memory_free_bytes=0, load=0.0), 1.0)
    assert set(picked(balancer, 1000).values()) == {500}, "where nobody has room somebody must refuse"


def test_old_reports_and_silence_count_as_little() -> None:
    balancer, names = resource_aware(
        told=Resources(memory_free_bytes=GIB, load=0.0), silent=Resources(memory_free_bytes=GIB, load=0.0)
    )
    assert must_pick(balancer, now=1.0) != must_pick(balancer, now=1.0)
    balancer.report(names["told"], Resources(memory_free_bytes=GIB, load=0.0), 31.0)
    counts = Counter(must_pick(balancer, now=31.0) for _ in range(2100))
    assert abs(counts[names["silent"]] - 100) <= 2, "share_min of 0.05 beside 1"
    newcomer = peers(3)[2]
    balancer.join(newcomer)
    counts = Counter(must_pick(balancer, now=31.0) for _ in range(2200))
    assert abs(counts[newcomer] - 100) <= 2


def test_impossible_resources_are_refused() -> None:
    for wrong in ({"load": -0.1}, {"speed": 0.0}, {"load": float("nan")}):
        with pytest.raises(ConfigError, match="out of range"):
            Resources(**{"memory_free_bytes": 1, "load": 0.0, **wrong})  # type: ignore[arg-type]


# --- adaptive ---------------------------------------------------------------------------------


def test_weights_follow_the_latency() -> None:
    a, b, c = peers(3)
    latencies = {a: 0.010, b: 0.020, c: 0.040}
    balancer = made("adaptive", [a, b, c])
    counts = Counter(p for p, _ in closed_loop(balancer, lambda p, now: latencies[p], concurrency=8))
    for peer, part in ((a, 4 / 7), (b, 2 / 7), (c, 1 / 7)):
        assert counts[peer] == pytest.approx(PICK_COUNT * part, rel=0.01)


def test_weights_follow_errors_and_come_back() -> None:
    a, b = peers(2)
    failed = Counter[PeerId]()

    def every_second_fails(peer: PeerId, now: float) -> float | None:
        if peer == b and now < 200:
            failed[b] += 1
            return None if failed[b] % 2 else 0.02
        return 0.02

    balancer = made("adaptive", [a, b])
    runs = list(closed_loop(balancer, every_second_fails, concurrency=4))
    early = Counter(p for p, now in runs if 10 < now < 200)
    assert early[b] == pytest.approx(early.total() / 5, rel=0.1), (
        "half the successes, a quarter of the weight"
    )
    late = Counter(p for p, now in runs if now > 210)
    assert late[b] == pytest.approx(late.total() / 2, rel=0.01)


def test_who_only_fails_keeps_the_least_share() -> None:
    a, b = peers(2)
    balancer = made("adaptive", [a, b], config=BalancingConfig(share_min=0.02))
    runs = closed_loop(balancer, lambda p, now: None if p == b else 0.02)
    counts = Counter(p for p, _ in runs)
    assert counts[b] == pytest.approx(PICK_COUNT * 0.02 / 1.02, rel=0.05)


def test_one_failure_alone_does_not_take_the_place() -> None:
    a, b = peers(2)
    balancer = made("adaptive", [a, b])
    balancer.started(b, 0.0)
    balancer.finished(b, 0.0, None)
    assert picked(balancer, 1000)[b] > 400


def test_rare_news_counts_more_than_what_was_long_ago_and_leaving_forgets_all() -> None:
    a, b = peers(2)
    balancer = made("adaptive", [a, b])
    for now in range(50):
        for peer, latency_s in ((a, 0.01), (b, 0.1)):
            balancer.started(peer, float(now))
            balancer.finished(peer, float(now), latency_s)
    assert picked(balancer, 1100)[b] == pytest.approx(100, abs=2)
    balancer.started(b, 80.0)
    balancer.finished(b, 80.0, 0.01)
    assert picked(balancer, 1000)[b] > 390
    for number in range(50):
        balancer.started(b, 80.0)
        balancer.finished(b, 80.0, 0.5 if number % 2 else None)
    assert picked(balancer, 1000)[b] < 60
    balancer.leave(b)
    balancer.join(b)
    assert picked(balancer, 1000)[b] == pytest.approx(500, abs=1)
