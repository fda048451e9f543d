"""A network of stock `kademlia` servers in this process, for `benchmarks.dht`.

python -m benchmarks.dht_stock NODES     says when it stands, then does the rounds of its standard input
"""

from __future__ import annotations

import asyncio
import logging
import sys

from kademlia.network import Server

from benchmarks.dht_work import do_rounds

K, ALPHA = 20, 3
"""The package's defaults, and ours."""
LOOPBACK = "127.0.0.1"


class StockNode:
    """One server of the package as it comes."""

    def __init__(self) -> None:
        self.server = Server(ksize=K, alpha=ALPHA)
        self.address = (LOOPBACK, 0)

    async def start(self, known: list[tuple[str, int]]) -> None:
        await self.server.listen(0, interface=LOOPBACK)
        self.address = self.server.transport.get_extra_info("sockname")
        await self.join(known)

    async def join(self, known: list[tuple[str, int]]) -> None:
        if known:
            await self.server.bootstrap(known)

    async def put(self, key: bytes, value: bytes) -> bool:
        return bool(await self.server.set(key, value))

    async def get(self, key: bytes, holders: int) -> bytes | None:
        found: bytes | None = await self.server.get(key)
        return found

    @property
    def contacts(self) -> int:
        """Nodes in its table."""
        return sum(len(bucket.nodes) for bucket in self.server.protocol.router.buckets)


async def main(node_count: int) -> None:
    nodes = [StockNode() for _ in range(node_count)]
    for node in nodes:
        await node.start([nodes[0].address] if node is not nodes[0] else [])
    for node in nodes[1:]:  # once more, now that all are there
        await node.join([nodes[0].address])
    contacts = sum(node.contacts for node in nodes) / node_count
    await do_rounds(nodes, lambda: asyncio.to_thread(sys.stdin.readline), {"contacts": round(contacts, 1)})
    for node in nodes:
        node.server.stop()


if __name__ == "__main__":
    # The package logs each lookup; nobody formats what nobody reads.
    logging.disable(logging.CRITICAL)
    asyncio.run(main(int(sys.argv[1])))
