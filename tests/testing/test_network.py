"""Each fault of the network really acts, and only where it should."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.effects import Message, Send
from p2pinfer.errors import ConfigError, InternalError
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.testing import Delay, Drop, Host, Latency, Link, Packet, Pass, Trace, World
from p2pinfer.testing.network import DATAGRAM_SIZE_BYTES_MAX, ENVELOPE_SIZE_BYTES
from tests.toy_core import ToyAsk, ToyShot, add_toys, contact

SHOTS_COUNT = 2000


def pair(seed: int = 1, **settings: Any) -> tuple[World, Host, Host]:
    world = World(seed, **settings)
    one, two = add_toys(world, 2, gossips=False)
    return world, one, two


def shoot(host: Host, count: int = SHOTS_COUNT, to: int = 2, padding: bytes = b"") -> None:
    host.call(lambda core, now: core.shoot(contact(to), range(count), padding))


def test_a_message_arrives_after_the_latency_with_its_senders_contact() -> None:
    world, one, two = pair(latency=Latency(0.25))
    shoot(one, 1)
    world.run_until(0.249)
    assert two.delivered == []
    world.run_until(0.25)
    assert two.log.delivered == [(0.25, 0)]


@pytest.mark.parametrize("shape", ["uniform", "exponential", "lognormal"])
def test_jitter_adds_to_the_base_and_overtakes(shape: Any) -> None:
    world, one, two = pair(latency=Latency(0.1, 0.05, shape))
    shoot(one)
    world.run_for(10)
    assert len(two.delivered) == SHOTS_COUNT
    assert min(at for at, _ in two.log.delivered) >= 0.1
    assert two.delivered != sorted(two.core.heard)


def test_loss_takes_about_its_share() -> None:
    world, one, two = pair()
    world.network.link = Link(loss=0.2)
    shoot(one)
    world.run_for(1)
    assert 0.17 < 1 - len(two.delivered) / SHOTS_COUNT < 0.23
    assert world.network.counts["loss"] == SHOTS_COUNT - len(two.delivered)


def test_duplication_repeats_about_its_share() -> None:
    world, one, two = pair()
    world.network.link = Link(duplicate=0.1)
    shoot(one)
    world.run_for(1)
    assert 0.08 < len(two.delivered) / SHOTS_COUNT - 1 < 0.12
    assert set(two.core.heard) == set(range(SHOTS_COUNT))


def test_reordering_holds_some_back_and_loses_none() -> None:
    world, one, two = pair(latency=Latency(0.01))
    shoot(one, 100)
    world.run_for(1)
    assert two.core.heard == sorted(two.core.heard), "a fixed latency alone keeps the order"
    world.network.link = Link(latency=Latency(0.01), reorder=0.1, reorder_s=0.5)
    two.core.heard.clear()
    shoot(one, 100)
    world.run_for(1)
    assert two.core.heard != sorted(two.core.heard)
    assert set(two.core.heard) == set(range(100))


def test_bandwidth_spaces_packets_by_their_size() -> None:
    def size(message: Message) -> int:
        return 1000

    world, one, two = pair(latency=Latency(0.1), size=size)
    world.network.set_link("h1", "h2", Link(latency=Latency(0.1), bandwidth_bytes_s=10_000))
    shoot(one, 3)
    two.call(lambda core, now: core.shoot(contact(1), [7]))
    world.run_for(1)
    assert [at for at, _ in two.log.delivered] == pytest.approx([0.2, 0.3, 0.4])
    assert [at for at, _ in one.log.delivered] == [0.1], "the other direction has its own link"


def test_a_datagram_above_the_mtu_is_dropped_and_counted() -> None:
    world, one, two = pair(wire=True)
    shoot(one, 1, padding=bytes(DATAGRAM_SIZE_BYTES_MAX - ENVELOPE_SIZE_BYTES))
    shoot(one, 1, padding=bytes(DATAGRAM_SIZE_BYTES_MAX - ENVELOPE_SIZE_BYTES - 20))
    world.run_for(1)
    assert world.network.counts["oversize"] == 1
    assert len(two.delivered) == 1


def test_a_partition_cuts_both_ways_until_it_heals() -> None:
    world, one, two = pair()
    cut = world.network.partition("h1", "h2")
    again = world.network.partition(["h1"], ["h2"])
    shoot(one, 1)
    shoot(two, 1, to=1)
    world.run_for(1)
    assert one.delivered == two.delivered == []
    world.network.heal(cut)
    world.network.heal(cut)
    shoot(one, 1)
    world.run_for(1)
    assert two.delivered == [], "the second partition is still in force"
    world.network.heal(again)
    shoot(one, 1)
    world.run_for(1)
    assert two.delivered == [0]


def test_a_one_way_partition_is_one_way() -> None:
    world, one, two = pair()
    world.network.partition("h1", "h2", one_way=True)
    shoot(one, 1)
    shoot(two, 1, to=1)
    world.run_for(1)
    assert two.delivered == []
    assert one.delivered == [0]


def test_isolate_cuts_one_host_from_all_others_and_heal_ends_all() -> None:
    world = World(1)
    one, two, three = add_toys(world, 3, gossips=False)
    world.network.isolate("h3")
    shoot(one, 1, to=3)
    shoot(one, 1, to=2)
    world.run_for(1)
    assert (two.delivered, three.delivered) == ([0], [])
    world.network.heal()
    shoot(one, 1, to=3)
    world.run_for(1)
    assert three.delivered == [0]


def test_the_first_rule_with_an_opinion_decides() -> None:
    world, one, two = pair(latency=Latency(0.1))
    seen: list[Packet] = []

    def odd(packet: Packet) -> Pass | Drop | None:
        seen.append(packet)
        assert isinstance(packet.message, ToyShot)
        return Drop() if packet.message.number % 2 else Pass() if packet.message.number == 0 else None

    first = world.network.add_rule(odd)
    second = world.network.add_rule(lambda packet: Delay(0.5))
    shoot(one, 4)
    world.run_for(1)
    assert two.log.delivered == [(0.1, 0), (0.6, 2)]
    assert world.network.counts["rule"] == 2
    assert {(packet.source, packet.target) for packet in seen} == {("h1", "h2")}
    world.network.remove_rule(first)
    world.network.remove_rule(second)
    world.network.remove_rule(second)
    shoot(one, 4)
    world.run_for(1)
    assert two.delivered[2:] == [0, 1, 2, 3]


def test_pass_ends_the_rules_but_no_partition() -> None:
    world, one, two = pair()
    world.network.add_rule(lambda packet: Pass())
    world.network.partition("h1", "h2")
    shoot(one, 1)
    world.run_for(1)
    assert two.delivered == []


def test_nobody_and_the_wrong_peer_get_nothing() -> None:
    world, one, two = pair()
    wrong = Contact(contact(9).peer, contact(2).endpoint)
    one.call(lambda core, now: core.shoot(contact(9), [1]))
    one.call(lambda core, now: core.shoot(wrong, [1]))
    one.call(lambda core, now: core.shoot(Contact(None, contact(2).endpoint), [2]))
    world.run_for(1)
    assert two.delivered == [2], "without a peer id whoever listens there gets it"
    assert world.network.counts["nobody"] == 2


def test_a_host_hears_itself() -> None:
    world, one, _ = pair()
    world.network.link = Link(loss=1.0)
    shoot(one, 1, to=1)
    one.call(lambda core, now: core.ask(contact(1), [5]))
    world.run_for(1)
    assert one.delivered == [0, 5, 5]


def test_wire_mode_carries_equal_messages_that_are_not_the_same_objects() -> None:
    world, one, two = pair(wire=True)
    sent = ToyAsk(3, b"abc")
    got: list[Message] = []
    world.network.add_rule(lambda packet: got.append(packet.message))
    shoot(one, 1)
    one.call(lambda core, now: core.ask(contact(2), [3], b"abc"))
    world.run_for(1)
    assert two.delivered == [0, 3]
    assert sent in got


def test_adding_a_host_leaves_the_luck_of_others_alone() -> None:
    def heard(hosts_count: int) -> list[int]:
        world = World(5)
        one, two, *_ = add_toys(world, hosts_count, gossips=False)
        world.network.link = Link(loss=0.5)
        shoot(one, 200)
        world.run_for(1)
        return list(two.core.heard)

    assert heard(2) == heard(5)


def test_what_is_wrong_is_refused_by_name() -> None:
    world, one, _ = pair()
    with pytest.raises(ValueError, match="loss is a share"):
        Link(loss=1.5)
    with pytest.raises(ValueError, match="bandwidth_bytes_s"):
        Link(bandwidth_bytes_s=0)
    with pytest.raises(ValueError, match="not negative"):
        Latency(-1.0)
    with pytest.raises(ConfigError, match="already"):
        world.add("h1", lambda disk, rng, now: one.core, contact(7))
    with pytest.raises(ConfigError, match="is h1's"):
        world.add("h7", lambda disk, rng, now: one.core, contact(1))
    with pytest.raises(ConfigError, match="peer id"):
        world.add("h7", lambda disk, rng, now: one.core, Contact(None, Endpoint("10.0.0.7", 1)))
    world.run_for(1)
    with pytest.raises(ConfigError, match="too late"):
        world.at(0.5, one.crash)


def test_a_part_of_a_message_is_never_sent_alone() -> None:
    class Part(Message):
        TAG = 999

    _, one, _ = pair(trace=Trace())
    with pytest.raises(InternalError, match="Part is a part"):
        one.call(lambda core, now: [Send(contact(2), Part())])
