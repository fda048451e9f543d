"""Counting by whole buckets gives what comparing everything gives."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.ids import Contact, PeerId
from tests.dht.peers import contact, endpoint, nearest_by_force, peer_id

OWN = peer_id(0)


def crowd(rng: random.Random, count: int) -> dict[PeerId, Contact]:
    """Peers at all distances, so that also the deep buckets have some."""
    found = {}
    for index in range(count):
        away = rng.getrandbits(256) >> rng.choice([0, 0, 1, 2, 3, 5, 8, 100, 240])
        peer = PeerId(((int.from_bytes(OWN, "big") ^ (away or 1)) % (1 << 256)).to_bytes(32, "big"))
        found[peer] = Contact(peer, endpoint(index))
    return found


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.integers(0, 1 << 32), st.integers(0, 60), st.integers(1, 30))
def test_counts_and_nearest_agree_with_a_dumb_twin(seed: int, count: int, k: int) -> None:
    rng = random.Random(seed)
    peers = crowd(rng, count)
    known = Neighbours(OWN, 100)
    assert all(known.add(each) for each in peers.values())
    for peer in rng.sample(sorted(peers), count // 4):
        assert known.remove(peer)
        del peers[peer]
    assert len(known) == len(peers)
    for _ in range(5):
        key = rng.choice([rng.randbytes(32), OWN, *map(bytes, peers)])
        own_distance = distance(OWN, key)
        nearer = [peer for peer in peers if distance(peer, key) < own_distance]
        assert known.nearer_count(key) == len(nearer)
        assert [each.peer for each in known.nearest(key, k)] == nearest_by_force(key, peers, k)
        but = set(rng.sample(sorted(peers), len(peers) // 2))
        is_ours = not known.distance(key) & known.bits_taken(but)
        assert is_ours == all(peer in but for peer in nearer)
    for prefix in range(12):
        deeper = [peer for peer in peers if known.prefix(peer) > prefix]
        assert known.deeper_count(prefix) == len(deeper)
        in_it = {peer for peer in peers if known.prefix(peer) == prefix}
        assert known.has_others(prefix, in_it) is False
        assert known.has_others(prefix, ()) == bool(in_it)


def test_a_contact_has_one_place_and_buckets_are_bounded() -> None:
    known = Neighbours(OWN, 3)
    assert known.add(contact(1))
    assert not known.add(contact(1))
    moved = contact(1, "10.9.9.9")
    assert not known.add(moved)
    assert known[peer_id(1)] == moved
    assert known[peer_id(2)] is None
    assert not known.add(contact(0)), "this peer itself"
    assert not known.add(Contact(None, endpoint(1)))
    assert not known.remove(peer_id(2))
    for index in range(1, 200):
        known.add(contact(index))
    assert max(len(bucket) for bucket in known._buckets.values()) == 3
    for index in range(1, 200):
        known.remove(peer_id(index))
    assert len(known) == 0
    assert not known._buckets
