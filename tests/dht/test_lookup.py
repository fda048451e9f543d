import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig, QueryConfig
from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.lookup import Lookup
from p2pinfer.ids import Contact, Endpoint, PeerId
from tests.dht.peers import contact, endpoint, nearest_by_force, peer_id

OWN = peer_id(0)
KEY = peer_id(4242)


def run(lookup: Lookup, knows: dict[PeerId, list[Contact]], dead: set[PeerId], rng: random.Random) -> int:
    """Answer questions in random order until the lookup is done; return how many were asked."""
    waiting: list[Contact] = lookup.choose_next()
    asked = len(waiting)
    while not lookup.is_done:
        assert waiting, "a lookup that is not done waits for somebody"
        each = waiting.pop(rng.randrange(len(waiting)))
        assert each.peer is not None
        if each.peer in dead:
            lookup.failed(each.peer)
        else:
            lookup.answered(each.peer, has_progress=lookup.add(knows.get(each.peer, []), each.peer))
        fresh = lookup.choose_next()
        asked += len(fresh)
        waiting += fresh
    return asked


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 10), st.integers(0, 1000))
def test_a_lookup_finds_the_true_nearest_of_the_living(count: int, k_less: int, seed: int) -> None:
    rng = random.Random(seed)
    config = DhtConfig(k=12 - k_less) if k_less < 10 else DhtConfig(k=3)
    peers = [contact(index) for index in range(1, count + 1)]
    dead = {each.peer for each in rng.sample(peers, count // 5) if each.peer is not None}
    knows = {each.peer: rng.sample(peers, count) for each in peers if each.peer is not None}
    lookup = Lookup(KEY, OWN, config)
    lookup.start(peers)
    asked = run(lookup, knows, dead, rng)
    alive = [each.peer for each in peers if each.peer is not None and each.peer not in dead]
    assert [found.peer for found in lookup.nearest] == nearest_by_force(KEY, alive, config.k)
    assert asked == lookup.queries <= count


def test_at_most_alpha_are_in_flight_until_it_stalls() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(index) for index in range(1, 41)])
    first = lookup.choose_next()
    assert len(first) == 3
    assert lookup.choose_next() == []
    for each in first:
        assert each.peer is not None
        lookup.answered(each.peer, has_progress=False)
    assert len(lookup.choose_next()) == 17, "nobody nearer: all of the k nearest are asked"


def test_answers_need_not_come_in_rounds() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(index) for index in range(1, 41)])
    one, _, _ = lookup.choose_next()
    assert one.peer is not None
    lookup.answered(one.peer, has_progress=True)
    assert len(lookup.choose_next()) == 1


def test_a_slow_peer_gives_its_place_away_and_still_counts() -> None:
    config = DhtConfig(k=4)
    lookup = Lookup(KEY, OWN, config)
    lookup.start([contact(index) for index in range(1, 5)])
    slow = lookup.choose_next()[0]
    assert slow.peer is not None
    lookup.slow(slow.peer)
    (last,) = lookup.choose_next()
    for index in range(1, 5):
        if peer_id(index) != slow.peer:
            lookup.answered(peer_id(index), has_progress=False)
    assert last in lookup.nearest
    ends_without_it = lookup.is_done
    assert not ends_without_it, "the slow one is among the k nearest"
    lookup.answered(slow.peer, has_progress=False)
    assert lookup.is_done
    assert lookup.nearest[0] == slow


def test_a_failed_peer_is_never_taken_back() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(1), contact(2)])
    lookup.choose_next()
    lookup.failed(peer_id(1))
    assert not lookup.add([contact(1)], peer_id(2))
    assert lookup.choose_next() == []
    lookup.answered(peer_id(2), has_progress=False)
    assert lookup.is_done
    assert lookup.nearest == (contact(2),)


def test_the_same_contact_many_times_in_one_answer_counts_once() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(1), contact(2), contact(1), contact(1)])
    assert sorted(lookup.choose_next(), key=str) == sorted([contact(1), contact(2)], key=str)


def test_own_id_and_unknown_peers_are_not_candidates() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(0), Contact(None, endpoint(1))])
    assert lookup.choose_next() == []
    assert lookup.is_done


def test_only_those_asked_are_listened_to() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([contact(1)])
    assert not lookup.add([contact(2)], peer_id(1)), "not asked yet"
    assert lookup.choose_next() == [contact(1)]
    assert not lookup.add([contact(2)], peer_id(3)), "never asked"
    assert lookup.add([contact(2)], peer_id(1))


