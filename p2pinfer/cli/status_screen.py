"""A node's status as people see it: what the node does, its peers, and whether every layer is held.

Made for 80 columns. Whatever is in a status may come from another peer: it is shown as text, without control
characters, and never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from p2pinfer.cli.output import harmless, size_text
from p2pinfer.cli.progress import duration_text

if TYPE_CHECKING:
    from rich.console import Group, JustifyMethod
    from rich.table import Table
    from rich.text import Text

__all__ = ["node_facts", "peer_table", "status_screen"]

TO_THE_RIGHT = ("open", "step", "rtt")
MAY_BE_CUT = ("peer", "model")
"""Where the terminal is narrow; the id stands in front of the name."""
CELL_WIDTH_MAX = 24
"""Long enough for an id with a name, or an IPv4 address with its port."""
STYLES = {
    "alive": "green",
    "serving": "green",
    "ready": "green",
    "suspect": "yellow",
    "joining": "yellow",
    "pulling": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "dead": "red",
    "left": "dim",
}
PEER_DIGITS = 8
"""As `PeerId.short`."""


def status_screen(status: Mapping[str, Any]) -> Group:
    """Return all that there is to see."""
    from rich.console import Group
    from rich.text import Text

    facts = "\n".join(f"  {name:<12}{text}" for name, text in node_facts(status))
    models = [_model(each) for each in _rows(status, "models")]
    missing = Text("no peer holds a layer of any model", style="yellow")
    return Group(_title(status), Text(f"{facts}\n"), peer_table(status), Text(), *(models or [missing]))


def _title(status: Mapping[str, Any]) -> Text:
    from rich.text import Text

    phase = _cell(status, "phase")
    progress = _part(status, "progress")
    percent = progress.get("percent")
    doing = f"{phase} {percent:.0f} %" if isinstance(percent, int | float) else phase
    if status.get("span"):
        doing += f" layers {_cell(status, 'span')} of {_cell(status, 'model')}"
    title = Text(f"{_name(status)} at {_cell(status, 'endpoint')}: ")
    return title.append(doing, style=STYLES.get(phase, ""))


def node_facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what a node tells of itself, line by line: a name and a text."""
    yield "swarm", f"{_cell(status, 'swarm')[:PEER_DIGITS]}, up {_duration(status.get('uptime_s'))}"
    progress = _part(status, "progress")
    if progress:
        yield "progress", f"{_cell(progress, 'work')}: {_amount(progress)}"
    for prompt in _rows(status, "prompts"):
        yield "prompt", f"{_cell(prompt, 'done')} of {_cell(prompt, 'total')} tokens computed"
    if not status.get("span"):
        return
    parked, waiting = status.get("sessions_parked"), status.get("waiting_steps")
    more = (f", {parked} parked" if parked else "") + (f", {waiting} steps waiting" if waiting else "")
    yield "sessions", f"{_cell(status, 'sessions')} open{more}"
    cache = _part(status, "kv_cache")
    if cache:
        yield "cache", _cache(cache)
    speed = _part(status, "speed")
    if speed:
        yield "decode", _rates(_part(speed, "decode_tokens_per_s"), "tokens/s")
        yield "prefill", _rates(_part(speed, "prefill_tokens_per_s"), "tokens/s")
        yield "engine busy", _rates(_part(speed, "busy_percent"), "%")
    batches = _part(status, "batches")
    if batches.get("count"):
        yield "batches", _batches(batches)
    recoveries = _part(status, "recoveries")
    if recoveries.get("count"):
        yield "recoveries", _recoveries(recoveries)
    refused = _part(status, "refused")
    if refused:
        yield "refused", harmless(", ".join(f"{reason} {count}" for reason, count in refused.items()))


def _amount(progress: Mapping[str, Any]) -> str:
    unit = _cell(progress, "unit")
    done, total = (
        _size(progress.get(key)) if unit == "bytes" else _cell(progress, key) for key in ("done", "total")
    )
    amount = f"{done} of {total}" if progress.get("total") else done
    return amount if unit == "bytes" else f"{amount} {unit}"


