"""What a tensor group costs on loopback: tokens a second of a leader and its members beside one peer alone.

    python -m benchmarks.tensor_group [--json] [--model NAME] [--members N] [--tokens N] [--rounds N]

Members are processes of their own; every process computes with one thread. Both are asked the same prompt
in turn, several times, and their medians are compared. A token takes two turns a layer, in which every rank
waits for every other: `turn_ms` is what a turn costs beyond the computing that one peer does, where the
group's share of it is counted as 1/ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

import p2pinfer
from benchmarks.shared import cache_directory
from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.ids import PeerId, Span
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.peer import Peer

PROMPT = "The quick brown fox jumps over the lazy dog and"
SETTINGS: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "profile": "local",
    "threads": 1,
    "engine": "numpy",
    "cache_dir": cache_directory(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lend", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lend:
        trio.run(lend, args.lend, args.model)
        return
    figures = trio.run(measure, args.model, args.members, args.tokens, args.rounds)
    if args.json:
        print(json.dumps({"tensor_group": figures}))
    else:
        for name, value in figures.items():
            print(f"{name:>16} {value}")


async def measure(model: str, member_count: int, token_count: int, rounds: int) -> dict[str, Any]:
    """Ask a group and a single peer in turn."""
    layer_count = ModelStore(cache_directory() / "models").manifest_of(model).layer_count
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with (
            p2pinfer.open_peer(**SETTINGS, data_dir=root / "leader") as leader,
            p2pinfer.open_peer(
                **SETTINGS, data_dir=root / "alone", model=model, span=f"0:{layer_count}"
            ) as alone,
        ):
            with lenders(root, model, member_count) as processes:
                members = [await trio.to_thread.run_sync(joined, each, leader) for each in processes]
                await wait_until(lambda: len(leader.status()["peers"]) >= member_count, timeout_s=60)
                await leader.groups.serve(model, Span(0, layer_count), members)
                ms: dict[str, list[float]] = {"group": [], "alone": []}
                said: set[tuple[int, ...]] = set()
                for _ in range(rounds):
                    for name, peer in (("group", leader), ("alone", alone)):
                        tokens, token_ms = await ask(peer, model, token_count)
                        ms[name].append(token_ms)
                        said.add(tokens)
    group_ms, alone_ms = statistics.median(ms["group"]), statistics.median(ms["alone"])
    turns = 2 * layer_count
    return {
        "model": model,
        "ranks": member_count + 1,
        "turns_per_token": turns,
        "group_tok_s": round(1000 / group_ms, 1),
        "alone_tok_s": round(1000 / alone_ms, 1),
        "ratio": round(alone_ms / group_ms, 2),
        "turn_ms": round((group_ms - alone_ms / (member_count + 1)) / turns, 3),
        "same_tokens": len(said) == 1,
    }


async def ask(peer: Peer, model: str, count: int) -> tuple[tuple[int, ...], float]:
    """Return an answer's tokens, and how long one took after the first, in milliseconds."""
    sampling = p2pinfer.Sampling(token_count_max=count)
    answer = peer.generate(PROMPT, model=model, raw=True, sampling=sampling)
    began = 0.0
    async for _ in answer:
        began = began or time.perf_counter()
    tokens = tuple(answer.token_ids)
    return tokens, 1000 * (time.perf_counter() - began) / max(1, len(tokens) - 1)


@contextmanager
def lenders(root: Path, model: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start members; they wait for their invite."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.tensor_group",
                "--model",
                model,
                "--lend",
                str(root / f"m{n}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for n in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.communicate()


def joined(process: subprocess.Popen[str], leader: Peer) -> PeerId:
    """Invite a member; returns who it is."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a member was started without its pipes")
    process.stdin.write(f"{leader.invite}\n")
    process.stdin.flush()
    return PeerId(bytes.fromhex(process.stdout.readline().strip()))


async def lend(directory: str, model: str) -> None:
    """What a member's process does."""
    invite = await trio.to_thread.run_sync(input)
    async with p2pinfer.open_peer(**SETTINGS, data_dir=directory, join=[invite]) as peer:
        await peer.groups.lend(model)
        print(peer.id, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    main()
