"""Run by a test in a process of its own: what a stock asyncio `kademlia` server says of a set of contacts.

Reads JSON from standard input: own id, contact ids and targets in hexadecimal, and k. Writes for every target
the ids that the server's table gives, in its order.
"""

import asyncio
import json
import sys
from typing import Any

from kademlia.network import Server
from kademlia.node import Node


async def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    server = Server(ksize=asked["k"], node_id=bytes.fromhex(asked["own"]))
    await server.listen(0, interface="127.0.0.1")
    try:
        assert server.protocol is not None
        router = server.protocol.router
        for index, peer in enumerate(asked["contacts"]):
            router.add_contact(Node(bytes.fromhex(peer), "127.0.0.1", 1 + index))
        found = [
            [node.id.hex() for node in router.find_neighbors(Node(bytes.fromhex(target)))]
            for target in asked["targets"]
        ]
    finally:
        server.stop()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
