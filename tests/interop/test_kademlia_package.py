"""Our table and lookup against the package `kademlia`: its heap as the oracle, its server as the rival."""

import json
import random
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from kademlia.node import Node, NodeHeap

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import CandidateHeap, ContactNode
from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.table import RoutingTable
from p2pinfer.ids import Contact, PeerId
from tests.dht.peers import contact, endpoint, peer_id

keys = st.binary(min_size=32, max_size=32)
ID_SIZE_BYTES = 20
"""The stock server's ids have 160 bits; followed by zeros they stand in the same order among our 256."""


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(keys, max_size=50, unique=True), keys, st.integers(1, 25))
def test_the_table_agrees_with_the_packages_heap(ids: list[bytes], key: bytes, count: int) -> None:
    table, heap = RoutingTable(peer_id(0), DhtConfig()), NodeHeap(Node(key), count)
    for index, peer in enumerate(ids):
        table.confirm(Contact(PeerId(peer), endpoint(index)), 0.01, 1.0)
        heap.push(Node(peer))
    assert [found.peer for found in table.nearest(key, count)] == heap.get_ids()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60), st.integers(4, 8))
def test_the_quick_heap_agrees_with_the_packages_own(steps: list[tuple[bool, int]], size: int) -> None:
    key = peer_id(99)
    quick, stock = CandidateHeap(key, size), NodeHeap(Node(key), size)
    for is_push, index in steps:
        node = ContactNode(contact(index))
        if is_push:
            quick.push([node, node])
            stock.push(node)
        else:
            quick.remove([node.id])
            stock.remove([node.id])
        assert [each.id for each in quick] == stock.get_ids()
        assert (node in quick) == (node in stock) == quick.knows(node.id)
        assert len(quick) == len(stock)


def ask_stock(own: bytes, contacts: list[bytes], targets: list[bytes], k: int) -> list[list[bytes]]:
    asked = {
        "own": own.hex(),
        "contacts": [peer.hex() for peer in contacts],
        "targets": [target.hex() for target in targets],
        "k": k,
    }
    script = Path(__file__).with_name("stock_kademlia.py")
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(asked), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [[bytes.fromhex(peer) for peer in found] for found in json.loads(done.stdout)]


def longer(peer: bytes) -> bytes:
    return peer + bytes(32 - len(peer))


def test_ours_agrees_with_a_stock_server_where_that_is_right_and_is_nearer_where_it_is_not() -> None:
    rng = random.Random(20)
    own = rng.randbytes(ID_SIZE_BYTES)
    targets = [rng.randbytes(ID_SIZE_BYTES) for _ in range(30)]
    for count, is_exact in ((18, True), (200, False)):
        contacts = [rng.randbytes(ID_SIZE_BYTES) for _ in range(count)]
        table = RoutingTable(PeerId(longer(own)), DhtConfig())
        for index, peer in enumerate(contacts):
            table.confirm(Contact(PeerId(longer(peer)), endpoint(index)), 0.01, 1.0)
        nearer = 0
        for target, stock in zip(targets, ask_stock(own, contacts, targets, 20), strict=True):
            ours = [found.peer for found in table.nearest(longer(target), 20)]
            theirs = [longer(peer) for peer in stock]
            if is_exact:
                assert ours == theirs
            our_distances = [distance(peer or b"", longer(target)) for peer in ours]
            their_distances = sorted(distance(peer, longer(target)) for peer in theirs)
            assert len(ours) == min(20, count)
            assert all(our <= their for our, their in zip(our_distances, their_distances, strict=False))
            nearer += our_distances != their_distances
        assert is_exact or nearer > 0, "the stock table misses true neighbours: why ours is our own"
