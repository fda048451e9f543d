"""A bare TLS echo over trio: the floor that anything else over TLS is held against.

python -m benchmarks.echo FILE     serves, and writes its port into FILE
"""

from __future__ import annotations

import ssl
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import trio

from p2pinfer.runtime.tls import make_tls_contexts

__all__ = ["echo_us"]


async def _echo(stream: trio.SocketStream) -> None:
    tls = trio.SSLStream(stream, make_tls_contexts().server, server_side=True)
    try:
        while data := await tls.receive_some(65536):
            await tls.send_all(data)
    except trio.BrokenResourceError:
        pass  # the measurement is over


async def _serve(file: Path) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, _echo, 0, host="127.0.0.1"))
        file.write_text(str(listeners[0].socket.getsockname()[1]))


async def echo_us(port: int, size_bytes: int, count: int) -> list[float]:
    """Return the durations of round trips of so many bytes, in microseconds."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context)
    payload = bytes(size_bytes)
    durations: list[float] = []
    async with stream:
        for _ in range(count):
            started = time.perf_counter()
            await stream.send_all(payload)
            left = size_bytes
            while left:
                left -= len(await stream.receive_some(65536))
            durations.append((time.perf_counter() - started) * 1e6)
    return durations


def median(values: list[float]) -> float:
    """Return the median, rounded for people."""
    return round(statistics.median(values), 1)


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]))
