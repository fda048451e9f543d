"""llama.cpp on the same file, in a process of its own that ends when its figures are printed.

    python -m benchmarks.llama_cpp MODEL.gguf QUESTIONS.json

Needs the wheel `xllamacpp` (llama.cpp's server as a library). It computes on the processor alone; the wheel
uses AVX2 at most, which the `system` of its answer tells. Of the samplers the cheapest that is greedy is on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from p2pinfer.errors import ConfigError, UnavailableError

__all__ = ["Questions", "Speeds", "check_llama_cpp", "run_llama_cpp"]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked of either side: token ids, so that no tokenizer comes between them."""

    short: tuple[int, ...]
    """The prompt of the single-stream answer."""
    long: tuple[int, ...]
    """The prompt whose time to the first token is taken."""
    together: tuple[tuple[int, ...], ...]
    """The prompts of the sessions that run at once."""
    token_count: int
    """Tokens of the single-stream answer and of each answer of those together."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Tokens a second, by one definition for both sides."""

    decode: float
    """Of one answer, after its first token."""
    prefill: float
    """Tokens of the long prompt over the time from the question to the first token."""
    sessions: float
    """All tokens of the sessions together over the time from the first question to the last token."""


def check_llama_cpp() -> None:
    """Tell early that there is nothing to measure against.

    Raises:
        ConfigError: The wheel is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("llama.cpp is not installed: pip install 'p2pinfer[bench]'")


async def run_llama_cpp(path: Path, questions: Questions, thread_count: int) -> tuple[Speeds, str]:
    """Measure llama.cpp; the second part of the result says what it was compiled for.

    Raises:
        ConfigError: The wheel is not installed.
        UnavailableError: The process failed; the message has its last words.
    """
    check_llama_cpp()
    with tempfile.TemporaryDirectory(prefix="p2pinfer-bench-") as folder:
        file = Path(folder) / "questions.json"
        file.write_text(json.dumps({**asdict(questions), "thread_count": thread_count}))
        command = [sys.executable, "-m", "benchmarks.llama_cpp", str(path), str(file)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnavailableError(f"llama.cpp ended with code {done.returncode}: {(words or ['-'])[-1]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Speeds(**answer["speeds"]), answer["system"]


def _library() -> Any:
    """The wheel's module: it has no types."""
    return importlib.import_module("xllamacpp")


def _server(path: str, thread_count: int, slot_count: int) -> Any:
    """Load the model; a slot each for so many sessions, caches not shared: faster so."""
    params = _library().CommonParams()
    params.model.path = path
    params.n_gpu_layers = 0
    params.n_parallel = slot_count
    params.n_ctx = 1024 * slot_count
    params.kv_unified = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = thread_count
    params.cache_ram_mib = 0
    params.verbosity = -1
    return _library().Server(params)


def _ask(server: Any, prompt: Sequence[int], token_count: int) -> dict[str, Any]:
    question = {
        "prompt": list(prompt),
        "max_tokens": token_count,
        "ignore_eos": True,
        "cache_prompt": False,
        "samplers": ["top_k"],
        "top_k": 1,
    }
    answer: dict[str, Any] = server.handle_completions(question)
    if answer.get("timings", {}).get("predicted_n") != token_count:
        raise UnavailableError(f"llama.cpp did not answer: {str(answer)[:200]}")
    return answer


def _measure(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    together, count = asked["together"], asked["token_count"]
    server = _server(path, asked["thread_count"], len(together))
    _ask(server, asked["short"], 16)
    decode = _ask(server, asked["short"], count)["timings"]["predicted_per_second"]
    started = time.perf_counter()
    _ask(server, asked["long"], 1)
    prefill_s = time.perf_counter() - started
    started = time.perf_counter()
    with ThreadPoolExecutor(len(together)) as pool:
        list(pool.map(lambda prompt: _ask(server, prompt, count), together))
    sessions_s = time.perf_counter() - started
    speeds = Speeds(
        decode=decode,
        prefill=len(asked["long"]) / prefill_s,
        sessions=count * len(together) / sessions_s,
    )
    return {"speeds": asdict(speeds), "system": str(_library().get_system_info()).strip(" |")}


if __name__ == "__main__":
    try:
        print(json.dumps(_measure(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))))
    except UnavailableError as error:
        sys.exit(str(error))
