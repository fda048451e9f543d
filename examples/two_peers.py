"""Two peers in one program share a model's layers; the second joins with the invite of the first.

p2pinfer model pull smollm2:135m
python examples/two_peers.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import trio

import p2pinfer


async def main(model: str = "smollm2:135m", cut: int = 15, end: int = 30, **settings: Any) -> list[Any]:
    """Print who computed the answer, and return the chain."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        settings = {"listen": "127.0.0.1:0", "profile": "local", "model": model} | settings
        async with (
            p2pinfer.open_peer(**settings, data_dir=one, span=f"0:{cut}") as first,
            p2pinfer.open_peer(**settings, data_dir=two, span=f"{cut}:{end}", join=[first.invite]) as second,
        ):
            while sum(1 for peer in first.status()["peers"] if peer["span"]) < 1:
                await trio.sleep(0.05)  # gossip takes a moment to tell the first what the second holds
            answer = second.generate("Name a colour.", sampling=p2pinfer.Sampling(token_count_max=12))
            async for token in answer:
                print(token.text, end="", flush=True)
            print()
            chain: list[Any] = answer.summary["chain"]
            for hop in chain:
                print(f"layers {hop['span']} by {hop['peer'][:8]} at {hop['endpoint']}")
            return chain


if __name__ == "__main__":
    trio.run(main)
