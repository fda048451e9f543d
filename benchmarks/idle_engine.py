"""An engine that computes nothing: what is left of a step's time is what the peers cost.

    python -m benchmarks.idle_engine CONFIG.toml DIGEST START:END LAYER_COUNT BATCH_US

runs a node that serves such a span and sleeps so long at each batch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

import p2pinfer
from p2pinfer.config import load_config
from p2pinfer.ids import SessionId, Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.wire.messages.inference import Tensor
from p2pinfer.work import EngineInput, EngineOutput

__all__ = ["HIDDEN_SIZE", "IdleEngine", "served"]

HIDDEN_SIZE = 576
"""SmolLM2-135M's: 2304 bytes for each position."""


class IdleEngine:
    """Implements `engine.api.Engine` with constants, and may sleep for a while at each batch."""

    def __init__(self, span: Span, layer_count: int, batch_s: float = 0.0) -> None:
        self.span = span
        self.hidden_size = HIDDEN_SIZE
        self._is_last = span.end == layer_count
        self._batch_s = batch_s

    def cache_size_bytes(self, positions_max: int) -> int:
        return positions_max

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        pass

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        pass

    def drop_cache(self, session: SessionId) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        if self._batch_s:
            time.sleep(self._batch_s)
        return [self._run_one(item) for item in batch]

    def _run_one(self, item: EngineInput) -> EngineOutput:
        rows = item.hidden.shape[0] if item.hidden else len(item.tokens)
        if self._is_last:
            return EngineOutput(token=7 if item.sample else None)
        return EngineOutput(hidden=Tensor("f4", (rows, HIDDEN_SIZE), bytes(4 * HIDDEN_SIZE * rows)))


def served(digest: bytes, span: Span, layer_count: int) -> ServedSpan:
    """Describe a span of an idle model."""
    return ServedSpan(
        digest=digest,
        span=span,
        layer_count=layer_count,
        position_size_bytes=8 * HIDDEN_SIZE,
        positions_max=1 << 16,
    )


async def _serve(config_path: Path, engine: IdleEngine, span: ServedSpan) -> None:
    async with p2pinfer.open_peer(load_config(config_path)) as peer:
        await peer.serve(engine, span, "idle:latest")
        await peer.wait_closed()


if __name__ == "__main__":
    path, digest_text, span_text, count_text, batch_us_text = sys.argv[1:6]
    own, count = Span.parse(span_text), int(count_text)
    idle = IdleEngine(own, count, int(batch_us_text) / 1e6)
    trio.run(_serve, Path(path), idle, served(bytes.fromhex(digest_text), own, count))
