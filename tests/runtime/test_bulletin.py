"""Telling and asking as applications do it, over real sockets where two peers are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pinfer.errors import Cancelled, LocalProtocolError, Overloaded
from p2pinfer.ids import PeerId
from p2pinfer.runtime.bulletin import WAITING_COUNT_MAX, Answers, Subscription
from p2pinfer.runtime.peer import Peer, open_peer
from p2pinfer.swim.news import EventHeard, QueryAnswered, QueryId
from p2pinfer.wire.messages.events import QueryFilter

SETTINGS: dict[str, Any] = {"listen": "127.0.0.1:0", "profile": "local", "model": ""}
ONE = PeerId(bytes(32))
QUERY = QueryId(ONE, 7)


@asynccontextmanager
async def two_peers(path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two peers that know of each other."""
    async with (
        open_peer(**SETTINGS, data_dir=path / "one", name="first") as first,
        open_peer(**SETTINGS, data_dir=path / "two", name="second", join=[first.invite]) as second,
    ):
        with trio.fail_after(10):
            while len(first._parts.core.swim.alive()) < 2:
                await trio.testing.wait_all_tasks_blocked(0.02)
        yield first, second


def event(name: str, payload: bytes = b"") -> EventHeard:
    return EventHeard(ONE, name, payload, 1)


async def test_events_are_heard_by_all_in_order_and_by_name(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (first, second):
        with (
            first.bulletin.events() as own,
            second.bulletin.events("tick", "end") as named,
            trio.fail_after(10),
        ):
            for number in range(6):
                await first.bulletin.broadcast("tick", b"%d" % number)
                await first.bulletin.broadcast("noise")
            await first.bulletin.broadcast("end")
            heard = [await anext(named) for _ in range(7)]
            assert [each.payload for each in heard] == [b"0", b"1", b"2", b"3", b"4", b"5", b""]
            assert {each.sender for each in heard} == {first.id}
            assert [(await anext(own)).name for _ in range(13)] == ["tick", "noise"] * 6 + ["end"]


async def test_a_query_is_answered_and_its_silent_are_named(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (first, second), trio.open_nursery() as nursery:

        async def answer() -> None:
            with second.bulletin.questions("load") as questions:
                async for question in questions:
                    await second.bulletin.answer(question, b"0.7 " + question.payload)
                    await second.bulletin.answer(question, b"again")

        nursery.start_soon(answer)
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.fail_after(10):
            answers = await first.bulletin.ask("load", b"now", wants_ack=True)
            assert [each async for each in answers] == [QueryAnswered(answers.query, second.id, b"0.7 now")]
            assert answers.silent == ()
            unheard = await first.bulletin.ask("unknown", to=QueryFilter(peers=(second.id,)), timeout_s=0.3)
            assert [each async for each in unheard] == []
            assert unheard.silent == (second.id,)
            nobody = await second.bulletin.ask("load", to=QueryFilter(name_prefix="third"), timeout_s=0.1)
            assert [each async for each in nobody] == []
        nursery.cancel_scope.cancel()


async def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    async with open_peer(**SETTINGS, data_dir=tmp_path) as peer:
        with pytest.raises(LocalProtocolError, match="at most 512 bytes"):
            await peer.bulletin.broadcast("e", bytes(513))
        with pytest.raises(LocalProtocolError, match="at most 512 bytes"):
            await peer.bulletin.ask("e", bytes(513))


async def test_nobody_waits_for_a_peer_that_closes(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (first, _):
        answers = await first.bulletin.ask("unknown", timeout_s=600.0)
        with first.bulletin.events() as events:
            await first.bulletin.broadcast("last")
            peer = first
    assert [each.name async for each in events] == ["last"]
    with pytest.raises((Cancelled, StopAsyncIteration)):  # the latter if the other was seen to leave first
        await anext(answers)
    with pytest.raises(Cancelled):
        await peer.bulletin.broadcast("late")


async def test_a_reader_that_is_too_slow_is_told_so() -> None:
    subscription = Subscription[EventHeard](())
    for number in range(WAITING_COUNT_MAX + 3):
        subscription.put(event(str(number)))
    heard = [(await anext(subscription)).name for _ in range(WAITING_COUNT_MAX)]
    assert heard == [str(number) for number in range(WAITING_COUNT_MAX)]
    with pytest.raises(Overloaded, match="1024 were not read in time"):
        await anext(subscription)


async def test_answers_end_with_those_who_stayed_silent() -> None:
    answers = Answers(QUERY)
    answers.put(QueryAnswered(QUERY, ONE, b"a"))
    answers.end((ONE,))
    assert [each.payload async for each in answers] == [b"a"]
    assert answers.silent == (ONE,)
