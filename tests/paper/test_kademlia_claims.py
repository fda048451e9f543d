"""The claims of Kademlia (Maymounkov and Mazieres, 2002) and S/Kademlia that the DHT relies on."""

import math

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import distance, prefix_length
from p2pinfer.dht.lookup import Lookup
from p2pinfer.dht.table import RoutingTable
from p2pinfer.ids import Contact, PeerId
from tests.dht.peers import contact, nearest_by_force, peer_id, public_key


def full_network(count: int) -> dict[PeerId, RoutingTable]:
    """Tables as they are when every peer has heard every other: the paper's steady state."""
    config = DhtConfig()
    tables = {}
    contacts = [contact(index) for index in range(count)]
    for index in range(count):
        table = RoutingTable(peer_id(index), config)
        for shift in range(1, count):
            table.confirm(contacts[(index + shift) % count], 0.01, 1.0)
        tables[peer_id(index)] = table
    return tables


NETWORK = full_network(120)
PEERS = list(NETWORK)


def lookup(start: PeerId, key: bytes, *, told_count: int = 20) -> tuple[Lookup, int]:
    """Run one lookup in lock-step waves; return it and how many waves it took."""
    search = Lookup(key, start, DhtConfig())
    search.start(NETWORK[start].seeds(key, 20, 2.0))
    waves = 0
    while not search.is_done:
        asked = search.choose_next()
        waves += bool(asked)
        for each in asked:
            assert each.peer is not None
            told = NETWORK[each.peer].nearest(key, told_count, but=start)
            search.answered(each.peer, has_progress=search.add(told, each.peer))
    return search, waves


def test_section_2_1_xor_is_unidirectional() -> None:
    """For a point and a distance there is exactly one other point: lookups for a key converge on one path."""
    here, far = peer_id(1), distance(peer_id(1), peer_id(2))
    other = (int.from_bytes(here) ^ far).to_bytes(32)
    assert other == peer_id(2)


def test_section_2_2_the_table_knows_its_whole_neighbourhood_and_little_of_the_rest() -> None:
    """Buckets near the own id hold everybody, far ones hold k at most: k log n contacts in all."""
    for own in PEERS[:10]:
        table = NETWORK[own]
        others = [peer for peer in PEERS if peer != own]
        near = nearest_by_force(own, others, 10)
        assert all(PeerId(peer) in table for peer in near)
        assert len(table) <= 20 * (math.log2(len(PEERS)) + 1)
        deepest = max(prefix_length(own, peer) for peer in others)
        for prefix in range(deepest + 1):
            members = sum(prefix_length(own, peer) == prefix for peer in others)
            in_bucket = sum(
                prefix_length(own, each.peer or b"") == prefix for each in table.seeds(own, 200, 2.0)
            )
            assert in_bucket == members, "the waiting ones count as well"


def test_section_2_3_a_lookup_returns_the_k_nearest_from_wherever_it_starts() -> None:
    for index in range(12):
        key, start = public_key(500 + index), PEERS[index * 9]
        found, _ = lookup(start, key)
        true = nearest_by_force(key, [peer for peer in PEERS if peer != start], 20)
        assert [each.peer for each in found.nearest] == true


def test_section_3_the_cost_of_a_lookup_is_k_and_logarithmic() -> None:
    """k answers are needed to know that the k nearest are found; few more are asked on the way."""
    costs = [lookup(PEERS[index * 3], public_key(700 + index))[0].queries for index in range(20)]
    assert sum(costs) / len(costs) <= 20 + math.log2(len(PEERS))


def test_without_rounds_a_lookup_takes_fewer_waves_than_k_over_alpha() -> None:
    """Rounds of alpha would be 7 for 20 answers; asking all k once nobody is nearer takes fewer."""
    waves = [lookup(PEERS[index * 3], public_key(900 + index))[1] for index in range(20)]
    assert sum(waves) / len(waves) < 20 / 3


def test_section_2_4_old_contacts_stay() -> None:
    """The longer a peer has been up the longer it will stay (figure 1): newcomers never push it out."""
    own = peer_id(0)
    table = RoutingTable(own, DhtConfig())
    far = [index for index in range(1, 200) if prefix_length(own, peer_id(index)) == 0]
    for index in far:
        table.confirm(contact(index), 0.01, float(index))
    kept = [each.peer for each in table._buckets[0].nodes.values()]
    assert kept == [peer_id(index) for index in far[:20]]


def test_s_kademlia_4_1_a_place_in_the_key_space_is_a_hash_of_a_key() -> None:
    """A peer cannot choose where it stands: its id is the hash of the key that it must be able to use."""
    for index in range(20):
        assert Contact(peer_id(index), contact(index).endpoint).peer == PeerId.from_public_key(
            public_key(index)
        )
    assert peer_id(1) != PeerId(public_key(1))
