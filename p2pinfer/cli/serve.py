"""Running a node in the foreground: its flags, its signals and what it says."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from p2pinfer.cli.arguments import LineParser, add_debug
from p2pinfer.cli.output import harmless, say
from p2pinfer.cli.progress import progress
from p2pinfer.cli.settings_page import default_text
from p2pinfer.config import NodeConfig, flag_of

if TYPE_CHECKING:
    import trio

    from p2pinfer.runtime.progress import OnProgress, Progress

__all__ = ["Open", "ServedPeer", "chosen_settings", "make_parser", "serve", "start_logging"]

DESCRIPTION = """\
Run a node: a peer that holds layers of a model and answers prompts together with the others of its swarm.

Without --join it founds a swarm (or goes back to its own) and prints an invite for the other machines.
Ctrl-C lets it leave the swarm properly; a second Ctrl-C does not wait for that.
"""

EPILOG = """\
examples:
  python -m p2pinfer.node --model smollm2:135m
  python -m p2pinfer.node --model smollm2:135m --span 0:15 --join p2pinfer:...

Every flag can stand in a file, read with --config: see docs/settings.md.
"""


class ServedPeer(Protocol):
    """What a node program needs of a peer, as `runtime/peer.py` makes it."""

    @property
    def invite(self) -> str | None:
        """The invite to the swarm, for its owner."""
        ...

    def status(self) -> dict[str, Any]:
        """How the peer is; see `cli/status.py`."""
        ...

    async def wait_closed(self) -> None:
        """Wait until the peer has ended."""
        ...


class Open(Protocol):
    """What opens a peer: `runtime.peer.open_peer`, or a test's own."""

    def __call__(
        self, config: NodeConfig, *, on_progress: OnProgress
    ) -> AbstractAsyncContextManager[ServedPeer]:
        """Start a peer; leaving the context lets it leave the swarm."""
        ...


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with a flag for every field of `NodeConfig`."""
    parser = LineParser(prog="python -m p2pinfer.node", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; flags go over it")
    for setting in dataclasses.fields(NodeConfig):
        default = default_text(setting)
        options: dict[str, Any] = {"metavar": setting.metadata["metavar"] or setting.name.upper()}
        if isinstance(setting.default, bool):
            options = {"action": "store_const", "const": not setting.default}
            default = ""
        elif setting.default == ():  # a list: each time the flag is given adds one
            options["action"] = "append"
        parser.add_argument(
            flag_of(setting),
            dest=setting.name,
            default=argparse.SUPPRESS,
            help=setting.metadata["help"].replace("%", "%%") + (f" (default: {default})" if default else ""),
            **options,
        )
    add_debug(parser)
    return parser


def chosen_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings that were given as flags, by field name."""
    given = vars(args)
    names = [setting.name for setting in dataclasses.fields(NodeConfig)]
    return {name: given[name] for name in names if name in given}


def start_logging(level: str) -> None:
    """Log to stderr: stdout carries the invite."""
    handlers = [_StderrHandler(sys.stderr)]
    logging.basicConfig(
        level=level.upper(), handlers=handlers, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now: while a bar is shown, that puts a line above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


async def serve(open_peer: Open, config: NodeConfig) -> None:
    """Run a peer until it ends or a signal comes."""
    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, ExitStack() as starting:
        show = starting.enter_context(progress())

        def on_progress(news: Progress) -> None:
            show(news.work, news.done, news.total, news.unit)

        async with trio.open_nursery() as nursery:
            scopes = [nursery.cancel_scope]
            nursery.start_soon(_stop_on_signals, signals, scopes)
            async with open_peer(config, on_progress=on_progress) as peer:
                starting.close()
                for line in greeting(peer.status(), peer.invite):
                    say(line)
                sys.stdout.flush()
                with trio.CancelScope() as waiting:
                    scopes.append(waiting)
                    await peer.wait_closed()
            nursery.cancel_scope.cancel()


async def _stop_on_signals(signals: AsyncIterator[int], scopes: list[trio.CancelScope]) -> None:
    """Cancel from the innermost scope outwards, one for each signal.

    The first ends only the waiting, so that the peer leaves its swarm properly; the second does not wait.
    """
    async for _ in signals:
        if scopes:
            scopes.pop().cancel()


def greeting(status: Mapping[str, Any], invite: str | None) -> list[str]:
    """Return the lines that a started node prints."""
    name = str(status.get("name") or str(status.get("peer", ""))[:8])
    layers = (
        f"serves layers {status['span']} of {status.get('model')}"
        if status.get("span")
        else "holds no layers"
    )
    lines = [harmless(f"node {name} listens at {status.get('endpoint')} and {layers}")]
    if invite:
        lines.append("others join with (keep it secret: whoever has it can join)")
        lines.append(f"  python -m p2pinfer.node --join {invite}")
    return lines
