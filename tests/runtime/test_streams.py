"""The stream plane between peers on the loopback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing

from p2pinfer.effects import Message
from p2pinfer.errors import LocalProtocolError, PeerUnreachable
from p2pinfer.ids import Contact, Endpoint, SessionId
from p2pinfer.runtime.streams import StreamsConfig
from p2pinfer.wire.messages.inference import CloseSession, Step, Tensor
from tests.runtime import attacker
from tests.runtime.swarm import Peer, credentials_of, identity_of, running

SESSION = SessionId(bytes(range(16)))
URGENT = CloseSession(session=SESSION)


def step(number: int, size: int = 2304, positions: int = 1) -> Step:
    tensor = Tensor("f4", (positions, size // (4 * positions)), bytes(size))
    return Step(session=SESSION, step=number, base=number, hidden=tensor)


async def test_a_message_reaches_the_other_peer_and_its_answer_comes_back() -> None:
    first, second = Peer("first"), Peer("second", is_echoing=True)
    async with running(first, second):
        assert first.streams.send_nowait(second.contact, step(1))
        assert await second.wait_messages(1) == [step(1)]
        assert await first.wait_messages(1) == [step(1)]
    assert first.connects == [second.id]
    assert second.connects == [first.id]


async def test_what_is_sent_while_dialling_arrives_in_order_over_one_connection() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first, second):
        for number in range(50):
            assert first.streams.send_nowait(second.contact, step(number))
        assert await second.wait_messages(50) == [step(number) for number in range(50)]
        assert first.count("connections opened") == 1


async def test_messages_that_are_held_go_with_the_flush() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first, second):
        await first.streams.connect(second.contact)
        for number in range(5):
            assert first.streams.send_nowait(second.contact, step(number), hold=True)
        assert first.count("waiting_bytes") > 5 * 2304
        first.streams.flush()
        assert first.count("waiting_bytes") == 0
        await second.wait_messages(5)


async def test_an_endpoint_without_a_name_is_dialled_once_and_then_known() -> None:
    first, second = Peer("first"), Peer("second", is_echoing=True)
    async with running(first, second):
        assert await first.streams.connect(second.nameless) == second.contact
        assert first.streams.send_nowait(second.nameless, step(1))
        assert first.streams.send_nowait(second.contact, step(2))
        await first.wait_messages(2)
        assert first.count("connections opened") == 1


async def test_a_peer_that_listens_everywhere_is_called_back_where_it_was_seen() -> None:
    first, second = Peer("first", advertised=Endpoint("0.0.0.0", 4711)), Peer("second")
    seen: list[Contact] = []
    second.events.on_connect = seen.append
    async with running(first, second):
        first.streams.send_nowait(second.contact, step(1))
        await second.wait_messages(1)
    assert seen == [Contact(first.id, Endpoint("127.0.0.1", 4711))]


async def test_dialling_by_name_and_without_at_once_ends_with_one_connection() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first, second):
        for number in range(4):
            first.streams.send_nowait(second.contact if number % 2 else second.nameless, step(number))
        got = await second.wait_messages(4)
        assert sorted(m.step for m in got if isinstance(m, Step)) == [0, 1, 2, 3]
        await _wait_one_connection(first, second)


async def _wait_one_connection(*peers: Peer) -> None:
    """Retired connections end by themselves; every other of the loopback's events does come."""
    with trio.fail_after(5):
        while any(peer.count("connections") != 1 for peer in peers):
            await trio.testing.wait_all_tasks_blocked(0.005)


@pytest.mark.parametrize("round_number", range(5))
async def test_two_peers_that_dial_each_other_at_once_settle_on_one_connection(round_number: int) -> None:
    first, second = Peer(f"left {round_number}"), Peer(f"right {round_number}")
    async with running(first, second):
        for number in range(20):
            assert first.streams.send_nowait(second.contact, step(number))
            assert second.streams.send_nowait(first.contact, step(number))
        for peer in (first, second):
            got = await peer.wait_messages(20)
            assert sorted(m.step for m in got if isinstance(m, Step)) == list(range(20))
        await _wait_one_connection(first, second)
        assert len(first.connects) == len(second.connects) == 1
        assert not first.disconnects
        assert not second.disconnects


async def test_nobody_there_is_told_at_once_and_again_at_the_next_try() -> None:
    first = Peer("first")
    async with attacker.listening() as (_, endpoint):
        nobody = Contact(identity_of("nobody").peer_id, endpoint)
    async with running(first):
        with pytest.raises(PeerUnreachable, match="cannot be reached"):
            await first.streams.connect(nobody)
        assert first.disconnects == [nobody]
        assert first.streams.send_nowait(nobody, step(1))
        await first.wait_disconnects(2)
        assert first.count("dial: PeerUnreachable") == 2


async def test_a_peer_does_not_dial_itself() -> None:
    first = Peer("first")
    async with running(first):
        assert not first.streams.send_nowait(first.contact, step(1))
        with pytest.raises(LocalProtocolError, match="does not dial itself"):
            await first.streams.connect(first.contact)


