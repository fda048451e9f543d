"""The containers against dumb twins: a list that is sorted each time, and two lists in order of arrival."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.contacts import Bucket, CandidateHeap, ContactNode, TableContact
from p2pinfer.dht.keyspace import prefix_length
from tests.dht.peers import contact, nearest_by_force, peer_id

KEY = peer_id(4242)
OWN = peer_id(0)
K = 3
IN_BUCKET = [index for index in range(1, 400) if prefix_length(OWN, peer_id(index)) == 1][:24]
"""Contacts that share a bucket."""

heap_steps = st.lists(st.tuples(st.sampled_from(["push", "take", "remove", "popleft"]), st.integers(0, 40)))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(heap_steps, st.integers(1, 5))
def test_candidates_are_the_nearest_of_all_that_came_and_did_not_go(
    steps: list[tuple[str, int]], size: int
) -> None:
    heap, twin = CandidateHeap(KEY, size), list[bytes]()
    for step, index in steps:
        nodes = [ContactNode(contact(each % 41)) for each in range(index, index + 3)]
        before = nearest_by_force(KEY, twin, size)
        if step in ("push", "take"):
            came = [*twin, *(node.id for node in nodes if node.id not in twin)]
            twin = nearest_by_force(KEY, came, 4 * size)  # beyond that the farthest go
            if step == "push":
                heap.push(nodes)
            else:
                assert heap.take(nodes) == bool(set(nearest_by_force(KEY, twin, size)) - set(before))
        elif step == "remove":
            gone = {node.id for node in nodes}
            twin = [peer for peer in twin if peer not in gone]
            heap.remove(gone)
        else:
            node = heap.popleft()
            assert (node.id if node else None) == (before[0] if before else None)
            twin = [peer for peer in twin if node is None or peer != node.id]
        assert [node.id for node in heap] == nearest_by_force(KEY, twin, size)
        assert len(heap) == min(len(twin), size)
        assert [heap.knows(peer_id(each)) for each in range(41)] == [
            peer_id(each) in twin for each in range(41)
        ]


bucket_steps = st.lists(st.tuples(st.booleans(), st.sampled_from(IN_BUCKET)), max_size=80)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(bucket_steps)
def test_a_bucket_holds_its_own_in_order_and_lets_others_wait(steps: list[tuple[bool, int]]) -> None:
    bucket = Bucket(OWN, 1, K, 0.0)
    holds, waits = list[bytes](), list[bytes]()
    for is_added, index in steps:
        node = TableContact(contact(index))
        if is_added:
            has_place = node.id in holds or len(holds) < K
            assert bucket.add_node(node) == has_place
            came_to = holds if has_place else waits
            for each in (holds, waits):
                if node.id in each:
                    each.remove(node.id)
            came_to.append(node.id)
            del waits[: max(0, len(waits) - 5 * K)]  # who waited longest goes
        else:
            bucket.remove_node(node)
            waits = [peer for peer in waits if peer != node.id]
            if node.id in holds:
                holds.remove(node.id)
                if waits:
                    holds.append(waits.pop())  # nobody answered, so the one heard last has the better claim
        assert list(bucket.nodes) == holds
        assert list(bucket.replacement_nodes) == waits
        assert [each.id for each in bucket.everyone()] == [*holds, *waits]
