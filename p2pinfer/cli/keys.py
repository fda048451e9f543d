"""`keygen` and `invite`: who a node is, and who else may join its swarm."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from p2pinfer.cli.arguments import add_data_dir, checked, duration_s
from p2pinfer.cli.output import say
from p2pinfer.config import ANY_HOSTS, NodeConfig
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Endpoint
from p2pinfer.puzzle import DIFFICULTY_MAX
from p2pinfer.readers import read_count

__all__ = [
    "INVITE_EPILOG",
    "KEYGEN_EPILOG",
    "configure_invite",
    "configure_keygen",
    "run_invite",
    "run_keygen",
]

KEYGEN_EPILOG = """\
A node makes its own key when it first starts; this is for those who want to know its id before.

examples:
  p2pinfer keygen
  p2pinfer keygen keys/cellar.key
  p2pinfer keygen --id-difficulty 16
"""

INVITE_EPILOG = """\
An invite is a secret: whoever has it can join. Run this on the machine of the node that founded the swarm.

examples:
  p2pinfer invite
  p2pinfer invite --valid 12h --address 192.168.1.5:7946
"""


def configure_keygen(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of keygen."""
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="the key file (default: the node's own)"
    )
    parser.add_argument(
        "--id-difficulty",
        type=checked(_difficulty),
        default=0,
        metavar="BITS",
        help="the work in its id that the swarm asks for, 0 to 24; 16 take 1 to 2 s (default: 0)",
    )
    add_data_dir(parser)


def run_keygen(args: argparse.Namespace) -> int:
    """Make a key file and print the peer id that belongs to it."""
    from p2pinfer.identity import Identity

    path = args.path or NodeConfig(data_dir=args.data_dir).identity_path
    say(str(Identity.create(path, args.id_difficulty).peer_id))
    return 0


def configure_invite(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of invite."""
    parser.add_argument(
        "--valid",
        type=checked(duration_s),
        default=duration_s("30d"),
        metavar="TIME",
        help="how long the invite is good for, as in 12h or 30d (default: 30d)",
    )
    parser.add_argument(
        "--address",
        type=checked(_reachable),
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where a node of the swarm listens; may be repeated (default: the node on this machine)",
    )
    add_data_dir(parser)


def run_invite(args: argparse.Namespace) -> int:
    """Print an invite to the swarm that the node of this data directory founded."""
    from p2pinfer.runtime.home import make_invite

    running = _running_node(NodeConfig(data_dir=args.data_dir).node_path)
    addresses = tuple(args.address) or _own_address(running)
    # The wall clock, as in every certificate; nothing here runs long enough to see it step.
    say(str(make_invite(args.data_dir, addresses, args.valid, time.time())))
    return 0


def _difficulty(text: str) -> int:
    difficulty = read_count(text)
    if difficulty > DIFFICULTY_MAX:
        raise ValueError(f"{text} bits take days: at most {DIFFICULTY_MAX} can be asked for")
    return difficulty


def _reachable(text: str) -> Endpoint:
    endpoint = Endpoint.parse(text)
    if endpoint.host in ANY_HOSTS or endpoint.port == 0:
        raise ValueError(f"{text!r} is no address that others can reach")
    return endpoint


def _running_node(path: Path) -> dict[str, Any]:
    """Read what a running node says of itself; empty where none runs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: restart the node, which writes it anew") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: restart the node, which writes it anew")
    return found


def _own_address(running: dict[str, Any]) -> tuple[Endpoint, ...]:
    try:
        return (Endpoint.parse(str(running["endpoint"])),)
    except KeyError:
        raise ConfigError("no node runs here: start it, or say where one listens with --address") from None
    except ValueError as error:
        raise ConfigError(
            f"the running node's address is damaged: {error}; name one with --address"
        ) from error
