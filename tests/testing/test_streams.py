"""Streams keep their order, break when they should, and say so to whoever is left."""

from __future__ import annotations

from functools import partial

import pytest

from p2pinfer.effects import Effect
from p2pinfer.ids import Contact
from p2pinfer.testing import Drop, Host, Latency, Link, World
from p2pinfer.testing.streams import TIMEOUT_S
from tests.toy_core import ToyAsk, ToyCore, add_toys, contact

LATENCY_S = 0.1
HANDSHAKE_S = 4 * LATENCY_S


def pair(seed: int = 1, latency: Latency | None = None) -> tuple[World, Host, Host]:
    world = World(seed, latency=latency or Latency(LATENCY_S))
    one, two = add_toys(world, 2, gossips=False)
    return world, one, two


def ask(host: Host, *numbers: int, to: int = 2) -> None:
    host.call(lambda core, now: core.ask(contact(to), numbers))


def asks(core: ToyCore, now: float, to: Contact) -> list[Effect]:
    return core.ask(to, [1, 2])


def connected_pair(latency: Latency | None = None) -> tuple[World, Host, Host]:
    world, one, two = pair(latency=latency)
    ask(one, 0)
    world.run_for(2)
    assert one.core.heard == [0]
    return world, one, two


def test_the_first_message_waits_for_the_handshake_and_the_next_does_not() -> None:
    world, one, two = pair()
    ask(one, 1)
    world.run_until(2)
    ask(one, 2)
    world.run_for(1)
    assert [at for at, _ in two.log.delivered] == pytest.approx([HANDSHAKE_S + LATENCY_S, 2 + LATENCY_S])
    assert one.core.heard == [1, 2], "answers come back over the same connection"


def test_order_is_kept_under_jitter_and_loss_and_nothing_is_lost() -> None:
    world, one, two = pair(latency=Latency(0.01, 0.2, "exponential"))
    world.network.link = Link(latency=Latency(0.01, 0.2, "exponential"), loss=0.2, duplicate=0.5, reorder=0.5)
    for number in range(100):
        world.at(number * 0.01, partial(ask, one, number))
    world.run_for(60)
    assert two.delivered == list(range(100))
    assert one.core.heard == list(range(100))


def test_a_crash_is_heard_one_latency_later_and_loses_what_was_in_flight() -> None:
    world, one, two = connected_pair()
    ask(one, 1)
    world.run_for(LATENCY_S / 2)
    two.crash()
    world.run_for(LATENCY_S * 0.99)
    assert one.core.lost == []
    world.run_for(LATENCY_S * 0.02)
    assert one.core.lost == [contact(2)]
    two.restart()
    world.run_for(5)
    assert two.delivered == [0], "1 was in flight"
    assert len(one.core.lost) == 1, "one connection broke, so there was one word of it"
    ask(one, 2)
    world.run_for(1)
    assert two.delivered == [0, 2], "it was dialled again"


def test_dialling_a_host_that_is_down_is_refused_after_a_round_trip() -> None:
    world, one, two = pair()
    two.crash()
    ask(one, 1, 2)
    world.run_until(2 * LATENCY_S - 0.001)
    assert one.core.lost == []
    world.run_for(0.002)
    assert one.core.lost == [contact(2)]
    world.run_for(30)
    assert len(one.core.lost) == 1


def test_dialling_nobody_or_somebody_else_fails_with_the_contact_that_was_dialled() -> None:
    world, one, two = pair()
    wrong = Contact(contact(9).peer, contact(2).endpoint)
    nowhere = Contact(None, contact(8).endpoint)
    for to in (wrong, nowhere):
        one.call(partial(asks, to=to))
    world.run_for(1)
    assert one.core.lost == [wrong, nowhere]
    assert two.delivered == []
    one.call(lambda core, now: core.ask(Contact(None, contact(2).endpoint), [3]))
    world.run_for(1)
    assert one.core.heard == [3]


def test_a_short_partition_only_delays() -> None:
    world, one, two = connected_pair()
    cut = world.network.partition("h1", "h2")
    ask(one, 1)
    ask(one, 2)
    world.run_for(TIMEOUT_S / 2)
    assert two.delivered == [0]
    world.network.heal(cut)
    world.run_for(1)
    assert two.delivered == [0, 1, 2]
    assert one.core.lost == two.core.lost == []


