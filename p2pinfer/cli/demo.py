"""`make demo`: six peers answer one prompt, and one of them is killed in mid-answer.

The prompt may be given in the environment variable PROMPT. The exit code is 0 only if the answer of the run
with the kill is, token by token, that of the unbroken run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import trio

from p2pinfer.cli.failures import run_command
from p2pinfer.cli.local_swarm import LocalNode, LocalSwarm, open_swarm
from p2pinfer.cli.output import console, say, write
from p2pinfer.cli.progress import progress
from p2pinfer.cli.status_screen import peer_table
from p2pinfer.errors import P2PInferError
from p2pinfer.ids import Span
from p2pinfer.wire.messages.inference import Sampling

if TYPE_CHECKING:
    from p2pinfer.models.store import PullProgress
    from p2pinfer.runtime.answer import Answer

__all__ = ["main"]

MODEL = "smollm2:135m"
PROMPT = "Explain in a few sentences why the sky is blue."
SPANS = (Span(0, 10), Span(10, 20), Span(20, 30)) * 2
TOKEN_COUNT_MAX = 80


def main() -> int:
    """Run the demonstration and return the exit code."""
    prompt = os.environ.get("PROMPT") or PROMPT
    cache_dir = Path(
        os.environ.get("P2PINFER_CACHE") or platformdirs.user_cache_dir("p2pinfer", appauthor=False)
    )
    return run_command(lambda: trio.run(_run, prompt, cache_dir), debug="--debug" in sys.argv)


async def _run(prompt: str, cache_dir: Path) -> int:
    outcome = 130
    async with trio.open_nursery() as nursery:
        # A terminated demonstration cleans up as an interrupted one does.
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
        await trio.to_thread.run_sync(_pull, cache_dir)
        say(f"Starting six node processes, each with ten of the 30 layers of {MODEL} ...")
        async with open_swarm(SPANS, model=MODEL, cache_dir=cache_dir) as swarm:
            console().print(peer_table(swarm.peer.status()))
            outcome = await _compare(swarm, prompt)
        nursery.cancel_scope.cancel()
    return outcome


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _pull(cache_dir: Path) -> None:
    from p2pinfer.models.store import ModelStore

    with progress() as show:

        def on_progress(step: PullProgress) -> None:
            show(f"{MODEL}: {step.phase}", step.done, step.total, "bytes")

        ModelStore(cache_dir / "models").pull(MODEL, on_progress)


async def _compare(swarm: LocalSwarm, prompt: str) -> int:
    say(f"1. The unbroken run. Prompt: {prompt}\n")
    unbroken = await _answer(swarm, prompt, lambda answer: None)
    say("\n\n2. The same prompt, and a peer that is in use is killed (kill -9) in mid-answer.\n")
    killed: list[LocalNode] = []
    before: list[str] = []

    def kill_in_the_middle(answer: Answer) -> None:
        if not killed and len(answer.token_ids) >= max(1, unbroken["tokens"] // 2):
            hop = answer.chain[len(answer.chain) // 2]
            node = swarm.node_of(str(hop.contact.peer))
            if node is not None:
                before.append(_hops((str(h.contact.peer), f"{h.start}:{h.end}") for h in answer.chain))
                node.kill()
                killed.append(node)
                write(f" [killed {str(hop.contact.peer)[:8]}, layers {hop.span}, pid {node.pid}] ")

    broken = await _answer(swarm, prompt, kill_in_the_middle)
    say(f"\n\nchain before       {''.join(before)}")
    return _report(unbroken, broken, killed)


async def _answer(swarm: LocalSwarm, prompt: str, after_token: Callable[[Answer], None]) -> dict[str, Any]:
    answer = swarm.peer.generate(prompt, model=MODEL, sampling=Sampling(token_count_max=TOKEN_COUNT_MAX))
    async for token in answer:
        write(token.text)
        after_token(answer)
    return answer.summary


def _report(unbroken: dict[str, Any], broken: dict[str, Any], killed: list[LocalNode]) -> int:
    is_same = unbroken["token_ids"] == broken["token_ids"] and unbroken["text"] == broken["text"]
    stalls_ms = [recovery["stall_ms"] for recovery in broken["recoveries"]]
    counts = f"{unbroken['tokens']} and {broken['tokens']}"
    say(f"chain after        {_hops((hop['peer'], hop['span']) for hop in broken['chain'])}")
    say(f"peers killed       {len(killed)}")
    say(f"same tokens        {'yes' if is_same else 'NO'} ({counts} compared)")
    say(f"tokens a second    {_speed(unbroken)} unbroken, {_speed(broken)} with the kill")
    say(f"pause              {', '.join(f'{ms:.0f} ms' for ms in stalls_ms) or 'none'}")
    if killed and is_same and (stalls_ms or unbroken["tokens"] < 2):
        return 0
    if not is_same:
        raise P2PInferError("the answers differ: this is a bug, please report it with the prompt")
    raise P2PInferError("no peer was killed in mid-answer: try a prompt with a longer answer")


def _hops(hops: Iterable[tuple[str, str]]) -> str:
    return " > ".join(f"{peer[:8]} [{span}]" for peer, span in hops)


def _speed(summary: dict[str, Any]) -> str:
    speed = summary["tokens_per_s"]
    return "-" if speed is None else f"{speed:.1f}"


if __name__ == "__main__":
    sys.exit(main())
