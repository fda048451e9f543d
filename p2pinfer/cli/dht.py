"""`dht`: small things that peers keep for each other under a name, and who can hand out what."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from p2pinfer.cli import connection, dht_screen
from p2pinfer.cli.arguments import LineParser, add_debug, add_node, checked, duration_s
from p2pinfer.cli.output import say
from p2pinfer.wire.messages.dht import NAMESPACE_SIZE_BYTES_MAX, SUBKEY_SIZE_BYTES_MAX, VALUE_SIZE_BYTES_MAX

__all__ = ["EPILOG", "configure"]

EPILOG = """\
The peers of a swarm keep small records for each other, found by name and signed by whoever keeps them.
Anybody in the swarm may keep something under a name: what is found says whose it is.

examples:
  p2pinfer dht put greeting hello
  p2pinfer dht get greeting
"""

GET_EPILOG = """\
Prints the values, one a line; --long says whose each is and how long it lives.

examples:
  p2pinfer dht get greeting
  p2pinfer dht get greeting --long
"""

PUT_EPILOG = """\
This machine's node keeps the value alive until `rm`, or until it stops: then it lives for its time.

examples:
  p2pinfer dht put greeting hello
  p2pinfer dht put greeting "hello again" --ttl 10m --subkey second
"""

RM_EPILOG = """\
The value is kept alive no longer: it is gone when its time is over.

examples:
  p2pinfer dht rm greeting
  p2pinfer dht rm greeting --subkey second
"""

PROVIDE_EPILOG = """\
What is handed out, and how, is for programs to agree on: here others find who has it, and where.

examples:
  p2pinfer dht provide weather
  p2pinfer dht provide weather --stop
"""

PROVIDERS_EPILOG = """\
examples:
  p2pinfer dht providers weather
  p2pinfer dht providers weather --json
"""

PEERS_EPILOG = """\
The peers whose ids are nearest to the name's key, nearest first: they keep what is put there.

examples:
  p2pinfer dht peers greeting
  p2pinfer dht peers greeting --json
"""

MEMBERS_EPILOG = """\
The address names the swarm to those who are members already; it is no secret, and no right to join.

examples:
  p2pinfer dht members
  p2pinfer dht members --address
"""

MANIFEST_EPILOG = """\
The digest is the SHA-256 of a model's file, as `p2pinfer status --json` shows it for each model. That the
answer is about this file is certain; the rest is the word of the peer that is named.

examples:
  p2pinfer dht manifest 0f0b5f63a1ffb0a7f0cfae49a4e8d8f1f8f4a2d7d9b3b0c5e6a7988776655443
  p2pinfer dht manifest 0f0b5f63a1ffb0a7f0cfae49a4e8d8f1f8f4a2d7d9b3b0c5e6a7988776655443 --json
"""

STATUS_EPILOG = """\
examples:
  p2pinfer dht status
  p2pinfer dht status --json
