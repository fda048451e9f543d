"""What both networks of `benchmarks.dht` are made to do, each in a process of its own.

A process reads one round a line from its standard input and answers with one line; it ends with its input.
The round says by its seed who puts what and who asks for it, so that both networks do the same.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

__all__ = ["VALUE_SIZE_BYTES", "Node", "ReadLine", "Round", "do_rounds"]

KEY_SIZE_BYTES = 32
VALUE_SIZE_BYTES = 100
"""What a peer says of the layers that it holds has about this size."""

ReadLine = Callable[[], Awaitable[str]]
"""Waits for the next line of the standard input while the network lives on; empty at its end."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Who puts and who gets, by a seed."""

    seed: int
    puts: int
    gets: int
    holders: int = 1
    """How many holders a get has to hear. The stock one believes the first."""

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Node(Protocol):
    """One node of a network, of either kind."""

    async def put(self, key: bytes, value: bytes) -> bool:
        """Store a value under a key; whether somebody keeps it."""
        ...

    async def get(self, key: bytes, holders: int) -> bytes | None:
        """Look for the value under a key, until that many who hold it were heard."""
        ...


async def do_rounds(nodes: Sequence[Node], read_line: ReadLine, ready: dict[str, Any]) -> None:
    """Say that the network stands, then do one round after the other."""
    # Two hundred nodes share one heap here: no node is to pay for walks over the tables of all others.
    gc.collect()
    gc.freeze()
    print(json.dumps(ready), flush=True)
    while line := await read_line():
        print(json.dumps(await do_round(nodes, Round(**json.loads(line)))), flush=True)


async def do_round(nodes: Sequence[Node], order: Round) -> dict[str, Any]:
    """Put values one after the other, then get them from any node but the one that put them."""
    rng = random.Random(order.seed)
    puts_ms: list[float] = []
    gets_ms: list[float] = []
    failures = 0
    there: list[tuple[bytes, bytes, Node]] = []
    cpu_s = [time.process_time()]
    for _ in range(order.puts):
        owner, key, value = rng.choice(nodes), rng.randbytes(KEY_SIZE_BYTES), rng.randbytes(VALUE_SIZE_BYTES)
        began = time.perf_counter()
        failures += not await owner.put(key, value)
        puts_ms.append((time.perf_counter() - began) * 1000)
        there.append((key, value, owner))
    cpu_s.append(time.process_time())
    for _ in range(order.gets):
        key, value, owner = rng.choice(there)
        asker = owner
        while asker is owner:
            asker = rng.choice(nodes)
        began = time.perf_counter()
        found = await asker.get(key, order.holders)
        gets_ms.append((time.perf_counter() - began) * 1000)
        failures += found != value
    cpu_s.append(time.process_time())
    return {
        "puts_ms": puts_ms,
        "gets_ms": gets_ms,
        "put_cpu_ms": (cpu_s[1] - cpu_s[0]) * 1000 / order.puts,
        "get_cpu_ms": (cpu_s[2] - cpu_s[1]) * 1000 / order.gets,
        "failures": failures,
    }
