"""`generate`: one prompt, one answer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from p2pinfer.cli import connection
from p2pinfer.cli.arguments import add_node, add_sampling, sampling_of
from p2pinfer.cli.output import harmless, say, write
from p2pinfer.wire.messages.client import GenerateRequest

__all__ = ["EPILOG", "configure", "run", "stats_line"]

TOKENS_COUNT_MAX = 256
"""A few paragraphs: long enough for an answer, short enough not to surprise."""

EPILOG = """\
examples:
  p2pinfer generate "Why is the sky blue?"
  echo "Translate: good morning" | p2pinfer generate - --temperature 0.7 --seed 1 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads it from the standard input")
    parser.add_argument("--model", default="", help="which model, where the swarm serves several")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer at this text; may be repeated",
    )
    parser.add_argument(
        "--raw", action="store_true", help="continue the prompt as it is, without the chat template"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, nothing before"
    )
    parser.add_argument("--stats", action="store_true", help="say on stderr how fast it was, and by whom")
    add_sampling(parser, token_count_max=TOKENS_COUNT_MAX)
    add_node(parser)


def run(args: argparse.Namespace) -> int:
    """Ask a node and print the answer."""
    import trio

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    request = GenerateRequest(
        model=args.model, prompt=prompt, raw=args.raw, sampling=sampling_of(args), stop=tuple(args.stop)
    )
    summary = trio.run(_ask, args, request)
    if args.json:
        say(json.dumps(summary))
    else:
        say("")
    if args.stats:
        print(harmless(stats_line(summary)), file=sys.stderr)
    return 0


async def _ask(args: argparse.Namespace, request: GenerateRequest) -> dict[str, Any]:
    async with connection.open_client(args) as client:
        return await connection.stream_answer(client, request, _discard if args.json else write)


def _discard(_: str) -> None:
    """Show nothing: the summary holds the whole text."""


def stats_line(summary: dict[str, Any]) -> str:
    """Return the figures of an answer in one line; a node of another version may say less."""
    hops = [f"{str(hop.get('peer'))[:8]} [{hop.get('span')}]" for hop in summary.get("chain", ())]
    stalls = [f"{recovery.get('stall_ms', 0):.0f} ms" for recovery in summary.get("recoveries", ())]
    return (
        f"{summary.get('tokens', 0)} tokens at {summary.get('tokens_per_s') or 0:.1f} tokens/s, "
        f"{summary.get('prompt_tokens', 0)} in the prompt, recoveries: {', '.join(stalls) or 'none'}, "
        f"chain {' > '.join(hops) or 'unknown'}"
    )
