"""Handing over as several peers do it, and one peer's plan under anything that neighbours may do."""

import random
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.records import record_size_bytes
from p2pinfer.ids import Contact, PeerId
from tests.dht.holder import Holder, K
from tests.dht.peers import contact, nearest_by_force, peer_id, record

STEPS = ("came", "gone", "put", "due", "wait")


def test_with_full_knowledge_every_change_reaches_the_k_nearest_from_one_holder() -> None:
    """A dumb network: all know all at once. After each change each of the k nearest has each record."""
    counts = [churn(seed) for seed in range(20)]
    needed, extra = (sum(each) for each in zip(*counts, strict=True))
    print(f"{needed} needed, {extra} to somebody who had it already")
    assert extra < needed / 4, "as good as nothing is sent to somebody who has it"


def churn(seed: int) -> tuple[int, int]:
    """Let eight members come or go; return how many hand-overs were needed, and how many were not."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    members = {index: Holder(index) for index in range(10)}
    for here in members.values():
        for other in members:
            here.plan.came(contact(other), 0.0)
        here.run(50.0)
    records = [record(0, key=rng.randbytes(32), subkey=b"%d" % n, expires_s=1e5) for n in range(12)]
    has: dict[bytes, set[bytes]] = defaultdict(set)
    for each in records:
        for peer in nearest_by_force(each.key, [here.own for here in members.values()], K):
            here = next(here for here in members.values() if here.own == peer)
            here.put(each, 100.0)
            has[each.key].add(peer)
    now, extra, needed = 100.0, 0, 0
    for step in range(8):
        now += 100.0
        if rng.random() < 0.5:
            index = 100 + step
            joins = Holder(index)
            for other, here in members.items():
                here.plan.came(contact(index), now)
                joins.plan.came(contact(other), now)
            members[index] = joins
        else:
            index = rng.choice(sorted(members))
            dead = members.pop(index)
            for here in members.values():
                here.plan.gone(dead.own, now)
        for here in list(members.values()):
            for other in members:
                here.plan.came(contact(other), now + 45.0)
            for to, handed in here.run(now + 50.0):
                target = next(each for each in members.values() if each.own == to.peer)
                for each in handed:
                    extra += target.own in has[each.key]
                    needed += target.own not in has[each.key]
                    has[each.key].add(target.own)
                    target.put(each, now + 1.0)
        peers = [here.own for here in members.values()]
        for each in records:
            assert set(nearest_by_force(each.key, peers, K)) <= has[each.key], f"step {step}"
    return needed, extra


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 30), st.integers(0, 90)), max_size=120))
def test_whatever_happens_only_contacts_are_sent_to_and_once_and_within_the_budget(
    steps: list[tuple[str, int, int]],
) -> None:
    limits = {"handover_bytes_per_s": 100.0, "handover_burst_bytes": 2000, "handover_waiting_count_max": 40}
    here = Holder(0, **limits)
    now, spent = 0.0, 0
    present: dict[PeerId, Contact] = {}
    gone: Counter[PeerId] = Counter()
    told: Counter[tuple[PeerId, bytes]] = Counter()
    for what, index, number in steps:
        match what:
            case "came":
                here.plan.came(contact(index), now)
                present[peer_id(index)] = contact(index)
            case "gone":
                here.plan.gone(peer_id(index), now)
                gone[peer_id(index)] += present.pop(peer_id(index), None) is not None
            case "put":
                key = bytes([number]) * 32
                each = record(index, key=key, subkey=bytes([index]), expires_s=now + 3000.0)
                here.store.put(each, None, now)
            case "wait":
                now += number / 3
            case _:
                for to, records in here.plan.due(now):
                    assert to.peer is not None
                    assert present[to.peer] == to
                    assert 1 <= len(records) <= 8
                    told.update((to.peer, each.key + each.subkey + each.owner) for each in records)
                    spent += sum(map(record_size_bytes, records))
        assert spent <= 2000 + 100.0 * now + len(steps)
        assert here.plan.waiting_count <= 40
        assert len(here.neighbours) == len(present)
    if now < 3600.0:  # what still waited when somebody went is sent anew when it comes back
        assert all(count <= 1 + gone[peer] for (peer, _), count in told.items())