"""

KEY_DIGITS = 64
NAME_SIZE_BYTES_MAX = 1024
SEQUENCE_MAX = (1 << 63) - 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `dht`."""
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="dht_command", parser_class=LineParser
    )
    rows: tuple[tuple[str, str, str, dht_screen.Show], ...] = (
        ("get", "print the values kept under a name", GET_EPILOG, dht_screen.show_values),
        ("put", "keep a value under a name", PUT_EPILOG, dht_screen.show_put),
        ("rm", "keep a value of this node alive no longer", RM_EPILOG, dht_screen.show_rm),
        ("provide", "say that this node can hand something out", PROVIDE_EPILOG, dht_screen.show_provided),
        ("providers", "show who can hand something out", PROVIDERS_EPILOG, dht_screen.show_providers),
        ("peers", "show the peers nearest to a name", PEERS_EPILOG, dht_screen.show_peers),
        ("members", "show where members say that they listen", MEMBERS_EPILOG, dht_screen.show_members),
        ("manifest", "show what a model file is, by its digest", MANIFEST_EPILOG, dht_screen.show_manifest),
        ("status", "show this node's part of the DHT", STATUS_EPILOG, dht_screen.show_status),
    )
    for name, text, epilog, show in rows:
        command = commands.add_parser(name, help=text, epilog=epilog)
        if name == "manifest":
            command.add_argument(
                "digest", type=checked(_digest), metavar="DIGEST", help="64 hexadecimal digits"
            )
        elif name not in ("members", "status"):
            _add_name(command)
        _add_options(command, name)
        command.add_argument("--json", action="store_true", help="print the answer as one JSON object")
        add_node(command)
        add_debug(command)
        command.set_defaults(run=_run, show=show)


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", type=checked(_name), metavar="NAME", help="any text")
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--namespace",
        type=checked(_namespace),
        metavar="NS",
        help="where the name stands, if not where this command looks by itself",
    )
    either.add_argument("--key", action="store_true", help="NAME is the key itself, 64 hexadecimal digits")


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name == "put":
        command.add_argument(
            "value", metavar="VALUE", help="at most 512 bytes; - reads it from the standard input"
        )
        command.add_argument(
            "--ttl",
            type=checked(duration_s),
            default=duration_s("1h"),
            metavar="TIME",
            help="how long it lives once nobody keeps it alive, as in 10m or 2h; at most 48h (default: 1h)",
        )
        command.add_argument(
            "--expected",
            type=checked(_sequence),
            default=-1,
            metavar="N",
            help="only in place of this node's value with that sequence; 0 if there is none yet",
        )
    if name in ("get", "put", "rm"):
        command.add_argument(
            "--subkey",
            type=checked(_subkey),
            default=b"",
            metavar="TEXT",
            help="one of several values that a node has under a name",
        )
    if name == "get":
        command.add_argument("--long", action="store_true", help="say whose each is, and how long it lives")
    if name == "members":
        command.add_argument("--address", action="store_true", help="print only the swarm's address")
    if name == "provide":
        command.add_argument("--stop", action="store_true", help="say it no longer")


def _name(text: str) -> str:
    if not 1 <= len(text.encode()) <= NAME_SIZE_BYTES_MAX:
        raise ValueError(f"a name has 1 to {NAME_SIZE_BYTES_MAX} bytes, not {len(text.encode())}")
    return text


def _namespace(text: str) -> str:
    if not 1 <= len(text.encode()) <= NAMESPACE_SIZE_BYTES_MAX:
        raise ValueError(f"{text!r} is no namespace: 1 to {NAMESPACE_SIZE_BYTES_MAX} bytes, as in holders")
    return text


def _subkey(text: str) -> bytes:
    if not 1 <= len(text.encode()) <= SUBKEY_SIZE_BYTES_MAX:
        raise ValueError(f"a sub-key has 1 to {SUBKEY_SIZE_BYTES_MAX} bytes, not {len(text.encode())}")
    return text.encode()


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= SEQUENCE_MAX):
        raise ValueError(f"{text!r} is no sequence: a whole number, as `get --json` shows it")
    return int(text)


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(text) != KEY_DIGITS or len(digest) != KEY_DIGITS // 2:
        raise ValueError(f"{text[:80]!r} is not {KEY_DIGITS} hexadecimal digits")
    return digest


def _run(args: argparse.Namespace) -> int:
    import trio

    what = _asked(args)
    answer = trio.run(_ask, args, what)
    if args.json:
        say(json.dumps(answer))
        return 0
    show: dht_screen.Show = args.show
    return show(answer, args)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the command to the node."""
    from p2pinfer.errors import ConfigError

    if args.dht_command in ("members", "status"):
        return {}
    if args.dht_command == "manifest":
        return {"key": args.digest}
    what: dict[str, Any] = {"name": args.name, "namespace": args.namespace or ""}
    if args.key:
        try:
            what = {"key": _digest(args.name)}
        except ValueError as error:
            raise ConfigError(f"--key: {error}") from None
    if args.dht_command in ("get", "put", "rm"):
        what["subkey"] = args.subkey
    if args.dht_command == "put":
        value = sys.stdin.buffer.read(VALUE_SIZE_BYTES_MAX + 1) if args.value == "-" else args.value.encode()
        if len(value) > VALUE_SIZE_BYTES_MAX:
            raise ConfigError(f"a value has at most {VALUE_SIZE_BYTES_MAX} bytes: keep where it is instead")
        what |= {"value": value, "ttl_ms": int(args.ttl * 1000), "expected": args.expected}
    return what


async def _ask(args: argparse.Namespace, what: dict[str, Any]) -> dict[str, Any]:
    action = "stop" if args.dht_command == "provide" and args.stop else args.dht_command
    async with connection.open_client(args) as client:
        return await client.dht(action, **what)
