"""What one more hop over loopback adds to a decode step, beside a bare TLS echo of the same bytes.

    python -m benchmarks.hop [--json] [--tokens N] [--rounds N]

Node processes with an engine that computes nothing form one chain of two hops and one of four. The difference
of their token intervals, halved, is a hop's cost: framing, TLS, the way to the engine's thread and back. The
echo is a round trip of a decode step's bytes between two processes over trio's own SSLStream. Both are
measured in turn, several times, and their medians are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import trio

import p2pinfer
from benchmarks.echo import echo_us, median
from benchmarks.idle_engine import HIDDEN_SIZE
from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.config import node_config
from p2pinfer.ids import SessionId, Span
from p2pinfer.inference.generation import Request
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.inference import Sampling, Step, Tensor

SHORT, LONG = b"\x02" * 32, b"\x04" * 32
LAYER_COUNT = 4
SPANS = {SHORT: (Span(0, 2), Span(2, 4)), LONG: tuple(Span(n, n + 1) for n in range(LAYER_COUNT))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tokens", type=int, default=400, help="tokens and echoes of each round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    result = trio.run(measure, args.tokens, args.rounds)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:16} {value}" for key, value in result.items()))


async def measure(token_count: int, round_count: int) -> dict[str, Any]:
    """Run the processes and take the figures."""
    step_bytes = _step_size_bytes()
    hops_us: list[float] = []
    echoes_us: list[float] = []
    with tempfile.TemporaryDirectory(prefix="p2pinfer-bench-") as folder:
        base = Path(folder)
        entry = node_config({"listen": "127.0.0.1:0", "data_dir": str(base / "entry"), "profile": "local"})
        async with p2pinfer.open_peer(entry) as peer:
            with _processes(base, str(peer.invite)):
                file, wanted = base / "port", sum(map(len, SPANS.values()))
                await wait_until(lambda: file.exists() and bool(file.read_text()), timeout_s=30)
                port = int(file.read_text())
                await wait_until(
                    lambda: len([p for p in peer.status()["peers"] if p["span"]]) == wanted, timeout_s=60
                )
                for _ in range(round_count):
                    short = await _intervals_us(peer, SHORT, token_count)
                    long = await _intervals_us(peer, LONG, token_count)
                    hops_us.append((statistics.median(long) - statistics.median(short)) / 2)
                    echoes_us.append(statistics.median(await echo_us(port, step_bytes, token_count)))
    hop, echo = median(hops_us), median(echoes_us)
    return {
        "hop_us_p50": hop,
        "echo_us_p50": echo,
        "ratio": round(hop / echo, 2),
        "step_bytes": step_bytes,
        "rounds": round_count,
    }


def _holder_count(peer: p2pinfer.Peer) -> int:
    return sum(1 for other in peer.status()["peers"] if other["span"])


def _step_size_bytes() -> int:
    hidden = Tensor("f4", (1, HIDDEN_SIZE), bytes(4 * HIDDEN_SIZE))
    return encoded_size(Step(session=SessionId(bytes(16)), step=100, base=100, hidden=hidden))


async def _intervals_us(peer: p2pinfer.Peer, digest: bytes, count: int) -> list[float]:
    request = Request(
        digest=digest, layer_count=LAYER_COUNT, prompt=(1,), sampling=Sampling(token_count_max=count)
    )
    times: list[float] = []
    async with aclosing(peer.sample(request)) as sampled:
        async for _ in sampled:
            times.append(time.perf_counter())
    return [(b - a) * 1e6 for a, b in itertools.pairwise(times)]


@contextmanager
def _processes(base: Path, invite: str) -> Iterator[None]:
    """Run the nodes and the echo server."""
    commands = [["benchmarks.echo", str(base / "port")]]
    for digest, spans in SPANS.items():
        for number, span in enumerate(spans):
            directory = base / f"{digest.hex()[:2]}-{number}"
            directory.mkdir()
            settings = {"listen": "127.0.0.1:0", "data_dir": str(directory), "profile": "local"}
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            (directory / "node.toml").write_text(text + f"join = [{json.dumps(invite)}]\n")
            what = [str(directory / "node.toml"), digest.hex(), f"{span.start}:{span.end}", str(LAYER_COUNT)]
            commands.append(["benchmarks.idle_engine", *what])
    running = [subprocess.Popen([sys.executable, "-m", *command]) for command in commands]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


if __name__ == "__main__":
    main()
