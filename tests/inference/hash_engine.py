"""An engine whose numbers are hashes: any difference in what a replay repeats gives other tokens.

A row's output depends on the layer, on all rows before it in the cache and on the shape of the step that
brought it, as the last bits of a real engine do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from p2pinfer.ids import SessionId, Span
from p2pinfer.wire.messages.inference import Tensor
from p2pinfer.work import EngineInput, EngineOutput

ROW_SIZE_BYTES = 8
VOCABULARY_SIZE = 1000


class HashEngine:
    """Implements `engine.api.Engine` for tests of what happens around an engine."""

    def __init__(self, span: Span, layer_count: int) -> None:
        self.span = span
        self.hidden_size = ROW_SIZE_BYTES // 4
        self.layer_count = layer_count
        self.caches: dict[SessionId, list[list[bytes]]] = {}
        self.computed_rows = 0
        self.fails = False
        self.lies = False
        """Whether its hidden states lack their last byte."""

    def cache_size_bytes(self, positions_max: int) -> int:
        return positions_max * ROW_SIZE_BYTES

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        if session in self.caches:
            raise ValueError(f"{session} has a cache already")
        self.caches[session] = [[] for _ in range(self.layer_count)]

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        if session not in self.caches:
            raise ValueError(f"{session} has no cache")

    def drop_cache(self, session: SessionId) -> None:
        self.caches.pop(session, None)

    def close(self) -> None:
        self.caches.clear()

    def run(self, batch: Sequence[EngineInput]) -> list[EngineOutput]:
        return [self._run_one(item) for item in batch]

    def _run_one(self, item: EngineInput) -> EngineOutput:
        if self.fails:
            return EngineOutput(error="the engine is told to fail")
        caches = self.caches.get(item.session)
        layers = item.layers or self.span
        if caches is None or item.base > len(caches[layers.start]):
            return EngineOutput(error="no cache, or a gap before the step")
        if any(token >= VOCABULARY_SIZE for token in item.tokens):
            return EngineOutput(error="a token outside the vocabulary", blames_input=True)
        rows = [token.to_bytes(ROW_SIZE_BYTES, "little") for token in item.tokens]
        if item.hidden is not None:
            data = item.hidden.data
            if len(data) != item.hidden.shape[0] * ROW_SIZE_BYTES:
                return EngineOutput(error="hidden states of another size", blames_input=True)
            rows = [data[i : i + ROW_SIZE_BYTES] for i in range(0, len(data), ROW_SIZE_BYTES)]
        self.computed_rows += len(rows)
        for layer in range(layers.start, layers.end):
            del caches[layer][item.base :]
            rows = [_through(layer, caches[layer], row, len(rows)) for row in rows]
        if layers.end < self.layer_count:
            shape = (len(rows), self.hidden_size)
            data = b"".join(rows)[: -1 if self.lies else None]
            return EngineOutput(hidden=Tensor("f4", shape, data), duration_s=0.001)
        if item.sample is None:
            return EngineOutput(duration_s=0.001)
        drawn_from = b"%d %d %r" % (item.sample.sampling.seed, item.sample.position, item.sample.recent)
        drawn = hashlib.blake2b(rows[-1] + drawn_from, digest_size=8).digest()
        return EngineOutput(token=int.from_bytes(drawn, "little") % VOCABULARY_SIZE, duration_s=0.001)


def _through(layer: int, cache: list[bytes], row: bytes, row_count: int) -> bytes:
    """Compute one row in one layer: what comes out depends on all rows before it in this layer."""
    before = cache[-1] if cache else b""
    mixed = before + row + bytes([layer, row_count % 251])
    cache.append(hashlib.blake2b(mixed, digest_size=ROW_SIZE_BYTES).digest())
    return cache[-1]
