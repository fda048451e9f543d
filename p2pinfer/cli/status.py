"""`status`: what a node does, who is in its swarm, and whether every layer is held.

It shows what `peer.status()` returns; `docs/cli.md` lists the keys. What is not there is shown as a dash or
left out: nodes of another version may say less.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from p2pinfer.cli import connection
from p2pinfer.cli.arguments import add_node, checked
from p2pinfer.cli.output import console, say
from p2pinfer.cli.status_screen import status_screen

__all__ = ["EPILOG", "configure", "run"]

EPILOG = """\
examples:
  p2pinfer status
  p2pinfer status --watch
  p2pinfer status --node 192.168.1.5:7946 --json
"""

WATCH_S = 2.0
WATCH_S_MIN = 0.1
"""Asking costs the node a fraction of a millisecond."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=checked(_seconds),
        const=WATCH_S,
        metavar="SECONDS",
        help=f"ask again and again, every {WATCH_S:g} seconds if not said otherwise; Ctrl-C ends it",
    )
    add_node(parser)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if not WATCH_S_MIN <= value <= 86400:
        raise ValueError(f"{text} is not between {WATCH_S_MIN:g} and 86400 seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Ask a node and print its answer."""
    import trio

    if args.watch is None:
        _show_once(args.json)(trio.run(_ask, args))
        return 0
    try:
        trio.run(_watch, args)
    except KeyboardInterrupt:
        pass  # that is how it ends
    return 0


async def _ask(args: argparse.Namespace) -> dict[str, Any]:
    async with connection.open_client(args) as client:
        return await client.status()


async def _watch(args: argparse.Namespace) -> None:
    import trio

    async with connection.open_client(args) as client:
        status = await client.status()
        if args.json or not sys.stdout.isatty():
            show = _show_once(args.json)
            while True:
                show(status)
                sys.stdout.flush()
                await trio.sleep(args.watch)
                status = await client.status()
        from rich.live import Live

        with Live(status_screen(status), console=console(), screen=True, auto_refresh=False) as live:
            while True:
                await trio.sleep(args.watch)
                live.update(status_screen(await client.status()), refresh=True)


def _show_once(as_json: bool) -> Callable[[dict[str, Any]], None]:
    if as_json:
        return lambda status: say(json.dumps(status))
    return lambda status: console().print(status_screen(status))
