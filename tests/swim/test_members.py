"""The table of members and the order of probing."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.swim.member import Member, MemberState
from p2pinfer.swim.members import MemberTable
from tests.swim.swarm import peer_id, record


def table_of(count: int, *, seed: int = 0, count_max: int = 100) -> MemberTable:
    table = MemberTable(count_max, random.Random(seed))
    for index in range(count):
        table.add(peer_id(index), Member(record(index), MemberState.ALIVE, float(index)))
    return table


def test_a_pass_probes_everybody_once() -> None:
    table = table_of(7)
    for _ in range(3):
        assert {table.next_to_probe() for _ in range(7)} == {peer_id(index) for index in range(7)}


def test_each_pass_has_an_order_of_its_own() -> None:
    """SWIM, section 4.3: the list is rearranged after each traversal, so no two stay in step for ever."""
    table = table_of(10)
    passes = [tuple(table.next_to_probe() for _ in range(10)) for _ in range(5)]
    assert len(set(passes)) == 5


def test_a_newcomer_makes_nobody_be_probed_twice_in_a_pass() -> None:
    for seed in range(20):
        table = table_of(10, seed=seed)
        for _ in range(10):
            table.next_to_probe()
        probed = [table.next_to_probe() for _ in range(5)]
        for index in range(10, 16):
            table.add(peer_id(index), Member(record(index), MemberState.ALIVE, 0.0))
        probed += [table.next_to_probe() for _ in range(5)]
        assert len(set(probed)) == len(probed), f"seed {seed}"


def test_a_departure_makes_nobody_be_left_out_of_a_pass() -> None:
    for seed in range(20):
        table = table_of(10, seed=seed)
        probed = [table.next_to_probe() for _ in range(5)]
        gone = probed[0]
        assert gone is not None
        member = table.get(gone)
        assert member is not None
        table.set_state(gone, member, MemberState.DEAD, 1.0)
        probed += [table.next_to_probe() for _ in range(5)]
        assert len(set(probed)) == 10, f"seed {seed}"


def test_an_empty_table_has_nobody_to_probe_or_choose() -> None:
    table = table_of(0)
    assert table.next_to_probe() is None
    assert table.choose_active(3) == []
    assert table.choose_dead(3) == []


def test_the_choice_is_without_repeats_and_without_the_excluded() -> None:
    table = table_of(4)
    for _ in range(20):
        chosen = table.choose_active(3, but=peer_id(2))
        assert len(set(chosen)) == 3
        assert peer_id(2) not in chosen
    assert len(table.choose_active(9, but=peer_id(2))) == 3


def test_only_the_dead_are_chosen_among_the_gone() -> None:
    table = table_of(3)
    for index, state in enumerate((MemberState.DEAD, MemberState.LEFT)):
        member = table.get(peer_id(index))
        assert member is not None
        table.set_state(peer_id(index), member, state, 5.0)
    assert table.choose_dead(5) == [peer_id(0)]
    assert table.active_count == 1


def test_a_full_table_gives_up_the_longest_gone_and_else_refuses() -> None:
    table = table_of(3, count_max=3)
    newcomer = Member(record(9), MemberState.ALIVE, 9.0)
    assert not table.add(peer_id(9), newcomer)
    for index, at in ((1, 20.0), (2, 10.0)):
        member = table.get(peer_id(index))
        assert member is not None
        table.set_state(peer_id(index), member, MemberState.DEAD, at)
    assert table.add(peer_id(9), newcomer)
    assert table.get(peer_id(2)) is None
    assert table.get(peer_id(1)) is not None
    assert len(table) == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["alive", "dead", "probe"])), max_size=60))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_the_ring_holds_the_active_whatever_happens(steps: list[tuple[int, str]]) -> None:
    table = MemberTable(100, random.Random(1))
    active: set[int] = set()
    for index, step in steps:
        peer = peer_id(index)
        if step == "probe":
            probed = table.next_to_probe()
            assert (probed is None) == (not active)
            continue
        state = MemberState.ALIVE if step == "alive" else MemberState.DEAD
        member = table.get(peer)
        if member is None:
            table.add(peer, Member(record(index), state, 0.0))
        else:
            table.set_state(peer, member, state, 0.0)
        (active.add if step == "alive" else active.discard)(index)
    assert table.active_count == len(active)
    assert set(table.choose_active(50)) == {peer_id(index) for index in active}
