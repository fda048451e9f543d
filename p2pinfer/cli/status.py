"""`status`: who is in the swarm, who holds which layers, and how far away everybody is.

It shows what `peer.status()` returns:

    {"peer": hex, "name": text, "endpoint": "host:port", "swarm": hex, "model": text, "span": "0:10" or null,
     "sessions": count, "uptime_s": number,
     "peers": [{"peer", "name", "endpoint", "state", "model", "span", "sessions", "rtt_ms"}, ...]}

What is not there is shown as a dash: nodes of another version may say less.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pinfer.cli import connection
from p2pinfer.cli.arguments import add_node
from p2pinfer.cli.output import console, harmless, say

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["EPILOG", "configure", "run", "status_table"]

EPILOG = """\
examples:
  p2pinfer status
  p2pinfer status --node 192.168.1.5:7946 --json
"""

COLUMNS = ("peer", "address", "state", "layers", "model", "sessions", "round trip")
STATE_STYLES = {"alive": "green", "suspect": "yellow", "dead": "red", "left": "dim"}
PEER_DIGITS = 8
"""As `PeerId.short`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_node(parser)


def run(args: argparse.Namespace) -> int:
    """Ask a node and print its answer."""
    import trio

    status = trio.run(_ask, args)
    if args.json:
        say(json.dumps(status))
    else:
        console().print(status_table(status))
    return 0


async def _ask(args: argparse.Namespace) -> dict[str, Any]:
    async with connection.open_client(args) as client:
        return await client.status()


def status_table(status: Mapping[str, Any]) -> Table:
    """Return the table of a node's status: itself first, then its peers by layers and name."""
    from rich.box import SIMPLE
    from rich.table import Table

    swarm = str(status.get("swarm") or "")[:PEER_DIGITS] or "-"
    table = Table(box=SIMPLE, title=f"swarm {harmless(swarm)}", title_justify="left", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("sessions", "round trip") else "left")
    table.add_row(*_row({**status, "state": "this node", "rtt_ms": None}))
    for peer in sorted(status.get("peers", ()), key=_order):
        table.add_row(*_row(peer))
    return table


def _order(peer: Mapping[str, Any]) -> tuple[int, str, str]:
    start, _, _ = str(peer.get("span") or "").partition(":")
    return (
        int(start) if start.isdigit() else 1 << 30,
        str(peer.get("name") or ""),
        str(peer.get("peer") or ""),
    )


def _row(peer: Mapping[str, Any]) -> list[Text]:
    from rich.text import Text

    def cell(key: str) -> str:
        value = peer.get(key)
        return "-" if value is None or value == "" else harmless(str(value)).replace("\n", " ")

    short = cell("peer")[:PEER_DIGITS]
    rtt = peer.get("rtt_ms")
    # Text and not str: what a peer calls itself is shown, not read as markup.
    return [
        Text(f"{cell('name')} ({short})" if peer.get("name") else short),
        Text(cell("endpoint")),
        Text(cell("state"), style=STATE_STYLES.get(cell("state"), "")),
        Text(cell("span")),
        Text(cell("model")),
        Text(cell("sessions")),
        Text(f"{rtt:.1f} ms" if isinstance(rtt, int | float) else "-"),
    ]
