"""One peer with all layers answers a prompt: the smallest program that embeds p2pinfer.

p2pinfer model pull smollm2:135m
python examples/one_peer.py "Why is the sky blue?"
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import trio

import p2pinfer


async def main(prompt: str = "Why is the sky blue?", model: str = "smollm2:135m", **settings: Any) -> str:
    """Print an answer as it comes, and return it."""
    with tempfile.TemporaryDirectory() as directory:
        # A directory that stays would let this peer come back as the same one.
        settings = {"data_dir": directory, "listen": "127.0.0.1:0", "model": model} | settings
        async with p2pinfer.open_peer(**settings) as peer:
            answer = peer.generate(prompt, sampling=p2pinfer.Sampling(token_count_max=48))
            async for token in answer:
                print(token.text, end="", flush=True)
            print(f"\n{answer.summary['tokens_per_s']} tokens/s")
            return str(answer.summary["text"])


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?")
