"""Kills and stops peers at random moments of an answer and holds every text against the undisturbed one.

    python -m benchmarks.kills [--json] [--kills N] [--stops N] [--holders N] [--seed N] [--model NAME]

Real processes on loopback, four holders for each run of layers. Each answer loses one peer of its chain,
drawn at random, at a moment drawn over the whole of the undisturbed run, the prompt included: to `kill -9`,
or to `kill -STOP`, which leaves its connections open; the process is ended when the answer is there. A new
one takes its place before the next.

A pause is what a reader feels: the time from the last token before the failure to the first one after it. For
a peer lost before the first token it is what that token came later than in the undisturbed run. Both kinds of
failure are told apart, and the places in the chain are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from benchmarks.shared import cache_directory, even_spans, percentile
from p2pinfer.cli.failures import run_command
from p2pinfer.cli.local_swarm import START_TIMEOUT_S, LocalNode, LocalSwarm, open_swarm, wait_until
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.answer import Answer
from p2pinfer.wire.messages.inference import Sampling

PART_COUNT = 3
STORY = (
    "The lighthouse keeper climbed the winding stairs each evening, counted the ships that passed, wrote "
    "their names into a heavy book, trimmed the wick, polished the glass and waited for the fog to lift. "
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One kind of answer."""

    prompt: str
    token_count: int
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, swarm: LocalSwarm) -> Answer:
        """Begin the answer."""
        sampling = Sampling(token_count_max=self.token_count, **self.sampling)
        return swarm.peer.generate(self.prompt, model=swarm.model, sampling=sampling)


