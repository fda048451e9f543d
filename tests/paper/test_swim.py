"""The claims of SWIM (Das, Gupta, Motivala, DSN 2002) and Lifeguard (Dadgar et al., 2017) that we rely on."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from p2pinfer.effects import Plane
from p2pinfer.swim.config import SwimConfig, retransmit_limit
from p2pinfer.swim.dissemination import Dissemination
from p2pinfer.swim.member import Member, MemberState
from p2pinfer.swim.members import MemberTable
from p2pinfer.swim.suspicion import suspicion_timeout_s
from p2pinfer.testing import Packet, World
from p2pinfer.wire.messages.swim import Ack, Ping
from tests.swim.swarm import Swarm, peer_id, record


def table_of(count: int, seed: int) -> MemberTable:
    table = MemberTable(count, random.Random(seed))
    for index in range(count):
        table.add(peer_id(index), Member(record(index), MemberState.ALIVE, 0.0))
    return table


@pytest.mark.parametrize("count", [2, 7, 20])
def test_two_probes_of_a_member_are_at_most_2n_minus_1_periods_apart(count: int) -> None:
    # SWIM 4.3, "time bounded completeness".
    table = table_of(count, seed=count)
    last = {peer_id(index): 0 for index in range(count)}
    gaps = []
    for period in range(1, 100 * count):
        probed = table.next_to_probe()
        assert probed is not None
        gaps.append(period - last[probed])
        last[probed] = period
    assert max(gaps) <= 2 * count - 1
    assert max(gaps) > count, "the order is shuffled, not fixed"


def test_a_failure_is_first_detected_after_e_over_e_minus_1_periods_whatever_the_size() -> None:
    # SWIM 3.1: the expected time to first detection is e / (e - 1) = 1.58 periods, independent of n.
    for count in (16, 40):
        tables = [table_of(count, seed) for seed in range(count)]
        rng = random.Random(7)
        waits = []
        for _ in range(250):
            for table in tables:  # a failure strikes at any point of everybody's pass
                for _ in range(rng.randrange(3)):
                    table.next_to_probe()
            failed, period = peer_id(rng.randrange(count)), 1
            while failed not in [table.next_to_probe() for table in tables]:
                period += 1
            waits.append(period)
        assert sum(waits) / len(waits) == pytest.approx(math.e / (math.e - 1), rel=0.12), f"n={count}"


@pytest.mark.parametrize("count", [16, 64, 200])
def test_news_reaches_everybody_in_logarithmically_many_rounds(count: int) -> None:
    # SWIM 4.1: after lambda * log(n) rounds the expected number of uninformed members falls below one.
    rng = random.Random(count)
    limit = retransmit_limit(SwimConfig.lan().retransmit_factor, count)
    misses = 0
    for _ in range(5):
        queues = [Dissemination() for _ in range(count)]
        queues[0].add_record(peer_id(0), record(0))
        informed, rounds = {0}, 0
        while any(queues) and rounds < 100:
            rounds += 1
            for sender in sorted(informed):
                for target in rng.sample(range(count), 3):
                    if queues[sender].pack(1000, limit, None, first=()).records and target not in informed:
                        informed.add(target)
                        queues[target].add_record(peer_id(0), record(0))
        misses += count - len(informed)
        assert rounds <= 3 * math.log2(count)
    assert misses == 0


@pytest.mark.parametrize("count", [5, 25])
def test_the_load_of_a_member_does_not_grow_with_the_swarm(count: int) -> None:
    # SWIM 3.2: one Ping and one Ack for each member and period, in a swarm in which nothing happens.
    world = World(count)
    swarm = Swarm(world, count, SwimConfig.lan())
    swarm.settle()
    world.run_for(10.0)
    seen: list[Packet] = []

    def see(packet: Packet) -> None:
        if packet.plane is Plane.DATAGRAM:
            seen.append(packet)

    world.network.add_rule(see)
    world.run_for(30.0)
    assert len(seen) / 30 / count == pytest.approx(2.0, rel=0.05)
    assert {type(packet.message) for packet in seen} == {Ping, Ack}


def test_the_first_confirmation_takes_off_most() -> None:
    # Lifeguard IV-B: the timeout falls with the logarithm of the confirmations, to the minimum at K of them.
    timeouts = [suspicion_timeout_s(count, 4, 5.0, 30.0) for count in range(6)]
    drops = [earlier - later for earlier, later in itertools.pairwise(timeouts)]
    assert timeouts[0] == 30.0
    assert timeouts[4] == timeouts[5] == 5.0
    assert drops[:4] == sorted(drops[:4], reverse=True)
