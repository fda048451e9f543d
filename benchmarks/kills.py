"""Kills peers at random moments of an answer and holds every text against the unbroken one.

    python -m benchmarks.kills [--json] [--kills N] [--seed N] [--model NAME] [--tokens N]

Real processes on loopback, two holders for each run of layers. Each answer loses one peer that is in use to
`kill -9` at a moment drawn over the whole of the unbroken run, the prompt included; a new process takes its
place before the next. A pause is the time from the last token before the kill to the first one after it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import platformdirs
import trio

from p2pinfer.cli.local_swarm import LocalSwarm, open_swarm, wait_for_holders
from p2pinfer.ids import Span
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.answer import Answer
from p2pinfer.wire.messages.inference import Sampling

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short poem about a lighthouse.",
    "List five uses of a paper clip.",
    "def fibonacci(n):",
)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each answer")
    args = parser.parse_args()
    cache_dir = Path(
        os.environ.get("P2PINFER_CACHE") or platformdirs.user_cache_dir("p2pinfer", appauthor=False)
    )
    ModelStore(cache_dir / "models").pull(args.model)
    result = trio.run(measure, args.model, cache_dir, args.kills, args.seed, args.tokens)
    print(json.dumps(result) if args.json else "\n".join(f"{k:20} {v}" for k, v in result.items()))
    return 0 if result["equal"] == result["kills"] else 1


async def measure(model: str, cache_dir: Path, kills: int, seed: int, token_count: int) -> dict[str, Any]:
    """Run the answers and return the figures."""
    rng = random.Random(seed)
    layer_count = ModelStore(cache_dir / "models").manifest_of(model).layer_count
    cuts = [round(layer_count * n / 3) for n in range(4)]
    spans = [Span(a, b) for a, b in itertools.pairwise(cuts)] * 2
    stalls_ms: list[float] = []
    equal = killed = recovered = 0
    async with open_swarm(spans, model=model, cache_dir=cache_dir) as swarm:
        unbroken = [await _timed(swarm, model, prompt, token_count) for prompt in PROMPTS]
        while killed < kills:
            which = rng.randrange(len(PROMPTS))
            expected, duration_s = unbroken[which]
            answer = _ask(swarm, model, PROMPTS[which], token_count)
            victim = await _run_with_a_kill(swarm, answer, rng, duration_s)
            if victim is None:
                continue  # the answer was done before the moment came: no kill, nothing to compare
            killed += 1
            summary = answer.summary
            equal += summary["text"] == expected["text"] and summary["token_ids"] == expected["token_ids"]
            recovered += bool(summary["recoveries"])
            stalls_ms += [recovery["stall_ms"] for recovery in summary["recoveries"]]
            print(f"kill {killed}: layers {victim}, {summary['recoveries'] and 'mended'}", file=sys.stderr)
            swarm.start(victim)
            await wait_for_holders(swarm, len(spans))
    return {
        "kills": killed,
        "equal": equal,
        "answers_with_a_pause": recovered,
        "pause_ms_p50": round(statistics.median(stalls_ms), 1) if stalls_ms else None,
        "pause_ms_p95": round(_percentile(stalls_ms, 0.95), 1) if stalls_ms else None,
        "pause_ms_max": round(max(stalls_ms), 1) if stalls_ms else None,
        "token_ms_p50_unbroken": round(1000 / statistics.median(s["tokens_per_s"] for s, _ in unbroken), 1),
        "seed": seed,
    }


def _ask(swarm: LocalSwarm, model: str, prompt: str, token_count: int) -> Answer:
    return swarm.peer.generate(prompt, model=model, sampling=Sampling(token_count_max=token_count))


async def _timed(swarm: LocalSwarm, model: str, prompt: str, count: int) -> tuple[dict[str, Any], float]:
    started = trio.current_time()
    answer = _ask(swarm, model, prompt, count)
    async for _ in answer:
        pass
    return answer.summary, trio.current_time() - started


async def _run_with_a_kill(
    swarm: LocalSwarm, answer: Answer, rng: random.Random, duration_s: float
) -> Span | None:
    """Run an answer to its end; returns the layers of the peer that was killed on the way."""
    killed: list[Span] = []

    async def kill_later() -> None:
        await trio.sleep(rng.uniform(0.02, 0.95) * duration_s)
        hop = rng.choice(answer.chain) if answer.chain else None
        node = swarm.node_of(str(hop.contact.peer)) if hop else None
        if hop is not None and node is not None:
            node.kill()
            killed.append(node.span)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_later)
        async for _ in answer:
            pass
        nursery.cancel_scope.cancel()
    return killed[0] if killed else None


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())
