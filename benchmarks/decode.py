"""A chain of four peer processes beside llama.cpp in one process: the same file, tokens and machine.

    python -m benchmarks.decode [--json] [--rounds N] [--engine NAME] [--threads 1,2] [--spans 0:8,8:16,...]

Every round measures, one after the other: llama.cpp on one thread, llama.cpp on two, and for each setup a
chain of one node process for each span and a chain of one process for the whole model. Each is started for
its turn and ended after it, so that nothing of ours runs beside what is measured. Of every figure the median
over the rounds is told, and ratios are ratios of medians. The figures of the first setup stand at the top,
those of the others under their names, such as `float32` or `int8_2_threads`.

Four processes with one thread each compute a single answer on one core at a time, and many answers or a
long prompt on all; with two threads each they fight for two cores as soon as there is more than one answer.

- decode: tokens a second of a single answer after its first token.
- prefill_512: 512 over the time from the question to the first token, opening the session included.
- sessions_16: all tokens of 16 answers at once over the time from the first question to the last token.
- hop_ms_p50: what a hop adds to a token: (four processes' median - one process's) / 3.
- perplexity_ratio: that of the engine on a fixed text over that of the float32 reference.

llama.cpp comes with `pip install 'p2pinfer[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from benchmarks.chain_speed import ChainFigures, Setup, measure_chain, measure_token_ms
from benchmarks.llama_cpp import Questions, Speeds, check_llama_cpp, run_llama_cpp
from benchmarks.perplexity import run_perplexity
from benchmarks.shared import cache_directory
from p2pinfer.cli.failures import run_command
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Span
from p2pinfer.models.store import ModelStore

SEED = 1
VOCABULARY = range(1000, 30000)
"""Ids of plain tokens in every vocabulary that is measured."""
PROMPT_SHORT, PROMPT_LONG, SESSION_COUNT = 8, 512, 16
REFERENCE: Mapping[str, object] = {"engine": "numpy"}
THREAD_COUNTS = (1, 2)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--spans", default="0:8,8:16,16:24,24:30", help="the layers of each process")
    parser.add_argument("--engine", default="onnx", help="what the nodes compute with")
    parser.add_argument("--accuracy", default="int8,float32", help="of the onnx engine, the main one first")
    parser.add_argument("--threads", default="1,2", help="of each node process; after the first int8 alone")
    args = parser.parse_args()
    return run_command(lambda: _run(args), debug=False)


def _run(args: argparse.Namespace) -> int:
    check_llama_cpp()
    cache_dir = cache_directory()
    store = ModelStore(cache_dir / "models")
    store.pull(args.model)
    setups = {
        name: Setup(model=args.model, cache_dir=cache_dir, settings=settings)
        for name, settings in choose_settings(args.engine, args.accuracy, args.threads).items()
    }
    spans = [Span.parse(text) for text in args.spans.split(",")]
    bench = Bench(store.path_of(args.model), spans, draw_questions(args.tokens), setups)
    result = trio.run(bench.run, args.rounds)
    result = {"engine": args.engine, "model": args.model, **result}
    print(json.dumps(result) if args.json else json.dumps(result, indent=2))
    return 0


def choose_settings(engine: str, accuracies: str, thread_counts: str) -> dict[str, dict[str, object]]:
    """Return what nodes are told in each setup, by its name: each accuracy, then the first with more threads.

    Raises:
        ConfigError: A count of threads is no number.
    """
    if not all(count.isdigit() for count in thread_counts.split(",")):
        raise ConfigError(f"threads is {thread_counts!r}; it must be numbers, as in 1,2")
    threads, *more = map(int, thread_counts.split(","))
    if engine == "numpy":
        return {"float32": {"engine": engine, "threads": threads}}
    first, *_ = names = accuracies.split(",")
    setups: dict[str, dict[str, object]] = {
        name: {"engine": engine, "accuracy": name, "threads": threads} for name in names
    }
    for count in more:
        setups[f"{first}_{count}_threads"] = {"engine": engine, "accuracy": first, "threads": count}
    return setups


def draw_questions(token_count: int) -> Questions:
    """Draw the prompts: the same in every run."""
    rng = random.Random(SEED)

    def prompt(count: int) -> tuple[int, ...]:
        return tuple(rng.choices(VOCABULARY, k=count))

    return Questions(
        short=prompt(PROMPT_SHORT),
        long=prompt(PROMPT_LONG),
        together=tuple(prompt(PROMPT_SHORT) for _ in range(SESSION_COUNT)),
        token_count=token_count,
    )


@dataclass(kw_only=True)
class Rounds:
    """What the rounds gave for one setup."""

    chain: list[ChainFigures] = field(default_factory=list)
    single_ms: list[float] = field(default_factory=list)


class Bench:
    """The rounds and their medians."""

    def __init__(
        self, path: Path, spans: Sequence[Span], questions: Questions, setups: Mapping[str, Setup]
    ) -> None:
        self._path = path
        self._spans = spans
        self._questions = questions
        self._setups = setups
        self._theirs: dict[int, list[Speeds]] = {count: [] for count in THREAD_COUNTS}
        self._ours = {name: Rounds() for name in setups}
        self._system = ""

    async def run(self, round_count: int) -> dict[str, Any]:
        """Measure and return the figures; what else ran on the machine before is told, too."""
        load_before, _, _ = os.getloadavg()
        for number in range(round_count):
            for count, speeds in self._theirs.items():
                measured, self._system = await run_llama_cpp(self._path, self._questions, count)
                speeds.append(measured)
            for name, setup in self._setups.items():
                rounds = self._ours[name]
                rounds.chain.append(await measure_chain(setup, self._spans, self._questions))
                whole = Span(self._spans[0].start, self._spans[-1].end)
                rounds.single_ms.append(await measure_token_ms(setup, [whole], self._questions))
            print(f"round {number + 1} of {round_count}", file=sys.stderr)
        reference = await run_perplexity(self._path, REFERENCE)
        blocks = {
            name: self._block(name, await run_perplexity(self._path, setup.settings) / reference)
            for name, setup in self._setups.items()
        }
        main, *others = blocks
        return {
            **blocks[main],
            **{name: blocks[name] for name in others},
            "spans": [f"{span.start}:{span.end}" for span in self._spans],
            "rounds": round_count,
            "load_average_before": round(load_before, 2),
            "llama_cpp_built_for": self._system,
        }

    def _block(self, name: str, perplexity_ratio: float) -> dict[str, Any]:
        """The figures of one setup."""
        rounds, settings = self._ours[name], self._setups[name].settings
        chain_ms = statistics.median(figures.token_ms for figures in rounds.chain)
        hop_count = len(self._spans) - 1
        return {
            "accuracy": settings.get("accuracy", "float32"),
            "node_threads": settings["threads"],
            "decode": self._beside([figures.speeds.decode for figures in rounds.chain], "decode"),
            "prefill_512": self._beside([figures.speeds.prefill for figures in rounds.chain], "prefill"),
            "sessions_16": self._beside([figures.speeds.sessions for figures in rounds.chain], "sessions"),
            "hop_ms_p50": round((chain_ms - statistics.median(rounds.single_ms)) / max(1, hop_count), 3),
            "perplexity_ratio": round(perplexity_ratio, 5),
        }

    def _beside(self, ours: Sequence[float], name: str) -> dict[str, float]:
        """One of our speeds beside llama.cpp's."""
        speed = statistics.median(ours)
        one, two = (
            statistics.median(getattr(speeds, name) for speeds in self._theirs[count])
            for count in THREAD_COUNTS
        )
        return {
            "ours_tok_s": round(speed, 1),
            "llama_cpp_1_thread_tok_s": round(one, 1),
            "llama_cpp_2_threads_tok_s": round(two, 1),
            "ratio_1": round(speed / one, 3),
            "ratio_2": round(speed / two, 3),
        }


if __name__ == "__main__":
    sys.exit(main())
