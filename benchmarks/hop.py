"""What one more hop over loopback adds to a decode step, beside a bare TLS echo of the same bytes.

    python -m benchmarks.hop [--json] [--tokens N] [--rounds N] [--sessions N [--batch-us N]]

Node processes with an engine that computes nothing form one chain of two hops and one of four. The difference
of their token intervals, halved, is a hop's cost: framing, TLS, the way to the engine's thread and back. The
echo is a round trip of a decode step's bytes between two processes over trio's own SSLStream. Both are
measured in turn, several times, and their medians are compared.

With `--sessions` so many answers go through the chain of four at once, and what is measured is the CPU time
of the node processes for each token and hop: all of it is the framework's. `--batch-us` lets the engine sleep
for so long at each batch, so that steps gather as they do behind a real engine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
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
from p2pinfer.runtime.client import connect
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
    parser.add_argument("--sessions", type=int, default=0, help="measure the CPU time of so many together")
    parser.add_argument("--batch-us", type=int, default=0, help="how long the engine sleeps at each batch")
    args = parser.parse_args()
    measured = partial(measure_sessions, args.sessions, args.batch_us) if args.sessions else measure
    result = trio.run(measured, args.tokens, args.rounds)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:24} {value}" for key, value in result.items()))


async def measure(token_count: int, round_count: int) -> dict[str, Any]:
    """Run the processes and take the figures of one answer at a time."""
    step_bytes = _step_size_bytes()
    hops_us: list[float] = []
    echoes_us: list[float] = []
    async with _swarm(SPANS, batch_us=0) as swarm:
        with _echo_server(swarm.base) as file:
            await wait_until(lambda: file.exists() and bool(file.read_text()), timeout_s=30)
            port = int(file.read_text())
            for _ in range(round_count):
                short = await _intervals_us(swarm.peer, SHORT, token_count)
                long = await _intervals_us(swarm.peer, LONG, token_count)
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


async def measure_sessions(
    session_count: int, batch_us: int, token_count: int, round_count: int
) -> dict[str, Any]:
    """Run the chain of four and take the figures of many answers at once."""
    nodes_us: list[float] = []
    entries_us: list[float] = []
    speeds: list[float] = []
    async with _swarm({LONG: SPANS[LONG]}, batch_us=batch_us) as swarm:
        await _intervals_us(swarm.peer, LONG, token_count)
        for _ in range(round_count):
            nodes_s, entry_s, began_s = swarm.cpu_s(), time.process_time(), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(session_count):
                    nursery.start_soon(_intervals_us, swarm.peer, LONG, token_count)
            count = session_count * token_count
            speeds.append(count / (time.perf_counter() - began_s))
            nodes_us.append((swarm.cpu_s() - nodes_s) * 1e6 / (count * LAYER_COUNT))
            entries_us.append((time.process_time() - entry_s) * 1e6 / count)
        batches = [(await _status(node.directory))["batches"] for node in swarm.nodes]
    return {
        "node_cpu_us": median(nodes_us),
        "entry_cpu_us": median(entries_us),
        "tokens_per_s": median(speeds),
        "batch_size_mean": round(statistics.mean(each["mean"] for each in batches), 2),
        "sessions": session_count,
        "batch_us": batch_us,
        "rounds": round_count,
    }


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


async def _status(directory: Path) -> dict[str, Any]:
    async with connect(directory) as client:
        return await client.status()


@dataclass(frozen=True)
class _Node:
    """A process with an idle engine."""

    directory: Path
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU time of all its threads, user and system, to the kernel's 10 ms (Linux: proc(5))."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Swarm:
    """The processes, and the entry peer in this one."""

    base: Path
    peer: p2pinfer.Peer
    nodes: tuple[_Node, ...]

    def cpu_s(self) -> float:
        """CPU time of the nodes so far."""
        return sum(node.cpu_s() for node in self.nodes)


@asynccontextmanager
async def _swarm(spans: Mapping[bytes, Sequence[Span]], *, batch_us: int) -> AsyncIterator[_Swarm]:
    """Run an entry peer here, and a node process for each span."""
    with tempfile.TemporaryDirectory(prefix="p2pinfer-bench-") as folder:
        base = Path(folder)
        entry = node_config({"listen": "127.0.0.1:0", "data_dir": str(base / "entry"), "profile": "local"})
        async with p2pinfer.open_peer(entry) as peer:
            with _processes(base, str(peer.invite), spans, batch_us) as nodes:
                await wait_until(
                    lambda: len([p for p in peer.status()["peers"] if p["span"]]) == len(nodes), timeout_s=60
                )
                yield _Swarm(base, peer, nodes)


@contextmanager
def _processes(
    base: Path, invite: str, spans: Mapping[bytes, Sequence[Span]], batch_us: int
) -> Iterator[tuple[_Node, ...]]:
    running: list[_Node] = []
    try:
        for digest, part in ((digest, part) for digest, parts in spans.items() for part in parts):
            directory = base / f"{digest.hex()[:2]}-{part.start}"
            directory.mkdir()
            settings = {"listen": "127.0.0.1:0", "data_dir": str(directory), "profile": "local"}
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            (directory / "node.toml").write_text(text + f"join = [{json.dumps(invite)}]\n")
            what = [digest.hex(), f"{part.start}:{part.end}", str(LAYER_COUNT), str(batch_us)]
            running.append(_Node(directory, _start("benchmarks.idle_engine", directory / "node.toml", *what)))
        yield tuple(running)
    finally:
        for node in running:
            node.process.terminate()
        for node in running:
            node.process.wait()


@contextmanager
def _echo_server(base: Path) -> Iterator[Path]:
    """Run it, and give the file that will hold its port."""
    process = _start("benchmarks.echo", base / "port")
    try:
        yield base / "port"
    finally:
        process.terminate()
        process.wait()


def _start(module: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)])


if __name__ == "__main__":
    main()
