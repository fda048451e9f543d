"""From a model file to an engine: the one place where `models` and `engine` meet.

Only the tensors of the span are read. A layer's file tensors are let go as soon as the layer is built, so
that loading needs little more memory than the engine keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pinfer.config import ENGINES
from p2pinfer.engine.api import Engine
from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.rope import RopeSettings
from p2pinfer.engine.tensor_shard import ShardCut, check_cuts, cut_layer
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Span
from p2pinfer.models.architectures import ModelConfig, span_tensor_names
from p2pinfer.models.gguf import GGUFFile

__all__ = [
    "load_engine",
    "load_numpy_engine",
    "load_numpy_weights",
    "load_shard_weights",
    "read_engine_config",
]

Progress = Callable[[int, int], None]
"""Told tensors read and tensors in all, after each."""


def load_engine(
    path: Path,
    span: Span,
    *,
    engine: str = "numpy",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Load a span of a GGUF model.

    Args:
        path: The model file.
        span: The layers to hold.
        engine: One of `ENGINES`.
        threads: BLAS threads of this process; None leaves them as they are. Best effort, see `engine.blas`.
        progress: Told tensors read and tensors in all, after each.

    Raises:
        ConfigError: No such engine, fewer than one thread, or a span beyond the model.
        ModelError: The file cannot be used; the message says why.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    return load_numpy_engine(path, span, threads=threads, progress=progress)


def load_numpy_engine(
    path: Path, span: Span, *, threads: int | None = None, progress: Progress | None = None
) -> NumpyEngine:
    """Load a span into the reference engine, as `load_engine` does."""
    if threads is not None:
        set_blas_threads(threads)
    return NumpyEngine(*load_numpy_weights(path, span, progress=progress))


def load_numpy_weights(
    path: Path, span: Span, *, progress: Progress | None = None
) -> tuple[EngineConfig, SpanWeights]:
    """Read a span's weights, for engines that share them: see `SpanWeights.part`.

    Raises:
        ConfigError: The span reaches beyond the model.
        ModelError: The file cannot be used; the message says why.
    """
    with GGUFFile.open(path) as file:
        model = ModelConfig.from_gguf(file)
        reader = _Reader(file, span_tensor_names(model, span), progress)
        config = _engine_config(model, reader)
        layers = [
            LayerWeights.from_tensors(config, reader.take(f"blk.{layer}."), layer)
            for layer in range(span.start, span.end)
        ]
        return config, SpanWeights.assemble(config, span, layers, reader.take(""))


def load_shard_weights(
    path: Path, span: Span, cuts: Sequence[ShardCut], rank: int
) -> tuple[EngineConfig, SpanWeights]:
    """Read one rank's part of a span; embedding and output layer are the leader's, rank 0.

    One whole layer at a time is in memory besides what is kept.

    Raises:
        ConfigError: The span reaches beyond the model, or the cuts are not all of it once.
        ModelError: The file cannot be used; the message says why.
    """
    with GGUFFile.open(path) as file:
        model = ModelConfig.from_gguf(file)
        reader = _Reader(file, span_tensor_names(model, span), None)
        config = _engine_config(model, reader)
        check_cuts(config, cuts)
        layers = tuple(
            cut_layer(
                config,
                LayerWeights.from_tensors(config, reader.take(f"blk.{layer}."), layer),
                cuts[rank],
            )
            for layer in range(span.start, span.end)
        )
        if rank:
            return config, SpanWeights(span=span, layers=layers)
        return config, SpanWeights.assemble(config, span, layers, reader.take(""))


def read_engine_config(path: Path) -> EngineConfig:
    """Read the sizes of a model.

    Raises:
        ModelError: The file cannot be used; the message says why.
    """
    with GGUFFile.open(path) as file:
        model = ModelConfig.from_gguf(file)
        return _engine_config(model, _Reader(file, span_tensor_names(model, Span(0, 1)), None))


class _Reader:
    """Reads the span's tensors in groups and counts them."""

    def __init__(self, file: GGUFFile, names: Iterable[str], progress: Progress | None) -> None:
        self._file = file
        self._waiting = list(names)
        self._count = len(self._waiting)
        self._progress = progress

    def take(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """Read the tensors whose names start so and that were not read yet."""
        found = [name for name in self._waiting if name.startswith(prefix)]
        return {name: self._read(name) for name in found}

    def _read(self, name: str) -> NDArray[np.float32]:
        tensor = self._file.read(name)
        self._waiting.remove(name)
        if self._progress is not None:
            self._progress(self._count - len(self._waiting), self._count)
        return tensor


def _engine_config(model: ModelConfig, reader: _Reader) -> EngineConfig:
    """Translate the model's description into the engine's."""
    factors = reader.take("rope_freqs.").get("rope_freqs.weight")
    rope = RopeSettings(
        base=model.rope.base,
        dimension_count=model.rope.dimension_count,
        scale=model.rope.factor,
        factors=() if factors is None else tuple(factors.astype(float).tolist()),
    )
    return EngineConfig(
        layer_count=model.layer_count,
        hidden_size=model.hidden_size,
        head_count=model.head_count,
        kv_head_count=model.kv_head_count,
        head_size=model.head_size,
        ffn_size=model.ffn_size,
        vocabulary_size=model.vocabulary_size,
        rms_norm_eps=model.rms_norm_eps,
        rope=rope,
    )
