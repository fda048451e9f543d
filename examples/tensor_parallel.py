"""Two peers compute every layer together, each with its heads and columns: the tensor strategy.

p2pinfer model pull smollm2:135m
python examples/tensor_parallel.py

Here both are in one program, to show how it is written. It is worth it for layers that are large beside a
network that is fast: each token costs two messages a layer, one after the other.
"""

from __future__ import annotations

import tempfile
from typing import Any

import trio

import p2pinfer
from p2pinfer.ids import Span


async def main(model: str = "smollm2:135m", layers: int = 30, **settings: Any) -> str:
    """Print an answer that two peers computed together, and return it."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        settings = {"listen": "127.0.0.1:0", "profile": "local"} | settings
        async with (
            p2pinfer.open_peer(**settings, data_dir=one) as leader,
            p2pinfer.open_peer(**settings, data_dir=two, join=[leader.invite]) as member,
        ):
            await member.groups.lend(model)
            while not leader.status()["peers"]:
                await trio.sleep(0.05)  # gossip takes a moment to tell the leader of the member
            await leader.groups.serve(model, Span(0, layers), [member.id])
            answer = leader.generate(
                "Name a colour.", model=model, sampling=p2pinfer.Sampling(token_count_max=12)
            )
            async for token in answer:
                print(token.text, end="", flush=True)
            print()
            return str(answer.summary["text"])


if __name__ == "__main__":
    trio.run(main)
