"""Puts and gets among two hundred DHT nodes on loopback, of this package and of stock `kademlia`.

    python -m benchmarks.dht [--json] [--nodes 200] [--rounds 9] [--puts 20] [--gets 60]

Each network is one process with a UDP socket for every node. Here every datagram is signed, checked and
sealed as in a swarm with invites, and every record is signed; the stock servers do nothing of the kind. Both
have k = 20 and alpha = 3, and every node has joined and looked itself up twice. Rounds alternate; both do the
same in each: one put after the other, then one get after the other from any node but the one that put the
value. A get believes the first holder, as the stock one does; `get_of_three` hears three, the default for
what one owner alone may change. A put ends when three quarters of the copies are kept; the stock one waits
for all.

p50 is the median over the rounds of each round's median, p99 that of all samples, cpu the CPU time of all
nodes for each operation. The ratios are those of the medians, theirs by ours: above 1 this package is faster.
The exit code is 0 if no get missed a value.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.dht_work import Round
from benchmarks.shared import percentile

__all__ = ["figures"]

OURS, STOCK = "benchmarks.dht_nodes", "benchmarks.dht_stock"
CAREFUL = "three holders"
WARMING = Round(seed=0, puts=100, gets=400)
"""Done by both before anything counts."""
_STOP_TIMEOUT_S = 10.0

Samples = Mapping[str, Any]
"""What one round gave: milliseconds of each kind, and failures."""


def measure(node_count: int, orders: Sequence[Round]) -> dict[str, Any]:
    """Run both networks side by side and return the figures."""
    with ExitStack() as stack:
        networks = {name: stack.enter_context(_network(name, node_count)) for name in (STOCK, OURS)}
        contacts = {name: _answer(process)["contacts"] for name, process in networks.items()}
        for process in networks.values():  # certificates and paths that are met for the first time
            _do(process, WARMING)
        samples: dict[str, list[Samples]] = {name: [] for name in (OURS, STOCK, CAREFUL)}
        for index, order in enumerate(orders):
            for name in sorted(networks, reverse=bool(index % 2)):
                samples[name].append(_do(networks[name], order))
                if name == OURS:
                    careful = replace(order, seed=-order.seed, puts=1 + order.puts // 4, holders=3)
                    samples[CAREFUL].append(_do(networks[name], careful))
    return {
        **figures(samples[OURS], samples[STOCK], samples[CAREFUL]),
        "nodes": node_count,
        "rounds": len(orders),
        "contacts": contacts[OURS],
        "kademlia_contacts": contacts[STOCK],
    }


def figures(ours: Sequence[Samples], theirs: Sequence[Samples], careful: Sequence[Samples]) -> dict[str, Any]:
    """Compute the medians and tails of both, and how many times faster ours is."""
    result: dict[str, Any] = {}
    for kind in ("get", "put"):
        result |= _figures_of(kind, kind, ours)
        result |= _figures_of(kind, f"kademlia_{kind}", theirs)
    result |= _figures_of("get", "get_of_three", careful)
    for kind in ("get", "put"):
        result[f"{kind}_ratio"] = round(result[f"kademlia_{kind}_p50_ms"] / result[f"{kind}_p50_ms"], 2)
    result["failures"] = sum(each["failures"] for each in (*ours, *careful))
    result["kademlia_failures"] = sum(each["failures"] for each in theirs)
    return result


def _figures_of(kind: str, name: str, rounds: Sequence[Samples]) -> dict[str, Any]:
    median = statistics.median(statistics.median(each[f"{kind}s_ms"]) for each in rounds)
    tail = percentile([1000 * ms for each in rounds for ms in each[f"{kind}s_ms"]], 0.99)
    cpu_ms = statistics.median(each[f"{kind}_cpu_ms"] for each in rounds)
    return {
        f"{name}_p50_ms": round(median, 3),
        f"{name}_p99_ms": round((tail or 0.0) / 1000, 3),
        f"{name}_cpu_ms": round(cpu_ms, 3),
    }


@contextmanager
def _network(module: str, node_count: int) -> Iterator[subprocess.Popen[str]]:
    """Run one network; it ends with its input."""
    command = [sys.executable, "-m", module, str(node_count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _do(process: subprocess.Popen[str], order: Round) -> Samples:
    if process.stdin is None:
        raise RuntimeError("the network has no standard input")
    print(order, file=process.stdin, flush=True)
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("a network ended before its time: see above")
    found: dict[str, Any] = json.loads(line)
    return found


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--puts", type=int, default=20, help="puts of a round")
    parser.add_argument("--gets", type=int, default=60, help="gets of a round")
    args = parser.parse_args()
    orders = [Round(seed=seed, puts=args.puts, gets=args.gets) for seed in range(1, args.rounds + 1)]
    result = measure(args.nodes, orders)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:24} {value}" for key, value in result.items()))
    return 0 if not result["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())
