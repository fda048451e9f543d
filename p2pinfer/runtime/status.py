"""A peer's status as plain data: what `peer.status()` returns and `p2pinfer status --json` prints."""

from __future__ import annotations

from typing import Any

from p2pinfer.ids import PeerId
from p2pinfer.peer_core import PeerCore
from p2pinfer.wire.messages.records import Holding

__all__ = ["describe_holding", "peer_status"]


def peer_status(core: PeerCore, *, name: str, swarm: str, uptime_s: float) -> dict[str, Any]:
    """Describe a peer and whom it knows."""
    own = core.swim.record
    members = [view for view in core.swim.members() if view.record.owner != core.contact.peer]
    return {
        "peer": str(own.owner),
        "name": name,
        "endpoint": str(own.endpoint),
        "swarm": swarm,
        **_held(own.holding),
        "sessions": core.hop.session_count,
        "uptime_s": round(uptime_s, 1),
        "peers": [
            {
                "peer": str(view.record.owner),
                "name": view.record.name,
                "endpoint": str(view.record.endpoint),
                "state": view.state.name.lower(),
                **_held(view.record.holding),
                "sessions": view.record.holding.queue if view.record.holding else None,
                "rtt_ms": _milliseconds(core, view.record.owner),
            }
            for view in members
        ],
        "statistics": core.statistics(),
    }


def describe_holding(held: Holding | None) -> str:
    """Return what a peer serves, for a log line."""
    return f"holds layers {held.start}:{held.end} of {held.model}" if held else "holds no layers"


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
