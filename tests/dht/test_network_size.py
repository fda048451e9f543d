"""The size of the network, from how near to a key its nearest peers stand."""

from __future__ import annotations

import random
import statistics

import pytest

from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.network_size import NetworkSize
from p2pinfer.ids import Contact, PeerId
from tests.dht.peers import endpoint, nearest_by_force

K = 20


def network(count: int, rng: random.Random) -> list[PeerId]:
    return [PeerId(rng.randbytes(32)) for _ in range(count)]


def nearest(peers: list[PeerId], key: bytes, k: int = K) -> list[Contact]:
    return [Contact(PeerId(peer), endpoint(1)) for peer in nearest_by_force(key, peers, k)]


def learnt(peers: list[PeerId], rng: random.Random, *, lookups: int = 15, known: int = 0) -> NetworkSize:
    size = NetworkSize(K, lambda: known)
    for _ in range(lookups):
        key = rng.randbytes(32)
        size.found(key, nearest(peers, key))
    return size


@pytest.mark.parametrize("count", [40, 300, 2000])
def test_the_estimate_is_near_the_truth(count: int) -> None:
    errors = []
    for seed in range(10):
        rng = random.Random(seed)
        estimate = learnt(network(count, rng), rng).estimate
        assert estimate is not None
        errors.append(estimate / count)
    assert 0.85 < statistics.median(errors) < 1.15
    assert all(0.6 < error < 1.6 for error in errors)


def test_few_lookups_say_nothing_and_a_small_network_is_counted() -> None:
    rng = random.Random(1)
    few = learnt(network(300, rng), rng, lookups=4)
    assert few.estimate is None
    assert few.distance_of(K) is None
    assert few.likelihood_among_nearest(0) == 0.0
    assert few.likelihood_so_near([], bytes(32)) == 1.0
    assert learnt(network(7, rng), rng).estimate == 8.0


def test_it_is_never_less_than_the_peers_that_are_known() -> None:
    rng = random.Random(1)
    assert learnt(network(30, rng), rng, known=500).estimate == 501.0


def test_lookups_that_liars_led_astray_count_for_nothing_while_they_are_few() -> None:
    rng = random.Random(2)
    peers = network(1000, rng)
    size = learnt(peers, rng, lookups=9)
    liars = peers[::5]
    for _ in range(6):
        key = rng.randbytes(32)
        size.found(key, nearest(liars, key))
    estimate = size.estimate
    assert estimate is not None
    assert 600 < estimate < 1500


def test_one_key_asked_for_again_and_again_is_one_voice() -> None:
    rng = random.Random(3)
    peers = network(1000, rng)
    size = learnt(peers, rng)
    before = size.estimate
    key = rng.randbytes(32)
    ground = [Contact(PeerId(key[:28] + rng.randbytes(4)), endpoint(1)) for _ in range(K)]
    for _ in range(50):
        size.found(key, ground)
    after = size.estimate
    assert before is not None
    assert after is not None
    assert 0.7 < after / before < 1.4


def test_who_is_among_the_nearest_is_guessed_rightly_nine_times_in_ten() -> None:
    hits = rightly = 0
    for seed in range(20):
        rng = random.Random(seed)
        peers = network(500, rng)
        size = learnt(peers, rng)
        key = rng.randbytes(32)
        order = nearest_by_force(key, peers, 100)
        for rank, peer in enumerate(order):
            if size.likelihood_among_nearest(distance(peer, key)) >= 0.9:
                hits += 1
                rightly += rank < K
    assert hits > 20 * 8, "it guesses for a good part of the nearest"
    assert rightly / hits > 0.9


def test_a_key_is_surrounded_when_its_nearest_stand_closer_than_chance_allows() -> None:
    rng = random.Random(4)
    peers = network(1000, rng)
    size = learnt(peers, rng)
    likelihoods = []
    for _ in range(50):
        key = rng.randbytes(32)
        likelihoods.append(size.likelihood_so_near(nearest(peers, key), key))
    assert min(likelihoods) > 1e-7
    key = rng.randbytes(32)
    start = int.from_bytes(key) >> 240
    sybils = [PeerId((start << 240 | rng.getrandbits(240)).to_bytes(32)) for _ in range(40)]
    assert size.likelihood_so_near(nearest(peers + sybils, key), key) < 1e-9


def test_while_a_network_grows_its_keys_are_not_taken_for_surrounded() -> None:
    rng = random.Random(5)
    peers = network(4000, rng)
    size = learnt(peers[:400], rng, lookups=14)
    key = rng.randbytes(32)
    size.found(key, nearest(peers, key))  # the first lookup since it grew
    estimate = size.estimate
    assert estimate is not None
    assert estimate < 600, "the median is of the past"
    for _ in range(20):
        key = rng.randbytes(32)
        assert size.likelihood_so_near(nearest(peers, key), key) > 1e-7