def test_at_most_two_ids_at_one_endpoint_are_asked() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig())
    lookup.start([Contact(peer_id(index), Endpoint("10.9.9.9", 1)) for index in range(1, 30)])
    assert len(lookup.choose_next()) == 2


def test_liars_cannot_make_a_lookup_ask_or_remember_without_bound() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig(query=QueryConfig(lookup_queries_max=50)))
    lookup.start([contact(1)])
    index = 2
    waiting = lookup.choose_next()
    while not lookup.is_done:
        each = waiting.pop()
        assert each.peer is not None
        told = [contact(index + offset) for offset in range(30)]
        index += 30
        lookup.answered(each.peer, has_progress=lookup.add(told, each.peer))
        waiting += lookup.choose_next()
        assert all(len(path.candidates.heap) <= 80 for path in lookup._paths)
    assert lookup.queries <= 50


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 80), st.integers(2, 5), st.integers(0, 1000))
def test_disjoint_paths_find_the_true_nearest_and_ask_nobody_twice(
    count: int, disjoint: int, seed: int
) -> None:
    """S/Kademlia 4.4: a peer is on one path only."""
    rng = random.Random(seed)
    config = DhtConfig(k=8, disjoint=disjoint)
    peers = [contact(index) for index in range(1, count + 1)]
    knows = {each.peer: rng.sample(peers, count) for each in peers if each.peer is not None}
    lookup = Lookup(KEY, OWN, config)
    lookup.start(rng.sample(peers, min(count, 8 * disjoint)))
    assert run(lookup, knows, set(), rng) <= count
    everyone = [each.peer for each in peers if each.peer is not None]
    assert [found.peer for found in lookup.nearest] == nearest_by_force(KEY, everyone, config.k)


def test_a_liar_leads_one_of_the_paths_astray_and_not_the_others() -> None:
    """S/Kademlia 4.4, against a liar that tells of its accomplices alone, nearer than anybody honest."""
    order = [PeerId(peer) for peer in nearest_by_force(KEY, [peer_id(i) for i in range(1, 200)], 199)]
    honest, seeds = order[30:60], order[100:116]
    accomplices = [Contact(peer, endpoint(500 + place)) for place, peer in enumerate(order[:30])]
    liar = seeds[0]
    for disjoint, expected in ((1, False), (4, True)):
        lookup = Lookup(KEY, OWN, DhtConfig(disjoint=disjoint))
        lookup.start([Contact(peer, endpoint(700 + place)) for place, peer in enumerate(seeds)])
        found_honest = False
        while not lookup.is_done:
            for each in lookup.choose_next():
                assert each.peer is not None
                is_lie = each.peer == liar or each in accomplices
                told = accomplices if is_lie else [Contact(peer, endpoint(900)) for peer in honest[:2]]
                found_honest |= each.peer in honest[:2]
                lookup.answered(each.peer, has_progress=lookup.add(told, each.peer))
        assert found_honest is expected, f"{disjoint} paths"


def answer_all(lookup: Lookup) -> list[Contact]:
    """Let everybody asked answer without telling of anybody, until the lookup is done."""
    asked: list[Contact] = []
    while not lookup.is_done:
        for each in lookup.choose_next():
            assert each.peer is not None
            lookup.answered(each.peer, has_progress=False)
            asked.append(each)
    return asked


def test_a_lookup_whose_nearest_stand_too_far_apart_begins_again_and_keeps_what_it_found() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig(k=4))
    far, near = ([contact(index) for index in range(start, start + 8)] for start in (1, 100))
    lookup.start(far)
    answer_all(lookup)
    widest = max(distance(each.peer, KEY) for each in lookup.nearest if each.peer is not None)
    assert lookup.is_sparse(widest / 2.6)
    assert not lookup.is_sparse(widest / 2.4)
    before = set(lookup.nearest)
    assert lookup.restart([*far, *near])
    assert not before & set(answer_all(lookup))
    both = [each.peer for each in (*far, *near) if each.peer is not None]
    assert [each.peer for each in lookup.nearest] == nearest_by_force(KEY, both, 4)
    assert not lookup.restart([*before]), "all of them were asked"


def test_who_was_not_asked_for_want_of_questions_is_not_found() -> None:
    lookup = Lookup(KEY, OWN, DhtConfig(k=4, query=QueryConfig(lookup_queries_max=2)))
    lookup.start([contact(index) for index in range(1, 5)])
    asked = answer_all(lookup)
    assert len(asked) == 2
    assert set(lookup.nearest) == set(asked)
