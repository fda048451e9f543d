"""Many keys in one search, and the points of a region."""

from __future__ import annotations

import random

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import prefix_length
from p2pinfer.dht.search import Search, is_in_region, region_bits, region_points
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import KEYS_COUNT_MAX
from tests.dht.peers import contact, nearest_by_force, peer_id

OWN = peer_id(0)
KEYS = [peer_id(index) for index in range(9000, 9080)]


def walk(search: Search, knows: dict[PeerId, list[Contact]]) -> list[tuple[PeerId, tuple[bytes, ...]]]:
    """Answer every question at once, with the true nearest to each key of all that the peer knows."""
    asked = []
    while not search.is_done:
        for each, keys in search.choose_next():
            assert each.peer is not None
            asked.append((each.peer, keys))
            has_progress = search.add(keys, knows[each.peer], each.peer)
            search.answered(keys, each.peer, has_progress=has_progress)
    return asked


def test_in_a_small_swarm_many_keys_cost_hardly_more_than_one() -> None:
    peers = [contact(index) for index in range(1, 21)]
    knows = {each.peer: peers for each in peers if each.peer is not None}
    search = Search(KEYS, OWN, DhtConfig())
    for lookup in search.lookups.values():
        lookup.start(peers[:5])
    asked = walk(search, knows)
    assert search.queries == len(asked) <= 20 * 80 / KEYS_COUNT_MAX * 1.5
    assert all(len(keys) <= KEYS_COUNT_MAX for _, keys in asked)
    for each_key in KEYS:
        about = [each for each, keys in asked if each_key in keys]
        assert len(about) == len(set(about)) == 20, "each is asked once about a key"
    everyone = [each.peer for each in peers if each.peer is not None]
    for key, lookup in search.lookups.items():
        assert [each.peer for each in lookup.nearest] == nearest_by_force(key, everyone, 20)


def test_every_key_of_a_large_network_is_found_with_fewer_questions_than_one_by_one() -> None:
    rng = random.Random(5)
    peers = [contact(index) for index in range(1, 301)]
    knows = {each.peer: rng.sample(peers, 80) for each in peers if each.peer is not None}
    keys = KEYS[:16]
    together = Search(keys, OWN, DhtConfig())
    alone = 0
    for key, lookup in together.lookups.items():
        lookup.start(peers[:20])
        single = Search([key], OWN, DhtConfig())
        single.lookups[key].start(peers[:20])
        walk(single, knows)
        alone += single.queries
        assert [each.peer for each in single.lookups[key].nearest]
    walk(together, knows)
    assert together.queries < 0.8 * alone
    everyone = [each.peer for each in peers if each.peer is not None]
    for key, lookup in together.lookups.items():
        found = [each.peer for each in lookup.nearest]
        assert found[:10] == nearest_by_force(key, everyone, 10)


def test_a_search_for_many_keys_asks_not_too_many_at_once() -> None:
    search = Search(KEYS, OWN, DhtConfig())
    for index, lookup in enumerate(search.lookups.values()):
        lookup.start([contact(index * 20 + other) for other in range(1, 21)])
    first = search.choose_next()
    assert len(first) == 64
    assert search.choose_next() == []
    (asked, keys), (slow, slow_keys) = first[:2]
    assert asked.peer is not None
    assert slow.peer is not None
    search.answered(keys, asked.peer, has_progress=True)
    search.slow(slow_keys, slow.peer)
    search.failed(slow_keys, slow.peer)
    assert len(search.choose_next()) == 2, "each makes room once"


def test_a_failed_peer_is_given_up_for_every_key() -> None:
    search = Search(KEYS[:3], OWN, DhtConfig())
    for lookup in search.lookups.values():
        lookup.start([contact(1)])
    ((each, keys),) = search.choose_next()
    assert (each, set(keys)) == (contact(1), set(KEYS[:3]))
    search.failed(keys, peer_id(1))
    assert search.is_done


def test_the_points_of_a_region_lie_in_its_quarters() -> None:
    rng = random.Random(6)
    for bits in (0, 1, 7, 30):
        points = region_points(KEYS[0], bits, rng)
        assert len(points) == 4
        assert all(prefix_length(point, KEYS[0]) >= bits for point in points)
        quarters = {int.from_bytes(point) >> (254 - bits) & 3 for point in points}
        assert quarters == {0, 1, 2, 3}


def test_a_region_holds_k_to_2_k_peers() -> None:
    rng = random.Random(7)
    for size in (50, 500, 3000):
        bits = region_bits(size, 20)
        peers = [PeerId(rng.randbytes(32)) for _ in range(size)]
        counts = []
        for _ in range(40):
            key = rng.randbytes(32)
            counts.append(sum(is_in_region(peer, key, bits) for peer in peers))
        assert 18 <= sum(counts) / len(counts) <= 42
    assert region_bits(3, 20) == 0
