"""Two machines with a cable between them, played by two network namespaces: run with `unshare -n`, as root.

    unshare -n python -m tests.runtime.discovery.two_machines 0.0.0.0

Machine a plugs the cable in, waits until it hears b, pulls it out and plugs another one in, and waits again.
Its last line is "heard twice".
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import trio

from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.discovery import multicast
from p2pinfer.runtime.discovery.links import Links
from tests.runtime.discovery.ways import Found, announcing, contact_of

PORT = 7947
TIMEOUT_S = 20.0


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def plug(device: str, address: str) -> None:
    ip(f"addr add {address}/24 dev {device}")
    ip(f"link set {device} up")


def make(name: str, host: str) -> multicast.Multicast:
    return multicast.Multicast(
        announcing(name),
        own=contact_of(name, host="10.9.0.9"),
        open_links=lambda: Links((host,), port=PORT),
        live=list,
        now=Clock().now,
        rng=random.Random(name),
    )


async def run_b(host: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make("b", host).run, Found())
        print("ready", flush=True)
        index = 0
        while True:  # until it is killed
            now = {name: number for number, name in socket.if_nameindex()}.get("v1", 0)
            if now != index:
                index = now
                if now:
                    plug("v1", "10.9.0.2")
            with trio.move_on_after(0.05):
                await trio.sleep_forever()


async def run_a(host: str) -> None:
    command = ["unshare", "-n", sys.executable, "-m", __spec__.name, host, "b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:  # noqa: ASYNC220 -- nothing runs yet
        try:
            assert other.stdout is not None
            await trio.to_thread.run_sync(other.stdout.readline)
            found = Found()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make("a", host).run, found)
                for _ in range(2):
                    await trio.to_thread.run_sync(ip, f"link add v0 type veth peer name v1 netns {other.pid}")
                    await trio.to_thread.run_sync(plug, "v0", "10.9.0.1")
                    await found.wait_for(contact_of("b", host="10.9.0.9"), TIMEOUT_S)
                    await trio.to_thread.run_sync(ip, "link del v0")
                    found.contacts.clear()
                nursery.cancel_scope.cancel()
        finally:
            other.kill()
    print("heard twice")


if __name__ == "__main__":
    multicast.LOOK_INTERVAL_S = 0.1
    multicast.ALONE_INTERVAL_S = 0.3
    ip("link set lo up")
    trio.run(run_b if sys.argv[2:] else run_a, sys.argv[1])