def _cache(cache: Mapping[str, Any]) -> str:
    used, reserved = (
        f"{_size(cache.get(f'{key}_bytes'))} {key} ({_cell(cache, f'{key}_percent')} %)"
        for key in ("used", "reserved")
    )
    return f"{used}, {reserved} of {_size(cache.get('budget_bytes'))}"


def _rates(rates: Mapping[str, Any], unit: str) -> str:
    return f"{_cell(rates, 'last_10_s')} {unit} now, {_cell(rates, 'last_60_s')} in the last minute"


def _batches(batches: Mapping[str, Any]) -> str:
    sizes = _part(batches, "sizes")
    shown = ", ".join(f"{size} x {count}" for size, count in sizes.items())
    return harmless(f"{_cell(batches, 'mean')} sessions on average; sessions x batches: {shown}")


def _recoveries(recoveries: Mapping[str, Any]) -> str:
    pause, ago = _cell(recoveries, "last_pause_ms"), _duration(recoveries.get("last_ago_s"))
    return f"{_cell(recoveries, 'count')}; the last cost {pause} ms, {ago} ago"


def _model(model: Mapping[str, Any]) -> Text:
    """Say in one line whether a model can be asked."""
    from rich.text import Text

    name, count = _cell(model, "model"), _cell(model, "layer_count")
    lacking = [_cell(span, "span") for span in _rows(model, "spans") if not span.get("holders")]
    if lacking:
        return Text(f"{name}: nobody holds layers {', '.join(lacking)} of {count}", style="red")
    if model.get("holders_min") == 1:
        return Text(f"{name}: all {count} layers are held, some by one peer alone", style="yellow")
    by = _cell(model, "holders_min")
    return Text(f"{name}: all {count} layers are held, each by {by} peers or more", style="green")


def peer_table(status: Mapping[str, Any]) -> Table:
    """Return the table of a swarm: this node first, then its peers by layers and name."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    peers = sorted(_rows(status, "peers"), key=_order)
    # One model for all is said below the table; a column of equal cells is room for nothing.
    several = len({row.get("model") for row in (status, *peers) if row.get("model")}) > 1
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    columns = ("peer", "address", "state", "layers", "model" if several else "step", "open", "rtt")
    rows = [_cells(row) for row in ({**status, "state": "this node", "rtt_ms": None}, *peers)]
    for column in columns:
        justify: JustifyMethod = "right" if column in TO_THE_RIGHT else "left"
        table.add_column(column, justify=justify, no_wrap=column not in MAY_BE_CUT, max_width=CELL_WIDTH_MAX)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _cells(peer: Mapping[str, Any]) -> dict[str, Text]:
    state = _cell(peer, "state")
    if state == "alive":
        state = next((phase for phase in ("loading", "draining") if peer.get(phase) is True), state)
    return {
        "peer": _text(_name(peer)),
        "address": _text(_cell(peer, "endpoint")),
        "state": _text(state, STYLES.get(state, "")),
        "layers": _text(_cell(peer, "span")),
        "model": _text(_cell(peer, "model")),
        "step": _text(_milliseconds(peer.get("step_ms"))),
        "open": _text(_cell(peer, "sessions")),
        "rtt": _text(_milliseconds(peer.get("rtt_ms"))),
    }


def _order(peer: Mapping[str, Any]) -> tuple[int, str, str]:
    start, _, _ = str(peer.get("span") or "").partition(":")
    return (
        int(start) if start.isdigit() else 1 << 30,
        str(peer.get("name") or ""),
        str(peer.get("peer") or ""),
    )


def _name(peer: Mapping[str, Any]) -> str:
    short = _cell(peer, "peer")[:PEER_DIGITS]
    return f"{short} {_cell(peer, 'name')}" if peer.get("name") else short


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _cell(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return "-" if value is None or value == "" else harmless(str(value)).replace("\n", " ")


def _part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = data.get(key)
    return part if isinstance(part, Mapping) else {}


def _rows(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = data.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []


def _size(value: object) -> str:
    return size_text(value) if isinstance(value, int) else "-"


def _milliseconds(value: object) -> str:
    return f"{value:.1f} ms" if isinstance(value, int | float) else "-"


def _duration(value: object) -> str:
    return duration_text(value) if isinstance(value, int | float) else "-"
