"""Events and queries in swarms of real SWIM cores under faults, over many seeds."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest

from p2pinfer.effects import Effect
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.events import BURST_COUNT, LIFETIME_S
from p2pinfer.swim.news import EventHeard, QueryAcked, QueryAnswered, QueryAsked, QueryEnded
from p2pinfer.testing import Host, Link, World, run_seeds
from p2pinfer.wire.messages.events import QueryFilter
from tests.swim.swarm import FAST, Swarm, holding, peer_id, run_until

HERE = "tests.simulation.test_events"
EPIDEMIC_S = 2.0
"""Ten gossip rounds: far more than log3 of any size here."""


def say(host: Host, name: str, payload: bytes = b"") -> None:
    host.call(lambda core, now: core.broadcast(name, payload, now))


def heard(host: Host, sender: int | None = None) -> list[str]:
    events = [item for _, item in host.log.notices if isinstance(item, EventHeard)]
    return [each.name for each in events if sender is None or each.sender == peer_id(sender)]


def answering(swarm: Swarm) -> None:
    """Let the application of every host answer with its own name, a moment after it was asked."""

    def answer(host: Host, item: object) -> None:
        if isinstance(item, QueryAsked):
            command = partial(_answer, item, host.name.encode())
            swarm.world.at(swarm.world.now + 0.01, lambda: host.call(command))

    for host in swarm.hosts:
        host.log.on_notify = answer


def _answer(asked: QueryAsked, payload: bytes, core: SwimCore, now: float) -> list[Effect]:
    return core.answer(asked.query, payload, now)


def told(host: Host, kind: type) -> list[Any]:
    return [item for _, item in host.log.notices if isinstance(item, kind)]


@pytest.mark.parametrize("count", [2, 9, 50])
def test_an_event_reaches_everybody_once_in_a_few_rounds(count: int) -> None:
    swarm = Swarm(World(count), count)
    swarm.settle()
    said = swarm.world.now
    say(swarm.hosts[1], "deploy", b"v2")
    assert run_until(swarm.world, lambda: all(heard(each) == ["deploy"] for each in swarm.hosts), EPIDEMIC_S)
    swarm.world.run_for(30.0)
    assert len(swarm.news_of(EventHeard, since=said)) == count


def lossy(world: World) -> None:
    world.network.link = Link(loss=0.1, duplicate=0.1, reorder=0.3)
    swarm = Swarm(world, 12)
    swarm.settle(60.0)
    rng = world.rng("talk")
    said: Counter[int] = Counter()
    for _ in range(60):
        sender = rng.randrange(12)
        say(swarm.hosts[sender], str(said[sender]), bytes(rng.randrange(300)))
        said[sender] += 1
        world.run_for(rng.uniform(0, 0.5))
    world.run_for(10.0)
    for host in swarm.hosts:
        for sender in range(12):
            assert heard(host, sender) == [str(number) for number in range(said[sender])]


def test_every_event_reaches_everybody_in_its_senders_order_over_a_bad_network() -> None:
    run_seeds(lossy, range(10), f"{HERE}:lossy")


def parted(world: World) -> None:
    """What is said across a partition is heard when it heals, in order, although no gossip is left of it."""
    swarm = Swarm(world, 6)
    swarm.settle()
    world.run_for(LIFETIME_S)  # or they are newcomers, who want no history
    cut = world.network.partition(swarm.names(range(2)), swarm.names(range(2, 6)))
    for number in range(5):
        say(swarm.hosts[0], str(number))
        say(swarm.hosts[4], str(number))
        world.run_for(1.0)
    world.run_for(7.0)
    assert heard(swarm.hosts[1], 4) == heard(swarm.hosts[5], 0) == []
    world.network.heal(cut)
    world.run_for(15.0)
    for host in swarm.hosts:
        assert heard(host, 0) == heard(host, 4) == ["0", "1", "2", "3", "4"]


def test_what_was_said_across_a_partition_of_seconds_is_heard_after_it() -> None:
    run_seeds(parted, range(10), f"{HERE}:parted")


def burst(world: World) -> None:
    swarm = Swarm(world, 8)
    swarm.settle()
    for number in range(BURST_COUNT):
        say(swarm.hosts[3], str(number), bytes(400))
    world.run_for(20.0)
    for host in swarm.hosts:
        assert heard(host) == [str(number) for number in range(BURST_COUNT)]


def test_a_whole_burst_of_large_events_comes_through_in_order() -> None:
    run_seeds(burst, range(5), f"{HERE}:burst")


def caused(world: World) -> None:
    """p1 answers p0's event with one of its own: sorted by Lamport time, causes stand before effects."""
    world.network.link = Link(reorder=0.3)
    swarm = Swarm(world, 9)

    def react(host: Host, item: object) -> None:
        if isinstance(item, EventHeard) and item.name == "cause":
            world.at(world.now, lambda: say(host, "effect"))

    swarm.hosts[1].log.on_notify = react
    swarm.settle()
    say(swarm.hosts[0], "cause")
    assert run_until(world, lambda: all(len(heard(each)) == 2 for each in swarm.hosts), 2 * EPIDEMIC_S)
    for host in swarm.hosts:
        events = sorted(told(host, EventHeard), key=lambda each: each.time_us)
        assert [each.name for each in events] == ["cause", "effect"]


