"""Thirty members gossip in the simulator, one is killed, and we look at when the others know.

python examples/simulate_gossip.py
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping
from typing import Any

from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.news import MemberDead
from p2pinfer.testing import World


def sign(statement: Any) -> Any:
    """Stand in for Ed25519: the cores do no cryptography, and nobody lies in this world."""
    return dataclasses.replace(statement, signature=hashlib.blake2b(repr(statement).encode()).digest())


def main(seed: int = 1, members: int = 30) -> list[float]:
    """Print and return how long after the kill each member knew, in seconds."""
    world = World(seed)

    def add(number: int) -> None:
        key = hashlib.sha256(b"member %d" % number).digest()
        endpoint = Endpoint("10.0.0.1", 7000 + number)

        def core(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            swim = SwimCore(
                public_key=key, endpoint=endpoint, config=SwimConfig.local(), rng=rng, sign=sign, now=now
            )
            return swim, swim.join([Endpoint("10.0.0.1", 7000)] if number else [], now)

        world.add(f"m{number}", core, Contact(PeerId.from_public_key(key), endpoint))

    for number in range(members):
        add(number)
    world.run_for(10.0)
    killed_at = world.now
    world.hosts["m7"].pause()  # stopped and not crashed: no connection breaks, so only probes can tell
    world.run_for(30.0)
    known = sorted(
        time - killed_at
        for host in world.hosts.values()
        for time, news in host.log.notices
        if isinstance(news, MemberDead)
    )
    print(f"{len(known)} members know; the first after {known[0]:.2f} s, the last after {known[-1]:.2f} s")
    return known


if __name__ == "__main__":
    main()
