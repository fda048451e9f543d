"""Two peers in one program tell and ask each other something of their own: no model is needed.

python examples/events_and_queries.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import trio

import p2pinfer


async def tell_temperature(peer: p2pinfer.Peer) -> None:
    """Answer whoever asks for the temperature."""
    with peer.bulletin.questions("temperature") as questions:
        async for question in questions:
            await peer.bulletin.answer(question, b"21.5")


async def main(**settings: Any) -> list[str]:
    """Print what is heard, and return it."""
    heard: list[str] = []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        settings = {"listen": "127.0.0.1:0", "profile": "local", "model": ""} | settings
        async with (
            p2pinfer.open_peer(**settings, data_dir=one) as first,
            p2pinfer.open_peer(**settings, data_dir=two, join=[first.invite]) as second,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(tell_temperature, second)
            with second.bulletin.events() as events:
                while not first.status()["peers"]:
                    await trio.sleep(0.05)  # gossip takes a moment to tell the first of the second
                await first.bulletin.broadcast("door", b"open")
                event = await anext(events)
                heard.append(f"{event.name} {event.payload.decode()}")
            answers = await first.bulletin.ask("temperature")
            async for answer in answers:
                heard.append(f"{answer.payload.decode()} degrees")
            nursery.cancel_scope.cancel()
    print(", ".join(heard))
    return heard


if __name__ == "__main__":
    trio.run(main)
