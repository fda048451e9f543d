"""One span computed by a group of peers together: the engines of the group's leader and of its members.

Every rank runs the same program on its shard of the weights: norm, its heads, add up over the ranks; norm,
its columns, add up. Rules:

1. The hidden states are whole on every rank, so a half of a layer costs one delay between peers and not a
   round trip: each sends its part to all others at once and adds all parts in the order of the ranks. The
   bits depend on the cuts and the shapes of the steps, not on who was faster.
2. The leader alone sees requests, embeds and samples. It announces the steps of a batch with their rows; all
   steps of a batch are added up in one message for each half of a layer.
3. Ranks never fall out of step: who cannot compute a step (an unknown session, no memory) gives NaN for its
   rows, which makes the sum NaN on every rank, and so every rank refuses that step and keeps the others.
4. Whoever waits for a part waits for a bounded time. A group that lost a rank refuses all its steps.

Departs from a leader that asks its members for each product: that costs a round trip for each half.

Source: Megatron-LM (arXiv 1909.08053), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pinfer.effects import DropCache, ExtendCache, OpenCache
from p2pinfer.engine.api import EngineInput, EngineOutput
from p2pinfer.engine.layers import rms_norm, swiglu
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.passes import Pass
from p2pinfer.engine.step_input import StepRefused, tensor_from_hidden
from p2pinfer.engine.tensor_shard import ShardCut, cut_config
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import UnavailableError
from p2pinfer.ids import SessionId, Span

__all__ = ["Exchange", "GroupBroken", "LeadingExchange", "ShardEngine", "TensorEngine"]

F32 = NDArray[np.float32]


class GroupBroken(UnavailableError):
    """A rank of the group is gone, or broke its rules. The step is lost here; another holder may take it."""


class Exchange(Protocol):
    """How a rank adds up with the others; called on the engine's thread."""

    def add_up(self, part: F32) -> F32:
        """Return the sum of all ranks' parts, added in the order of the ranks.

        Shapes:
            part, result: (T, D).

        Raises:
            GroupBroken: A rank gave no part in time, or another than was due.
        """
        ...


class LeadingExchange(Exchange, Protocol):
    """What the leader tells its members; in the order of the calls, and never waiting."""

    def announce(self, steps: Sequence[EngineInput]) -> None:
        """Let the members begin a batch, whose steps have hidden states for every layer.

        Raises:
            GroupBroken: The group is not complete.
        """
        ...

    def change_cache(self, change: OpenCache | ExtendCache | DropCache) -> None:
        """Let the members do the same. One that cannot gives NaN for every step that needs the cache."""
        ...


class _RankEngine(NumpyEngine):
    """What leader and members share: the layers."""

    def __init__(
        self,
        config: EngineConfig,
        weights: SpanWeights,
        cut: ShardCut,
        exchange: Exchange,
        size_bytes_max: int | None = None,
    ) -> None:
        """Take a rank's part of a span.

        Args:
            config: The sizes of the whole model.
            weights: Cut already; see `tensor_shard.cut_layer`.
            cut: How.
            exchange: The way to the other ranks.
            size_bytes_max: What the caches of all sessions may take here; None sets no limit.
        """
        super().__init__(cut_config(config, cut), weights, size_bytes_max)
        self._exchange = exchange

    def _advance_jointly(self, passes: Sequence[Pass]) -> None:
        """Run passes through the layers together with the other ranks, which run the same ones."""
        try:
            with np.errstate(all="ignore"):  # what is not finite is found when the outputs are kept
                for layer in range(self.span.start, self.span.end):
                    here = [each for each in passes if layer in (each.steps[0].layers or self.span)]
                    if here:
                        self._advance_layer(here, layer)
        except GroupBroken as error:
            for each in passes:
                each.refusal = each.refusal or StepRefused(str(error))

    def _advance_layer(self, passes: Sequence[Pass], layer: int) -> None:
        weights = self._weights.layers[layer - self.span.start]
        self._add_up(passes, lambda each, index: self._attend(each, index, weights, layer))
        self._add_up(passes, lambda each, index: self._feed(each.hidden[index], weights))

    def _feed(self, hidden: F32, weights: LayerWeights) -> F32:
        """The feed-forward half of a layer: (T, D) to (T, D)."""
        normal = rms_norm(hidden, weights.ffn_norm, self._config.rms_norm_eps)  # (T, D)
        result: F32 = swiglu(normal @ weights.gate_up) @ weights.down  # (T, 2F') -> (T, F') -> (T, D)
        return result

    def _add_up(self, passes: Sequence[Pass], part: Callable[[Pass, int], F32]) -> None:
        """Compute this rank's part of half a layer, and add the sum of all ranks' to the hidden states."""
        parts = [rows for each in passes for rows in self._parts(each, part)]
        total = self._exchange.add_up(np.concatenate(parts))  # (T of all steps, D)
        start = 0
        for each in passes:
            for index, step in enumerate(each.steps):
                end = start + step.row_count
                if each.refusal is None:
                    each.hidden[index] += total[start:end]
                start = end

    def _parts(self, each: Pass, part: Callable[[Pass, int], F32]) -> Iterator[F32]:
        for index, step in enumerate(each.steps):
            rows = None
            if each.refusal is None:
                try:
                    rows = part(each, index)
                except StepRefused as refusal:  # no memory for a larger cache
                    each.refusal = refusal
            yield np.full((step.row_count, self.hidden_size), np.nan, np.float32) if rows is None else rows


class TensorEngine(_RankEngine):
    """The leader's: an engine like any other to its peer, while others compute a part of every layer."""

    _exchange: LeadingExchange

    def __init__(
        self,
        config: EngineConfig,
        weights: SpanWeights,
        cut: ShardCut,
        exchange: LeadingExchange,
        size_bytes_max: int | None = None,
    ) -> None:
        super().__init__(config, weights, cut, exchange, size_bytes_max)

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        super().open_cache(session, positions_max)
        self._exchange.change_cache(OpenCache(session, positions_max))

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        super().extend_cache(session, positions_max)
        self._exchange.change_cache(ExtendCache(session, positions_max))

    def drop_cache(self, session: SessionId) -> None:
        super().drop_cache(session)
        self._exchange.change_cache(DropCache(session))

    def _advance(self, passes: Sequence[Pass]) -> None:
        sound = [each for each in passes if each.refusal is None]
        if not sound:
            return
        try:
            self._exchange.announce([step for each in sound for step in _announced(each)])
        except GroupBroken as error:
            for each in sound:
                each.refusal = StepRefused(str(error))
            return
        self._advance_jointly(sound)


class ShardEngine(_RankEngine):
    """A member's: computes what the leader announces, and gives nothing but its parts."""

    def _rows(self, step: EngineInput, layers: Span) -> F32:
        return self._rules.hidden(step)

    def _outcome(self, step: EngineInput, layers: Span, hidden: F32) -> EngineOutput:
        return EngineOutput()

    def _advance(self, passes: Sequence[Pass]) -> None:
        self._advance_jointly(passes)  # also the refused ones: the others wait for their parts


def _announced(each: Pass) -> Iterator[EngineInput]:
    for step, rows in zip(each.steps, each.hidden, strict=True):
        yield EngineInput(step.session, step.base, hidden=tensor_from_hidden(rows), layers=each.layers)
