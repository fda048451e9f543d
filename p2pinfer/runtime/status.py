"""A peer's status as plain data: what `peer.status()` returns and `p2pinfer status --json` prints.

`docs/cli.md` lists the keys. They are there always; what is not known is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from p2pinfer.ids import PeerId
from p2pinfer.peer_core import PeerCore
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.load import Load
from p2pinfer.runtime.progress import Activity
from p2pinfer.swim.member import MemberView
from p2pinfer.wire.messages.records import Holding

__all__ = ["coverage", "describe_holding", "hop_status", "peer_status"]

_REFUSED = "refused_"


def peer_status(parts: Parts, activity: Activity, load: Load, *, uptime_s: float) -> dict[str, Any]:
    """Describe a peer, what it does, and whom it knows."""
    core = parts.core
    own = core.swim.record
    others = [record for record in core.swim.alive() if record.owner != own.owner]
    now = parts.clock.now()
    return {
        "peer": str(own.owner),
        "name": parts.config.name,
        "endpoint": str(own.endpoint),
        "swarm": str(parts.home.swarm.id),
        "uptime_s": round(uptime_s, 1),
        **_held(core.holding),
        **activity.as_data(),
        **hop_status(core.hop.statistics(), parts.config.cache_size_bytes_max),
        **load.as_data(now),
        "models": coverage([core.holding, *(each.holding for each in others if each.is_plausible)]),
        "peers": [_member(core, view) for view in core.swim.members() if view.record.owner != own.owner],
        "statistics": {
            **core.statistics(),
            "driver": parts.driver.statistics(),
            "datagrams": parts.datagrams.statistics(),
            "streams": parts.streams.statistics(),
            "planes": parts.planes.statistics(),
            "holders": core.entry.standings(now),
            "search": parts.search.statistics(),
        },
    }


def hop_status(statistics: Mapping[str, Any], budget_bytes: int) -> dict[str, Any]:
    """Return what a peer's hop has open, keeps and refused."""
    reserved_bytes = statistics["reserved_bytes"]
    used_bytes = statistics.get("used_bytes")
    return {
        "sessions": statistics["sessions"],
        "sessions_parked": statistics.get("parked", 0),
        "waiting_steps": statistics["waiting_steps"],
        "step_ms": round(statistics["step_s"] * 1000, 3) or None,
        "kv_cache": {
            "used_bytes": used_bytes,
            "used_percent": _percent(used_bytes, budget_bytes),
            "reserved_bytes": reserved_bytes,
            "reserved_percent": _percent(reserved_bytes, budget_bytes),
            "budget_bytes": budget_bytes,
        },
        "refused": {
            name.removeprefix(_REFUSED): count
            for name, count in sorted(statistics.items())
            if name.startswith(_REFUSED)
        },
    }


def coverage(holdings: Iterable[Holding | None]) -> list[dict[str, Any]]:
    """Tell for each model by how many peers each of its layers is held; who still loads does not count."""
    holders: dict[tuple[str, bytes, int], Counter[int]] = {}
    for held in holdings:
        if held is not None:
            counts = holders.setdefault((held.model, held.digest, held.layer_count), Counter())
            counts.update(range(held.start, held.end) if not held.loading else ())
    return [
        {
            "model": name,
            "digest": digest.hex(),
            "layer_count": layer_count,
            "holders_min": min(counts[layer] for layer in range(layer_count)),
            "spans": _spans(counts, layer_count),
        }
        for (name, digest, layer_count), counts in sorted(holders.items())
    ]


def describe_holding(held: Holding | None) -> str:
    """Return what a peer serves, for a log line."""
    return f"holds layers {held.start}:{held.end} of {held.model}" if held else "holds no layers"


def _spans(counts: Counter[int], layer_count: int) -> list[dict[str, Any]]:
    """Put neighbouring layers that have as many holders together."""
    spans = []
    for holders, group in groupby(range(layer_count), key=counts.__getitem__):
        layers = list(group)
        spans.append({"span": f"{layers[0]}:{layers[-1] + 1}", "holders": holders})
    return spans


def _member(core: PeerCore, view: MemberView) -> dict[str, Any]:
    record, held = view.record, view.record.holding
    return {
        "peer": str(record.owner),
        "name": record.name,
        "endpoint": str(record.endpoint),
        "state": view.state.name.lower(),
        **_held(held),
        "sessions": held.queue if held else None,
        "loading": held.loading if held else False,
        "draining": held.draining if held else False,
        "step_ms": round(held.step_us / 1000, 3) or None if held else None,
        "rtt_ms": _milliseconds(core, record.owner),
    }


def _held(holding: Holding | None) -> dict[str, Any]:
    if holding is None:
        return {"model": None, "span": None, "layer_count": None}
    return {
        "model": holding.model,
        "span": f"{holding.start}:{holding.end}",
        "layer_count": holding.layer_count,
    }


def _milliseconds(core: PeerCore, peer: PeerId) -> float | None:
    round_trip_s = core.round_trip_s(peer)
    return None if round_trip_s is None else round(round_trip_s * 1000, 3)


def _percent(part: int | None, whole: int) -> float | None:
    return None if part is None else round(100 * part / whole, 2)
