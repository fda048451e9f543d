"""What `dht` shows people: values, lists of peers, and a node's part of the DHT in words."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from p2pinfer.cli.failures import FAILED
from p2pinfer.cli.output import console, harmless, say, size_text

__all__ = [
    "Show",
    "show_manifest",
    "show_members",
    "show_peers",
    "show_provided",
    "show_providers",
    "show_put",
    "show_rm",
    "show_status",
    "show_values",
]

Show = Callable[[dict[str, Any], argparse.Namespace], int]
"""Shows an answer to the arguments that asked for it, and returns the exit code."""

NATS = {
    "none": "none: others see the address that this node tells",
    "same port": "others see one other address: tell it with --advertise",
    "changes": "others see many ports: nobody can come in through this NAT",
}
"""What is between a node and the others, for people."""


def show_values(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """The values, one a line; with --long whose each is."""
    values = answer["values"]
    if not values:
        return _nothing(f"nothing is kept under {args.name!r}")
    if not args.long:
        for each in values:
            say(harmless(_text(each, "value")))
        return 0
    rows = [
        (
            each["owner"][:8],
            _text(each, "subkey"),
            _text(each, "value"),
            str(each["sequence"]),
            _left(each["expires_s"]),
        )
        for each in values
    ]
    _table(("owner", "sub-key", "value", "sequence", "lives for"), rows)
    return 0


def show_put(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """Who keeps it."""
    say(f"{args.name} is kept by {_peers(answer['stored_at'])}")
    return 0 if answer["stored_at"] else _nothing("nobody took it: `p2pinfer dht status` says who is there")


def show_rm(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """That it is done."""
    say(f"{args.name} is kept alive no longer")
    return 0


def show_provided(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """Who will tell."""
    if args.stop:
        say(f"{args.name} is provided no longer")
        return 0
    say(f"{args.name} is provided here: {_peers(answer['stored_at'])} will tell")
    return 0


def show_providers(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """Who they are, and where."""
    providers = answer["providers"]
    if not providers:
        return _nothing(f"nobody provides {args.name!r}")
    rows = [(each["peer"][:8], each["endpoint"] or "?", _left(each["expires_s"])) for each in providers]
    _table(("peer", "endpoint", "said for"), rows)
    return 0


def show_peers(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """Who they are, and where."""
    if not answer["peers"]:
        return _nothing("no other peer answers: `p2pinfer dht status` says who is there")
    _table(("peer", "endpoint"), [(each["peer"][:8], each["endpoint"]) for each in answer["peers"]])
    return 0


def show_members(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """Who they are, and where; with --address that of the swarm."""
    if args.address:
        say(answer["address"])
        return 0
    if not answer["members"]:
        return _nothing("no member has said yet where it listens: a node does soon after its start")
    _table(("peer", "endpoint"), [(each["peer"][:8], each["endpoint"]) for each in answer["members"]])
    return 0


def show_manifest(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """What the file is, and who says so."""
    model, provider = answer["manifest"], answer["provider"]
    facts = {
        "name": f"{model['name']}:{model['tag']}",
        "size": size_text(model["size_bytes"]),
        "layers": str(model["layer_count"]),
        "architecture": model["architecture"],
        "sha256": model["sha256"],
        "source": model["source"] or "-",
        "says": "this machine" if provider is None else f"peer {provider[:8]}",
    }
    for key, value in facts.items():
        say(f"{key:<14}{harmless(value)}")
    return 0


def show_status(answer: dict[str, Any], args: argparse.Namespace) -> int:
    """The node's part of the DHT."""
    size = answer["network_size"]
    facts = {
        "peer": answer["peer"],
        "endpoint": answer["endpoint"],
        "seen as": answer["seen"] or "nobody has said yet",
        "nat": NATS.get(answer["nat"], "not known yet"),
        "contacts": f"{answer['contacts']} in {answer['buckets']} buckets, {answer['contacts_good']} good",
        "records": f"{answer['records']} kept for others, {answer['own_records']} of its own",
        "peers in all": "not known yet" if size is None else f"about {size:.0f}",
        "joined": "yes" if answer["is_joined"] else "no",
    }
    for key, value in facts.items():
        say(f"{key:<14}{harmless(value)}")
    return 0


def _nothing(text: str) -> int:
    print(f"p2pinfer: {text}", file=sys.stderr)
    return FAILED


def _text(each: dict[str, Any], name: str) -> str:
    """A value as text, or its bytes where it is none."""
    text: str | None = each[name]
    return text if text is not None else f"0x{each[f'{name}_hex']}"


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


def _left(expires_s: float) -> str:
    # The wall clock, as in every record; nothing here runs long enough to see it step.
    left_s = max(0.0, expires_s - time.time())
    for unit, seconds in (("h", 3600.0), ("m", 60.0)):
        if left_s >= 2 * seconds:
            return f"{left_s / seconds:.0f} {unit}"
    return f"{left_s:.0f} s"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console().print(table)
