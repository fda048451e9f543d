"""A peer in a process of its own that lends itself to groups; its invite comes over standard input.

python -m tests.e2e.lending_peer DATA_DIR CACHE_DIR MODEL
"""

from __future__ import annotations

import sys
from typing import Any

import trio

import p2pinfer


async def main(data_dir: str, cache_dir: str, model: str) -> None:
    settings: dict[str, Any] = {"listen": "127.0.0.1:0", "profile": "local", "data_dir": data_dir}
    if cache_dir:
        settings["cache_dir"] = cache_dir
    invite = await trio.to_thread.run_sync(input)
    async with p2pinfer.open_peer(**settings, join=[invite]) as peer:
        await peer.groups.lend(model)
        print(peer.id, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
