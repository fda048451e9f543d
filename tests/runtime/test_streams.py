"""The stream plane between peers on the loopback."""

from __future__ import annotations

from p2pinfer.ids import SessionId
from p2pinfer.wire.messages.inference import Step, Tensor
from tests.runtime.swarm import Peer, running

SESSION = SessionId(bytes(range(16)))


def step(number: int, size: int = 2304) -> Step:
    tensor = Tensor("f4", (1, size // 4), bytes(size))
    return Step(session=SESSION, step=number, base=number, hidden=tensor)


async def test_a_message_reaches_the_other_peer_and_its_answer_comes_back() -> None:
    first, second = Peer("first"), Peer("second", is_echoing=True)
    async with running(first, second):
        assert first.streams.send_nowait(second.contact, step(1))
        assert await second.wait_messages(1) == [step(1)]
        assert await first.wait_messages(1) == [step(1)]
    assert first.connects == [second.id]
    assert second.connects == [first.id]
