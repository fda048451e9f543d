"""Mixed sessions for half an hour while processes are killed, stopped and started at random.

    python -m benchmarks.soak [--json] [--minutes N] [--seed N] [--model NAME] [--holders N] [--sessions N]

Real processes on loopback. One holder of each run of layers is left alone, so that no answer may be lost; the
others are killed, stopped for a while or for good, told to leave, and replaced. Sessions of all lengths,
greedy and drawn with a seed, chats and some that are left early are held against the same requests answered
before the trouble began. The memory of the processes left alone, and of this one, the entry peer, is sampled
over the whole time.

The exit code is 0 if nothing was lost or wrong, no process crashed, no session is left over and no memory
grows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from rich.table import Table

from benchmarks.shared import cache_directory, even_spans, percentile
from benchmarks.soak_memory import MemoryLog, resident_bytes
from benchmarks.soak_requests import Case, Tally, draw_cases, keep_asking
from benchmarks.soak_trouble import Trouble
from p2pinfer.cli.failures import run_command
from p2pinfer.cli.local_swarm import LocalSwarm, open_swarm, wait_for_holders
from p2pinfer.cli.output import console
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.client import connect

PART_COUNT = 3
SAMPLE_INTERVAL_S = 5.0
PROGRESS_INTERVAL_S = 60.0
CLOSE_TIMEOUT_S = 10.0
"""How long hops may take to hear that the last sessions are over."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, with whom and with what."""

    model: str
    cache_dir: Path
    duration_s: float
    seed: int = 1
    holders: int = 3
    """Of each run of layers, the one left alone included."""
    sessions: int = 4
    """At once."""
    cases: int = 24
    token_count_max: int = 64
    settings: Mapping[str, object] = field(
        default_factory=lambda: {"reuse": "prompts", "threads": 1, "cache_size_bytes_max": "128MiB"}
    )
    """What every node is told beside its place. The caches of ended sessions fill their budget in the first
    minutes: what is judged is whether anything grows beyond that."""


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--holders", type=int, default=3, help="of each run of layers, 2 or more")
    parser.add_argument("--sessions", type=int, default=4, help="at once")
    args = parser.parse_args()
    plan = Plan(
        model=args.model,
        cache_dir=cache_directory(),
        duration_s=60 * args.minutes,
        seed=args.seed,
        holders=args.holders,
        sessions=args.sessions,
    )

    def run() -> int:
        ModelStore(plan.cache_dir / "models").pull(plan.model)
        result = trio.run(measure, plan)
        if args.json:
            print(json.dumps(result))
        else:
            _show(result)
        return 0 if result["passed"] else 1

    return run_command(run, debug=False)


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the soak and return the figures."""
    rng = random.Random(plan.seed)
    layer_count = ModelStore(plan.cache_dir / "models").manifest_of(plan.model).layer_count
    spans = even_spans(layer_count, PART_COUNT)
    async with open_swarm(spans, model=plan.model, cache_dir=plan.cache_dir, settings=plan.settings) as swarm:
        cases = [
            await case.undisturbed(swarm)
            for case in draw_cases(rng, plan.cases, token_count_max=plan.token_count_max)
        ]
        logs = {node.pid: MemoryLog(f"{node.name} {node.span}") for node in swarm.nodes}
        logs[os.getpid()] = MemoryLog("entry peer")
        trouble = Trouble(swarm, [], random.Random(rng.random()))
        trouble.join_all(spans * (plan.holders - 1))
        await wait_for_holders(swarm, len(spans) * plan.holders)
        tally = await _soak(plan, trouble, cases, logs)
        crashed = trouble.crashed(steady=swarm.nodes[: len(spans)])
        left = await _sessions_left(swarm, list(logs))
    health = {"crashed": crashed, "sessions_left": left}
    return _result(plan, tally, trouble.counts, list(logs.values()), health)


async def _soak(plan: Plan, trouble: Trouble, cases: Sequence[Case], logs: Mapping[int, MemoryLog]) -> Tally:
    """Ask, make trouble and take samples, all at once."""
    tally = Tally()
    until_s = trio.current_time() + plan.duration_s
    async with trio.open_nursery() as around:
        around.start_soon(trouble.run)
        around.start_soon(_sample, logs)
        around.start_soon(_tell, tally, trouble)
        async with trio.open_nursery() as asking:
            for number in range(plan.sessions):
                rng = random.Random(f"{plan.seed}/{number}")
                asking.start_soon(partial(keep_asking, trouble.swarm, cases, rng, tally, until_s=until_s))
        around.cancel_scope.cancel()
    return tally


async def _sample(logs: Mapping[int, MemoryLog]) -> None:
    while True:
        for pid, log in logs.items():
            log.add(trio.current_time(), resident_bytes(pid))
        await trio.sleep(SAMPLE_INTERVAL_S)


async def _tell(tally: Tally, trouble: Trouble) -> None:
    started_s = trio.current_time()
    while True:
        await trio.sleep(PROGRESS_INTERVAL_S)
        print(
            f"{(trio.current_time() - started_s) / 60:.0f} min: {sum(tally.answered.values())} answers, "
            f"{len(tally.lost)} lost, {len(tally.wrong)} wrong; {dict(trouble.counts)}",
            file=sys.stderr,
        )


async def _sessions_left(swarm: LocalSwarm, pids: Sequence[int]) -> int:
    """Ask the processes that were left alone how many sessions they still hold, once all are over."""
    left = 0
    for node in swarm.nodes:
        if node.pid in pids and node.is_running:  # one that ended is told as crashed
            async with connect(node.directory) as client:
                with trio.move_on_after(CLOSE_TIMEOUT_S):
                    while (await client.status())["sessions"]:
                        await trio.sleep(0.1)
                left += (await client.status())["sessions"]
    return left


def _result(
    plan: Plan,
    tally: Tally,
    trouble_counts: Mapping[str, int],
    logs: Sequence[MemoryLog],
    health: Mapping[str, Any],
) -> dict[str, Any]:
    growing = [log.name for log in logs if log.is_growing]
    return {
        "passed": not (tally.lost or tally.wrong or growing or any(health.values())),
        "minutes": round(plan.duration_s / 60, 1),
        "seed": plan.seed,
        "answers": sum(tally.answered.values()),
        "answers_by_kind": dict(tally.answered),
        "left_early": tally.cancelled,
        "tokens": tally.token_count,
        "lost": len(tally.lost),
        "lost_reasons": tally.lost[:20],
        "wrong": len(tally.wrong),
        "wrong_texts": tally.wrong[:20],
        "trouble": dict(trouble_counts),
        "pauses": len(tally.pauses_ms),
        "pause_ms_p50": percentile(tally.pauses_ms, 0.5),
        "pause_ms_p95": percentile(tally.pauses_ms, 0.95),
        "pause_ms_max": percentile(tally.pauses_ms, 1.0),
        **health,
        "growing": growing,
        "memory": [log.figures() for log in logs],
    }


def _show(result: Mapping[str, Any]) -> None:
    """Print what is to be read by people."""
    facts = Table("fact", "figure", title="Soak")
    for name, figure in result.items():
        if name != "memory":
            facts.add_row(name, json.dumps(figure, ensure_ascii=False))
    console().print(facts)
    memory = Table(*result["memory"][0], title="Memory")
    for row in result["memory"]:
        memory.add_row(*map(str, row.values()))
    console().print(memory)


if __name__ == "__main__":
    sys.exit(main())
