"""A network of stock asyncio `kademlia` servers in a process of its own, and a way to speak to them.

The process (`main`) does what it is told on its standard input, one JSON object a line, and answers each with
one; it ends with its input, and by itself after a minute. One of its servers keeps a seat: once that server
has left, `Partner` takes its id and its port, and to all others it is the same node. Its questions are those
of `rpcudp`: a type byte, 20 bytes of a call's id, msgpack.

Stock ids have 160 bits. `longer` pads them with zeros to our 256, which keeps the order of all distances.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack

from p2pinfer.ids import PEER_ID_SIZE_BYTES, Contact, Endpoint, PeerId

__all__ = ["Answer", "Partner", "longer", "read_answer", "shorter"]

LOOPBACK = "127.0.0.1"
ID_SIZE_BYTES = 20
TIMEOUT_S = 1.0
"""For the answer of a server that is there; of a closed port the system tells at once."""
_CALL, _RETURN = b"\x00", b"\x01"
_LIFE_S = 60.0


def longer(stock_id: bytes) -> bytes:
    return stock_id + bytes(PEER_ID_SIZE_BYTES - ID_SIZE_BYTES)


def shorter(own_id: bytes) -> bytes:
    return own_id[:ID_SIZE_BYTES]


@dataclass(frozen=True)
class Answer:
    """What a server said: contacts, or the value where it has it."""

    contacts: tuple[Contact, ...] = ()
    value: bytes | None = None


def read_answer(data: bytes, call: bytes) -> Answer | None:
    """Read the answer to a call for nodes or a value; None where it is none, whatever the bytes."""
    if data[:21] != _RETURN + call:
        return None
    try:
        said: Any = msgpack.unpackb(data[21:])
    except (
        ValueError,
        TypeError,
    ):  # msgpack's own are of the first kind; a key that is a list, of the second
        return None
    if isinstance(said, dict):
        value = said.get("value")
        return Answer(value=value) if isinstance(value, bytes) else None
    if not isinstance(said, list):
        return None
    contacts = [_contact_of(each) for each in said]
    return Answer(tuple(contact for contact in contacts if contact is not None))


def _contact_of(said: Any) -> Contact | None:
    match said:
        case [bytes(peer), str(host), int(port)] if len(peer) == ID_SIZE_BYTES and 0 < port < 65536:
            return Contact(PeerId(longer(peer)), Endpoint(host, port))
        case _:
            return None


class Partner:
    """The network, and a node of our own in it.

    Attributes:
        nodes: All stock servers but the one with the seat; `peer` is the padded id.
        seat: Who we are to them.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._socket: socket.socket | None = None
        described = self.tell(do="describe")
        self.nodes = [_described(each) for each in described["nodes"]]
        self.seat = _described(described["seat"])

    def tell(self, **order: Any) -> Any:
        """Have the process do something and return what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def take_seat(self) -> None:
        """Let the stock server leave, and be that node from now on."""
        self.tell(do="leave")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.bind((LOOPBACK, self.seat.endpoint.port))

    def ask(self, contact: Contact, name: str, *arguments: Any) -> bytes | None:
        """Call a server and return the bytes that it answers, the head included; None where none come."""
        assert self._socket is not None
        assert self.seat.peer is not None
        self.call = secrets.token_bytes(ID_SIZE_BYTES)
        question = msgpack.packb([name, [shorter(self.seat.peer), *arguments]])
        try:
            self._socket.connect((contact.endpoint.host, contact.endpoint.port))
            self._socket.send(_CALL + self.call + question)
            return self._socket.recv(65536)
        except OSError:
            return None

    def find(self, contact: Contact, key: bytes, *, value: bool = False) -> Answer | None:
        """Ask for the nodes nearest to a padded key, or for its value."""
        data = self.ask(contact, "find_value" if value else "find_node", shorter(key))
        return None if data is None else read_answer(data, self.call)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _described(said: Sequence[Any]) -> Contact:
    peer, port = said
    return Contact(PeerId(longer(bytes.fromhex(peer))), Endpoint(LOOPBACK, port))


@contextmanager
def running_partner(*, count: int, k: int, seed: int) -> Iterator[Partner]:
    """Run a network of so many stock servers, and one more that keeps our seat."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dht.kademlia_partner", str(count), str(k), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        partner = Partner(process)
        try:
            yield partner
        finally:
            partner.close()
            assert process.stdin is not None
            process.stdin.close()  # which ends it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


class _Network:
    """The stock side."""

    def __init__(self, count: int, k: int, seed: int) -> None:
        from kademlia.network import Server  # only the process needs it, and what it imports

        rng = random.Random(seed)
        self.k = k
        self.servers = [Server(ksize=k, node_id=rng.randbytes(ID_SIZE_BYTES)) for _ in range(count + 1)]
        self.seat = self.servers[-1]

    async def start(self) -> None:
        for server in self.servers:
            await server.listen(0, interface=LOOPBACK)
            server.protocol._wait_timeout = 0.15
        first = self.servers[0].transport.get_extra_info("sockname")
        for _ in range(2):  # the second time all are there
            for server in self.servers[1:]:
                await server.bootstrap([first])

    async def do(self, order: dict[str, Any]) -> Any:
        from kademlia.crawling import NodeSpiderCrawl
        from kademlia.node import Node

        match order:
            case {"do": "describe"}:
                described = [
                    (server.node.id.hex(), server.transport.get_extra_info("sockname")[1])
                    for server in self.servers
                ]
                return {"nodes": described[:-1], "seat": described[-1]}
            case {"do": "stop", "nodes": indexes}:
                for index in indexes:
                    self.servers[index].stop()
                return True
            case {"do": "seeds", "target": target}:
                near = self.seat.protocol.router.find_neighbors(Node(bytes.fromhex(target)))
                return [(node.id.hex(), node.port) for node in near]
            case {"do": "find", "target": target}:
                node = Node(bytes.fromhex(target))
                near = self.seat.protocol.router.find_neighbors(node)
                crawl = NodeSpiderCrawl(self.seat.protocol, node, near, self.k, self.seat.alpha)
                return [found.id.hex() for found in await crawl.find()]
            case {"do": "set", "node": index, "key": key, "value": value}:
                return await self.servers[index].set(key, bytes.fromhex(value))
            case {"do": "get", "node": index, "key": key}:
                found = await self.servers[index].get(key)
                return None if found is None else found.hex()
            case {"do": "leave"}:
                self.seat.stop()
                await asyncio.sleep(0)  # the socket is closed in the loop's next turn
                return True
        raise ValueError(f"no such order: {order}")


async def main(count: int, k: int, seed: int) -> None:
    network = _Network(count, k, seed)
    await network.start()
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await network.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)  # of dead nodes, which are meant
    asyncio.run(asyncio.wait_for(main(*map(int, sys.argv[1:4])), _LIFE_S))
