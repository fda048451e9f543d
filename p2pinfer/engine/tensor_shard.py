"""Cutting the layers of a span between the peers of a group: heads to one, heads to another, columns alike.

A rank of a group holds some heads of keys and values of every layer, the query heads that share them, and
some columns of the feed-forward half. Attention never looks across heads and SwiGLU never across columns, so
each rank computes alone from the layer's whole input up to the last product of each half, and the layer's
output is the sum over the ranks. The cut layer has the form of a whole one with fewer heads and columns: an
engine that computes layers computes shards.

Source: Megatron-LM (arXiv 1909.08053), section 3; cut at key-value heads because of arXiv 2305.13245.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError

__all__ = ["ShardCut", "check_cuts", "cut_config", "cut_layer", "cut_span", "even_cuts"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShardCut:
    """What one rank holds of every layer."""

    heads: range
    """Heads of keys and values."""
    columns: range
    """Columns of gate and up, which are rows of down."""


def even_cuts(config: EngineConfig, count: int) -> tuple[ShardCut, ...]:
    """Cut as evenly as whole heads allow.

    Raises:
        ConfigError: There are fewer heads of keys and values than ranks.
    """
    if count < 1:
        raise ConfigError(f"a group has at least 1 rank, not {count}")

    def part(total: int, rank: int) -> range:
        return range(total * rank // count, total * (rank + 1) // count)

    cuts = tuple(
        ShardCut(part(config.kv_head_count, rank), part(config.ffn_size, rank)) for rank in range(count)
    )
    check_cuts(config, cuts)
    return cuts


def check_cuts(config: EngineConfig, cuts: Sequence[ShardCut]) -> None:
    """Refuse cuts that leave something out, hold something twice, or give a rank nothing.

    Raises:
        ConfigError: The message names the rank and the rule.
    """
    for name, total in (("heads", config.kv_head_count), ("columns", config.ffn_size)):
        start = 0
        for rank, cut in enumerate(cuts):
            part: range = getattr(cut, name)
            if part.step != 1 or part.start != start or part.stop <= start:
                raise ConfigError(
                    f"rank {rank} has {name} {part.start}:{part.stop}; it must have at least one, "
                    f"from {start} on, where the rank before it ends"
                )
            start = part.stop
        if start != total:
            raise ConfigError(f"the ranks have {start} {name} together; the model has {total}")


def cut_config(config: EngineConfig, cut: ShardCut) -> EngineConfig:
    """Return the sizes that a rank computes with."""
    group = config.head_count // config.kv_head_count
    return dataclasses.replace(
        config,
        head_count=group * len(cut.heads),
        kv_head_count=len(cut.heads),
        ffn_size=len(cut.columns),
    )


def cut_layer(config: EngineConfig, layer: LayerWeights, cut: ShardCut) -> LayerWeights:
    """Return a rank's part of a layer, in arrays of its own; the norms are whole.

    Args:
        config: The sizes of the whole model.
        layer: A whole layer.
        cut: What the rank holds.

    Shapes:
        qkv: (D, (H' + 2K') S); output: (H' S, D); gate_up: (D, 2F'); down: (F', D), for H', K' heads and F'
        columns of the rank.
    """
    size, group = config.head_size, config.head_count // config.kv_head_count
    heads = slice(cut.heads.start * size, cut.heads.stop * size)
    queries = slice(group * heads.start, group * heads.stop)
    columns = slice(cut.columns.start, cut.columns.stop)
    key_start = config.head_count * size
    value_start = key_start + config.kv_head_count * size

    def joined(*parts: F32) -> F32:
        return np.concatenate(parts, axis=1)

    return LayerWeights(
        attention_norm=layer.attention_norm,
        qkv=joined(
            layer.qkv[:, queries],
            layer.qkv[:, key_start:value_start][:, heads],
            layer.qkv[:, value_start:][:, heads],
        ),
        output=layer.output[queries].copy(),
        ffn_norm=layer.ffn_norm,
        gate_up=joined(
            layer.gate_up[:, : config.ffn_size][:, columns], layer.gate_up[:, config.ffn_size :][:, columns]
        ),
        down=layer.down[columns].copy(),
    )


def cut_span(config: EngineConfig, weights: SpanWeights, cut: ShardCut) -> SpanWeights:
    """Cut every layer of a span; embedding and output layer stay whole, for the leader."""
    return dataclasses.replace(
        weights, layers=tuple(cut_layer(config, layer, cut) for layer in weights.layers)
    )
