"""Two peers keep small things for each other in the DHT, and find who can hand something out.

python examples/keep_and_find.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import trio

import p2pinfer


async def main(**settings: Any) -> list[str]:
    """Print what is found, and return it."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        settings = {"listen": "127.0.0.1:0", "profile": "local", "model": ""} | settings
        async with (
            p2pinfer.open_peer(**settings, data_dir=one) as first,
            p2pinfer.open_peer(**settings, data_dir=two, join=[first.invite]) as second,
        ):
            await first.dht.wait_for_others()
            await first.dht.put("greeting", b"hello", ttl_s=600)
            await second.dht.put("greeting", b"good day", subkey=b"polite")
            for each in await second.dht.get("greeting"):
                whose = "its own" if each.owner == second.id else "the other's"
                found.append(f"{each.value.decode()} is {whose}")

            # Only in place of what was read: of two who try, one hears that it was too late.
            (mine,) = (each for each in await first.dht.get("greeting") if each.owner == first.id)
            await first.dht.put("greeting", b"hello again", expected=mine.sequence)
            try:
                await first.dht.put("greeting", b"too late", expected=mine.sequence)
            except p2pinfer.RecordConflict as conflict:
                found.append(f"held is {conflict.value.decode()}")

            await second.dht.provide("weather")
            (provider,) = await first.dht.find_providers("weather")
            found.append(f"weather from {'the other' if provider.peer == second.id else 'nobody'}")
    print(", ".join(found))
    return found


if __name__ == "__main__":
    trio.run(main)