def test_a_long_partition_ends_the_connection_at_the_end_that_sends() -> None:
    world, one, two = connected_pair()
    world.network.partition("h1", "h2")
    world.run_for(30)
    assert one.core.lost == [], "an idle connection notices nothing"
    ask(one, 1)
    world.run_for(TIMEOUT_S - 0.01)
    assert one.core.lost == []
    world.run_for(0.02)
    assert one.core.lost == [contact(2)]
    assert two.core.lost == [], "the other end sent nothing"
    world.network.heal()
    ask(two, 7, to=1)
    world.run_for(2 * LATENCY_S + 0.01)
    assert two.core.lost == [contact(1)], "it sent into its half and was answered with a reset"


def test_a_new_dial_supersedes_the_half_that_the_other_end_still_holds() -> None:
    world, one, two = connected_pair()
    cut = world.network.partition("h1", "h2")
    ask(one, 1)
    world.run_for(TIMEOUT_S + 1)
    world.network.heal(cut)
    ask(one, 2)
    world.run_for(2)
    assert one.core.heard == [0, 2]
    assert two.core.lost == [contact(1)]


def test_without_acknowledgements_the_sender_gives_up_although_all_arrives() -> None:
    world, one, two = connected_pair()
    world.network.partition("h2", "h1", one_way=True)
    ask(one, 1)
    world.run_for(TIMEOUT_S + 1)
    assert two.delivered == [0, 1]
    assert one.core.lost == [contact(2)]


def test_a_dial_into_a_partition_gives_up_or_goes_through_when_it_heals() -> None:
    for heals in (True, False):
        world, one, two = pair()
        cut = world.network.partition("h1", "h2")
        ask(one, 1)
        if heals:
            world.at(2.0, partial(world.network.heal, cut))
        world.run_for(TIMEOUT_S + 1)
        assert (two.delivered, one.core.lost) == (([1], []) if heals else ([], [contact(2)]))


def test_what_waits_for_a_dial_leaves_by_its_priority() -> None:
    world, one, two = pair()
    one.call(lambda core, now: core.ask(contact(2), [1, 2], padding=b"large"))
    ask(one, 3, 4)
    world.run_for(2)
    assert two.delivered == [3, 4, 1, 2]


def test_a_failed_dial_is_not_told_to_the_next_life() -> None:
    world, one, _ = pair()
    ask(one, 1, to=8)
    one.restart()
    world.run_for(1)
    assert one.core.lost == []


def test_two_dials_that_cross_become_one_connection_without_loss() -> None:
    world, one, two = pair()
    ask(one, 1, 2)
    ask(two, 3, 4, to=1)
    world.run_for(5)
    assert (one.core.heard, two.core.heard) == ([1, 2], [3, 4])
    assert one.core.lost == two.core.lost == []


def test_disconnect_lets_what_was_sent_arrive_and_tells_the_other_end() -> None:
    world, one, two = connected_pair(Latency(0.05, 0.1))
    ask(one, 1)
    one.call(lambda core, now: core.hang_up(contact(2).peer))
    assert not world.network.streams.connected("h1", "h2")
    world.run_for(1)
    assert two.delivered == [0, 1]
    assert two.core.lost == [contact(1)]
    assert one.core.heard == [0], "the answer to 1 found nobody"
    ask(two, 9, to=1)
    world.run_for(2)
    assert two.core.heard == [9]


def test_a_crash_behind_a_partition_is_found_out_after_it_heals() -> None:
    world, one, two = connected_pair()
    cut = world.network.partition("h1", "h2")
    two.restart()
    world.run_for(1)
    assert one.core.lost == []
    ask(one, 1)
    world.run_for(1)
    world.network.heal(cut)
    world.run_for(1)
    assert one.core.lost == [contact(2)]
    assert two.delivered == [0]


def test_a_paused_end_keeps_its_connection_and_a_dial_to_it_waits() -> None:
    world, one, two = connected_pair()
    two.pause()
    ask(one, 1)
    world.run_for(20)
    assert (one.core.lost, two.delivered) == ([], [0])
    two.resume()
    world.run_for(1)
    assert (one.core.lost, two.delivered) == ([], [0, 1])
    world, one, two = pair()
    two.pause()
    ask(one, 1)
    world.run_for(TIMEOUT_S + 1)
    assert one.core.lost == [contact(2)], "TLS needs the process"


def test_a_rule_that_drops_on_a_stream_stalls_it_in_order() -> None:
    world, one, two = connected_pair()
    handle = world.network.add_rule(
        lambda packet: Drop() if isinstance(packet.message, ToyAsk) and packet.message.number == 2 else None
    )
    ask(one, 1, 2, 3)
    world.run_for(2)
    assert two.delivered == [0, 1]
    world.network.remove_rule(handle)
    world.run_for(2)
    assert two.delivered == [0, 1, 2, 3]
    assert one.core.lost == []
