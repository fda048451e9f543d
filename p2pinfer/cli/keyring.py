"""`keyring`: the keys that seal the swarm's datagrams, and putting new ones in their place."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from p2pinfer.cli import connection
from p2pinfer.cli.arguments import LineParser, add_debug, add_node, checked
from p2pinfer.cli.output import console, harmless, say

__all__ = ["EPILOG", "configure"]

EPILOG = """\
All nodes of a swarm seal their datagrams with one key, which nobody outside has. `rotate` puts a new one in
its place; install, use and remove are its steps. They are for the swarm's owner, where it was founded.

examples:
  p2pinfer keyring list
  p2pinfer keyring rotate
"""

LIST_EPILOG = """\
examples:
  p2pinfer keyring list
  p2pinfer keyring list --json
"""

INSTALL_EPILOG = """\
examples:
  p2pinfer keyring install
  p2pinfer keyring install --json
"""

USE_EPILOG = """\
examples:
  p2pinfer keyring use 1a2b3c4d
  p2pinfer keyring use 1a2b3c4d --force
"""

REMOVE_EPILOG = """\
examples:
  p2pinfer keyring remove 1a2b3c4d
  p2pinfer keyring remove 1a2b3c4d --force
"""

ROTATE_EPILOG = """\
examples:
  p2pinfer keyring rotate
  p2pinfer keyring rotate --force
"""

KEY_ID_DIGITS = 8

Show = Callable[[dict[str, Any]], None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `keyring`."""
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="keyring_command", parser_class=LineParser
    )
    rows: tuple[tuple[str, str, str, Show], ...] = (
        ("list", "show the keys, and which member has which version", LIST_EPILOG, _show),
        ("install", "add a new key, which all open with and nobody seals with yet", INSTALL_EPILOG, _added),
        ("use", "have all nodes seal with an installed key", USE_EPILOG, _in_use),
        ("remove", "have all nodes forget a key", REMOVE_EPILOG, _in_use),
        ("rotate", "put a new key in place of all others", ROTATE_EPILOG, _in_use),
    )
    for name, text, epilog, show in rows:
        command = commands.add_parser(name, help=text, epilog=epilog)
        if name in ("use", "remove"):
            command.add_argument(
                "key", type=checked(_key_id), metavar="ID", help="the key's id, as `list` shows it"
            )
        if name in ("use", "remove", "rotate"):
            command.add_argument(
                "--force", action="store_true", help="do it although some members lack the version before"
            )
        command.add_argument("--json", action="store_true", help="print the keyring as one JSON object")
        add_node(command)
        add_debug(command)
        command.set_defaults(run=_run, show=show, key=None, force=False)


def _key_id(text: str) -> str:
    digits = text.lower()
    if len(digits) != KEY_ID_DIGITS or any(digit not in "0123456789abcdef" for digit in digits):
        raise ValueError(f"{text!r} is no key's id: eight hexadecimal digits, as in 1a2b3c4d")
    return digits


def _run(args: argparse.Namespace) -> int:
    import trio

    keyring = trio.run(_ask, args)
    if args.json:
        say(json.dumps(keyring))
    else:
        args.show(keyring)
    return 0


async def _ask(args: argparse.Namespace) -> dict[str, Any]:
    async with connection.open_client(args) as client:
        return await client.keyring(args.keyring_command, args.key or "", force=args.force)


def _added(keyring: dict[str, Any]) -> None:
    say(keyring["keys"][-1])


def _in_use(keyring: dict[str, Any]) -> None:
    others = [key for key in keyring["keys"] if key != keyring["in_use"]]
    rest = f"; also in the keyring: {', '.join(others)}" if others else ""
    say(f"the swarm seals with {keyring['in_use']}{rest}")


def _show(keyring: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    version, members = keyring["version"], keyring["members"]
    if not version:
        say("this node has no keyring: its swarm seals nothing, or it has not joined it yet")
        return
    say(f"version {version}")
    for key in keyring["keys"]:
        say(f"key {key}{'  in use' if key == keyring['in_use'] else ''}")
    if not members:
        return
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("peer", "name", "endpoint", "version"):
        table.add_column(column, justify="right" if column == "version" else "left")
    for member in members:
        has = member["version"]
        cells = (member["peer"][:8], member["name"], member["endpoint"], "?" if has is None else str(has))
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    console().print(table)
    if keyring["members_behind"]:
        say(f"{keyring['members_behind']} of {len(members)} members are not known to have version {version}")