async def test_a_killed_peer_is_noticed_promptly_and_can_come_back() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first):
        async with running(second):
            first.streams.send_nowait(second.contact, step(1))
            await second.wait_messages(1)
        assert await first.wait_disconnects(1) == [second.contact]
        again = Peer("second")
        async with running(again):
            first.streams.send_nowait(again.contact, step(2))
            assert await again.wait_messages(1) == [step(2)]


async def test_a_peer_that_restarts_replaces_the_connection_that_it_lost() -> None:
    target = Peer("target")
    async with running(target):
        old, _ = await attacker.dial_as(credentials_of("member"), target.contact.endpoint)
        attacker.write(old, step(1))
        await target.wait_messages(1)
        new, _ = await attacker.dial_as(credentials_of("member"), target.contact.endpoint)
        attacker.write(new, step(2))
        await target.wait_messages(2)
        assert await attacker.messages_of(old) == []
        assert len(target.disconnects) == 1
        assert len(target.connects) == 2
        new.close()
        await target.wait_disconnects(2)


async def test_disconnecting_says_goodbye_and_sending_dials_again() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first, second):
        first.streams.send_nowait(second.contact, step(1))
        await second.wait_messages(1)
        first.streams.disconnect(second.id)
        await second.wait_disconnects(1)
        assert second.count("ended: goodbye") == 1
        first.streams.send_nowait(second.contact, step(2))
        await second.wait_messages(2)


async def test_closing_gets_out_what_is_queued_and_says_goodbye() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(second):
        async with trio.open_nursery() as nursery:
            await nursery.start(first.streams.run, first.sockets.listeners)
            await first.streams.connect(second.contact)
            for number in range(20):
                first.streams.send_nowait(second.contact, step(number, 1 << 16, positions=8))
            await first.streams.aclose()
        first.sockets.close()
        await second.wait_messages(20)
        await second.wait_disconnects(1)
        assert second.count("ended: goodbye") == 1
        assert not first.streams.send_nowait(second.contact, step(1))


async def test_a_slow_receiver_makes_the_sender_wait_and_refuses_what_does_not_wait() -> None:
    config = replace(StreamsConfig.for_tests(), outbox_size_bytes_max=1 << 18)
    first, second = Peer("first", config=config), Peer("second")
    gate, taken = trio.Event(), 0

    async def take_slowly(contact: Contact, messages: Sequence[Message]) -> None:
        nonlocal taken
        await gate.wait()
        taken += len(messages)

    second.events.on_messages = take_slowly
    large = step(1, 1 << 20, positions=8)
    async with running(first, second):
        await first.streams.connect(second.contact)
        sent = 0
        while True:
            with trio.move_on_after(0.05) as scope:
                await first.streams.send(second.contact, large)
            if scope.cancelled_caught:
                break
            sent += 1
        assert sent < 64, "the sockets of both sides and one outbox hold some megabytes, not more"
        assert not first.streams.send_nowait(second.contact, large)
        assert first.count("dropped: no room") == 1
        assert first.streams.send_nowait(second.contact, URGENT), "control messages have a reserve"
        gate.set()
        await first.streams.send(second.contact, large)
        with trio.fail_after(5):
            while taken < sent + 2:
                await trio.testing.wait_all_tasks_blocked(0.005)


async def test_a_small_message_overtakes_large_ones_that_wait() -> None:
    first, second = Peer("first"), Peer("second")
    async with running(first, second):
        await first.streams.connect(second.contact)
        for number in range(8):
            first.streams.send_nowait(second.contact, step(number, 1 << 20, positions=8))
        first.streams.send_nowait(second.contact, URGENT)
        got = await second.wait_messages(9)
    assert got.index(URGENT) < 8
    assert [m.step for m in got if isinstance(m, Step)] == list(range(8))


async def test_a_bug_in_the_receiver_ends_the_peer_loudly() -> None:
    first, second = Peer("first"), Peer("second")

    async def fail(contact: Contact, messages: Sequence[Message]) -> None:
        raise ZeroDivisionError

    second.events.on_messages = fail
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with running(first, second):
            first.streams.send_nowait(second.contact, step(1))
            await trio.sleep_forever()


@pytest.mark.parametrize("round_number", range(2))
async def test_a_whole_swarm_that_dials_at_once_settles_and_nobody_seems_to_have_gone(
    round_number: int,
) -> None:
    """By name and by address in turn, so that up to four connections of each pair exist for a moment."""
    peers = [Peer(f"{round_number} {index}") for index in range(5)]
    async with running(*peers):
        for number in range(6):
            for sender in peers:
                for other in peers:
                    if other is not sender:
                        to = other.contact if (number + round_number) % 2 else other.nameless
                        assert sender.streams.send_nowait(to, step(number))
        with trio.fail_after(5):
            for peer in peers:
                assert len(await peer.wait_messages(6 * 4)) == 6 * 4
            while any(peer.count("connections") != 4 for peer in peers):
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert [len(peer.connects) for peer in peers] == [4] * 5
        assert [peer.disconnects for peer in peers] == [[]] * 5