def test_an_effect_is_never_dated_before_its_cause() -> None:
    run_seeds(caused, range(10), f"{HERE}:caused")


def test_a_newcomer_hears_no_history_and_a_restarted_sender_is_heard() -> None:
    world = World(5)
    swarm = Swarm(world, 6)
    swarm.settle()
    say(swarm.hosts[2], "before")
    world.run_for(5.0)
    newcomer = swarm.add(6)
    swarm.settle()
    world.run_for(5.0)
    assert heard(newcomer) == []
    swarm.hosts[2].crash()
    swarm.hosts[2].restart(keep_disk=False)
    swarm.settle()
    say(swarm.hosts[2], "after")
    assert run_until(world, lambda: all("after" in heard(each) for each in swarm.hosts), EPIDEMIC_S)
    assert heard(newcomer) == ["after"]
    assert heard(swarm.hosts[5]) == ["before", "after"]


def test_memberlist_299_events_are_heard_in_time_while_a_swarm_is_unquiet() -> None:
    world = World(7)
    swarm = Swarm(world, 40)
    for index, host in enumerate(swarm.hosts):  # renewed records of all, and forty members to tell
        host.call(partial(_hold, index))
    world.run_for(0.3)
    say(swarm.hosts[0], "amidst")
    assert run_until(world, lambda: all("amidst" in heard(each) for each in swarm.hosts), 2 * EPIDEMIC_S)
    swarm.settle()


def _hold(index: int, core: SwimCore, now: float) -> list[Effect]:
    return core.set_holding(holding(index % 20, index % 20 + 1), now)


def test_a_flood_reaches_nobody_beyond_its_quota_and_kills_nobody() -> None:
    world = World(8)
    swarm = Swarm(world, 8)
    swarm.settle()
    flooder = swarm.hosts[3].core
    flooder._bulletin._allowance._rate_per_s = flooder._bulletin._allowance._burst = 1e9  # a liar's own code
    for number in range(400):
        say(swarm.hosts[3], f"flood {number}", bytes(200))
        if number % 100 == 0:
            say(swarm.hosts[5], f"honest {number}")
        world.run_for(0.01)
    world.run_for(10.0)
    for index, host in enumerate(swarm.hosts):
        assert len(heard(host, 5)) == 4
        if index != 3:
            assert len(heard(host, 3)) < 200
    assert swarm.all_see(range(8))


def asked(world: World) -> None:
    world.network.link = Link(duplicate=0.1, reorder=0.2)
    swarm = Swarm(world, 20)
    answering(swarm)
    swarm.settle()
    began = world.now
    swarm.hosts[0].call(lambda core, now: core.ask("who", b"", now, wants_ack=True))
    assert run_until(world, lambda: bool(told(swarm.hosts[0], QueryEnded)), 3.2 * 2)
    assert world.now - began < 2.0, "it ends with the last answer and not at its deadline"
    answers = {each.peer: each.payload for each in told(swarm.hosts[0], QueryAnswered)}
    assert answers == {peer_id(index): b"p%d" % index for index in range(1, 20)}
    assert len(told(swarm.hosts[0], QueryAnswered)) == 19
    acked = {each.peer for each in told(swarm.hosts[0], QueryAcked)}
    assert 10 < len(acked) == len(told(swarm.hosts[0], QueryAcked)), "some answers overtake them"
    assert acked <= set(answers)
    assert told(swarm.hosts[0], QueryEnded)[0].silent == ()


def test_a_query_is_answered_by_all_and_ends_with_the_last() -> None:
    run_seeds(asked, range(10), f"{HERE}:asked")


def test_a_query_reaches_those_it_is_for_and_names_the_silent() -> None:
    world = World(9)
    swarm = Swarm(world, 10)
    answering(swarm)
    for index in (2, 4, 6):
        swarm.hosts[index].call(partial(_hold, index))
    swarm.settle()
    world.run_for(2.0)
    swarm.hosts[6].pause()
    to = QueryFilter(model="smollm2:135m")
    swarm.hosts[1].call(lambda core, now: core.ask("load", b"", now, to=to))
    world.run_for(7.0)
    assert {each.peer for each in told(swarm.hosts[1], QueryAnswered)} == {peer_id(2), peer_id(4)}
    assert [each.silent for each in told(swarm.hosts[1], QueryEnded)] == [(peer_id(6),)]
    assert told(swarm.hosts[3], QueryAsked) == []


def test_everything_fits_the_wire() -> None:
    world = World(10, wire=True)
    world.network.envelope_size_bytes = 400
    swarm = Swarm(world, 10)
    answering(swarm)
    swarm.settle()
    for host in swarm.hosts:
        say(host, "e" * 64, bytes(512))
    swarm.hosts[0].call(lambda core, now: core.ask("q" * 64, bytes(512), now))
    world.run_for(10.0)
    assert all(len(heard(host)) == 10 for host in swarm.hosts)
    assert len(told(swarm.hosts[0], QueryAnswered)) == 9
    assert world.network.counts["oversize"] == 0
    assert FAST.datagram_body_bytes_max == 1000