QUESTIONS = (
    Question(prompt="Explain in a few sentences why the sky is blue.", token_count=48),
    Question(prompt="List five uses of a paper clip.", token_count=96),
    Question(prompt="def fibonacci(n):", token_count=24, sampling={"temperature": 0.8, "seed": 5}),
    Question(prompt=f"Continue this story: {STORY * 4}", token_count=40),
    Question(
        prompt=f"Summarise in one sentence: {STORY * 2}",
        token_count=32,
        sampling={"temperature": 1.0, "top_k": 40, "repeat_penalty": 1.1, "seed": 11},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to whom."""

    model: str
    cache_dir: Path
    kills: int
    stops: int = 0
    holders: int = 4
    """Of each run of layers."""
    seed: int = 1
    questions: tuple[Question, ...] = QUESTIONS
    settings: Mapping[str, object] = field(default_factory=dict)
    """What every node is told beside its place."""

    def signals(self, rng: random.Random) -> list[signal.Signals]:
        """The failures, in an order drawn."""
        drawn = [signal.SIGKILL] * self.kills + [signal.SIGSTOP] * self.stops
        rng.shuffle(drawn)
        return drawn


@dataclass(slots=True)
class Outcome:
    """What failures of one kind did."""

    count: int = 0
    equal: int = 0
    by_place: Counter[int] = field(default_factory=Counter)
    pauses_ms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "count": self.count,
            "equal": self.equal,
            "answers_with_a_pause": len(self.pauses_ms),
            "by_place_in_the_chain": {str(place): n for place, n in sorted(self.by_place.items())},
            "pause_ms_p50": percentile(self.pauses_ms, 0.5),
            "pause_ms_p95": percentile(self.pauses_ms, 0.95),
            "pause_ms_max": percentile(self.pauses_ms, 1.0),
        }


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kills", type=int, default=50, help="processes ended by kill -9")
    parser.add_argument("--stops", type=int, default=0, help="processes stopped by kill -STOP")
    parser.add_argument("--holders", type=int, default=4, help="of each run of layers, 2 or more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="smollm2:135m")
    args = parser.parse_args()
    cache_dir = cache_directory()
    plan = Plan(
        model=args.model,
        cache_dir=cache_dir,
        kills=args.kills,
        stops=args.stops,
        holders=args.holders,
        seed=args.seed,
    )

    def run() -> int:
        ModelStore(cache_dir / "models").pull(args.model)
        result = trio.run(measure, plan)
        print(json.dumps(result) if args.json else json.dumps(result, indent=2))
        return 0 if result["equal"] == result["failures"] else 1

    return run_command(run, debug=False)


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the answers and return the figures."""
    rng = random.Random(plan.seed)
    layer_count = ModelStore(plan.cache_dir / "models").manifest_of(plan.model).layer_count
    spans = even_spans(layer_count, PART_COUNT) * plan.holders
    outcomes = {signal.SIGKILL: Outcome(), signal.SIGSTOP: Outcome()}
    async with open_swarm(spans, model=plan.model, cache_dir=plan.cache_dir, settings=plan.settings) as swarm:
        undisturbed = [await Undisturbed.of(question, swarm) for question in plan.questions]
        for signal_number in plan.signals(rng):
            victim = None
            while victim is None:  # an answer may be done before the moment comes: nothing to compare
                expected = rng.choice(undisturbed)
                victim = await _disturb(swarm, expected, signal_number, rng, outcomes[signal_number])
            victim.kill(signal.SIGKILL)
            swarm.start(victim.span)
            await _wait_for_all(swarm)
    both = outcomes.values()
    return {
        "failures": sum(outcome.count for outcome in both),
        "equal": sum(outcome.equal for outcome in both),
        "holders": plan.holders,
        "killed": outcomes[signal.SIGKILL].figures(),
        "stopped": outcomes[signal.SIGSTOP].figures(),
        "token_ms_p50_undisturbed": round(
            1000 / statistics.median(each.summary["tokens_per_s"] for each in undisturbed), 1
        ),
        "seed": plan.seed,
    }


@dataclass(frozen=True)
class Undisturbed:
    """An answer that lost nobody."""

    question: Question
    summary: dict[str, Any]
    duration_s: float

    @classmethod
    async def of(cls, question: Question, swarm: LocalSwarm) -> Undisturbed:
        """Ask and wait for the end."""
        started = trio.current_time()
        answer = question.ask(swarm)
        async for _ in answer:
            pass
        return cls(question, answer.summary, trio.current_time() - started)


async def _wait_for_all(swarm: LocalSwarm) -> None:
    """Wait until the holders that the swarm knows are the processes that run."""

    def are_equal() -> bool:
        running = {node.peer_id() for node in swarm.nodes if node.is_running}
        return running == {
            peer["peer"] for peer in swarm.peer.status()["peers"] if peer["state"] == "alive" and peer["span"]
        }

    await wait_until(are_equal, timeout_s=START_TIMEOUT_S)


async def _disturb(
    swarm: LocalSwarm,
    expected: Undisturbed,
    signal_number: signal.Signals,
    rng: random.Random,
    outcome: Outcome,
) -> LocalNode | None:
    """Run an answer to its end while one peer of its chain fails; returns the node that did."""
    answer = expected.question.ask(swarm)
    lost: list[LocalNode] = []
    tokens_before = 0

    async def fail_later() -> None:
        nonlocal tokens_before
        await trio.sleep(rng.uniform(0.02, 0.95) * expected.duration_s)
        place = rng.randrange(len(answer.chain)) if answer.chain else 0
        node = swarm.node_of(str(answer.chain[place].contact.peer)) if answer.chain else None
        if node is not None:
            tokens_before = len(answer.token_ids)
            node.kill(signal_number)
            lost.append(node)
            outcome.by_place[place] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_later)
        async for _ in answer:
            pass
        nursery.cancel_scope.cancel()
    if not lost:
        return None
    summary = answer.summary
    pause_ms = sum(recovery["stall_ms"] for recovery in summary["recoveries"])
    if pause_ms and not tokens_before:
        pause_ms = max(0.0, pause_ms - expected.summary["first_token_ms"])
    outcome.count += 1
    is_equal = all(summary[part] == expected.summary[part] for part in ("text", "token_ids"))
    outcome.equal += is_equal
    outcome.pauses_ms += [pause_ms] if summary["recoveries"] else []
    print(
        f"{signal_number.name} {outcome.count}: layers {lost[0].span} after {tokens_before} tokens, "
        f"{'equal' if is_equal else 'NOT EQUAL'}, {pause_ms:.0f} ms",
        file=sys.stderr,
    )
    return lost[0]


if __name__ == "__main__":
    sys.exit(main())
