"""The command line of `python -m p2pinfer`: every command, its help and how it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from p2pinfer.cli import chat, dht, generate, keyring, keys, model, status, version
from p2pinfer.cli.arguments import LineParser, add_debug
from p2pinfer.cli.failures import USED_WRONGLY, run_command

__all__ = ["COMMANDS", "Command", "main", "make_parser"]

DESCRIPTION = """\
Ask a swarm of peers that run large language models together.

A node (python -m p2pinfer.node) must run on this machine, or be named with --node or --join.
"""

EPILOG = """\
examples:
  p2pinfer generate "Why is the sky blue?"
  p2pinfer status
"""


class Command(NamedTuple):
    """A command: its help, the examples below it, its arguments and what it does."""

    help: str
    epilog: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int] | None
    """None where the commands below it have their own."""


COMMANDS = {
    "generate": Command("answer one prompt", generate.EPILOG, generate.configure, generate.run),
    "chat": Command("hold a conversation", chat.EPILOG, chat.configure, chat.run),
    "status": Command("show the swarm", status.EPILOG, status.configure, status.run),
    "model": Command("fetch, list and remove models", model.EPILOG, model.configure, None),
    "keygen": Command("make a key file", keys.KEYGEN_EPILOG, keys.configure_keygen, keys.run_keygen),
    "invite": Command("let another peer join", keys.INVITE_EPILOG, keys.configure_invite, keys.run_invite),
    "keyring": Command("change the keys that seal datagrams", keyring.EPILOG, keyring.configure, None),
    "dht": Command("keep small things with other peers, and find them", dht.EPILOG, dht.configure, None),
    "version": Command("show the version", version.EPILOG, version.configure, version.run),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = LineParser(prog="p2pinfer", description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", parser_class=LineParser)
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name, help=command.help, description=f"{command.help.capitalize()}.", epilog=command.epilog
        )
        command.configure(added)
        add_debug(added)
        if command.run is not None:
            added.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return USED_WRONGLY
    return run_command(partial(args.run, args), debug=args.debug)
