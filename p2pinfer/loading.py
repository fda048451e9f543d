"""From a model file to an engine: the one place where `models` and `engine` meet.

Only the tensors of the span are read. A layer's file tensors are let go as soon as the layer is built, so
that loading needs little more memory than the engine keeps.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from p2pinfer.config import ACCURACIES, ENGINES
from p2pinfer.engine.api import Engine
from p2pinfer.engine.blas import set_blas_threads
from p2pinfer.engine.embedding import EmbeddingTable
from p2pinfer.engine.ggml_blocks import LAYOUTS
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.quantised import Matrix, QuantisedMatrix, quantised_matrix
from p2pinfer.engine.rope import RopeSettings
from p2pinfer.engine.tensor_shard import ShardCut, check_cuts, cut_layer
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError, UnsupportedModel
from p2pinfer.ids import Span
from p2pinfer.models.architectures import EMBEDDING, OUTPUT, OUTPUT_NORM, ModelConfig, span_tensor_names
from p2pinfer.models.gguf import GGUFFile, TensorInfo

if TYPE_CHECKING:
    from p2pinfer.engine.onnx_engine import OnnxEngine
    from p2pinfer.engine.onnx_graph import LayerMatrices

__all__ = [
    "has_onnx",
    "layers_size_bytes",
    "load_engine",
    "load_numpy_engine",
    "load_numpy_weights",
    "load_onnx_engine",
    "load_shard_weights",
    "read_engine_config",
]

_log = logging.getLogger(__name__)

_FLOAT32_BYTES = 4
_FLOAT_TYPES = ("F32", "F16", "BF16")
_ONNX_MULTIPLE = 16
"""Of what onnxruntime wants the sizes of heads; where they are not, the engine auto is numpy."""
_PACKED_FACTOR = 1.6
"""What onnxruntime keeps of a quantised tensor, scales and packed codes, by its size in the file."""
_REPACKED_BYTES = 1.3
"""What it keeps of a weight whose type it does not multiply as it is: eight bits, a scale and an offset."""

Progress = Callable[[int, int], None]
"""Told tensors read and tensors in all, after each."""


def load_engine(
    path: Path,
    span: Span,
    *,
    engine: str = "auto",
    accuracy: str = "int8",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Load a span of a GGUF model.

    Args:
        path: The model file.
        span: The layers to hold.
        engine: One of `ENGINES`; auto takes onnx where that is installed and can compute the model.
        accuracy: One of `ACCURACIES`, for onnx; numpy computes in float32 whatever is asked.
        threads: That compute; None leaves the choice to the engine. For numpy best effort, see `engine.blas`.
        progress: Told tensors read and tensors in all, after each.

    Raises:
        ConfigError: No such engine or accuracy, an engine that is not installed, fewer than one thread, or a
            span beyond the model.
        ModelError: The file cannot be used; the message says why.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    if accuracy not in ACCURACIES:
        raise ConfigError(f"accuracy is {accuracy!r}; it must be one of {', '.join(ACCURACIES)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1")
    if engine == "onnx" or (engine == "auto" and has_onnx()):
        try:
            return load_onnx_engine(path, span, accuracy=accuracy, threads=threads, progress=progress)
        except UnsupportedModel:
            if engine == "onnx":
                raise
    return load_numpy_engine(path, span, threads=threads, progress=progress)


def has_onnx() -> bool:
    """Whether the packages of the engine onnx are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def layers_size_bytes(path: Path, engine: str = "auto") -> int:
    """Estimate what all layers of a model take of memory in an engine that `load_engine` would choose.

    Raises:
        ModelError: The file cannot be used; the message says why.
    """
    with GGUFFile.open(path) as file:
        model = ModelConfig.from_gguf(file)
        is_fit = not (model.head_size % _ONNX_MULTIPLE or model.rope.dimension_count % _ONNX_MULTIPLE)
        is_onnx = engine == "onnx" or (engine == "auto" and is_fit and has_onnx())
        tensors = [info for name, info in file.tensors.items() if name.startswith("blk.")]
        return sum(_packed_size_bytes(info) if is_onnx else _float_size_bytes(info) for info in tensors)


def _float_size_bytes(info: TensorInfo) -> int:
    return _FLOAT32_BYTES * prod(info.shape)


def _packed_size_bytes(info: TensorInfo) -> int:
    if info.type.name in _FLOAT_TYPES:
        return _float_size_bytes(info)
    size = _PACKED_FACTOR * info.size_bytes
    if info.type not in LAYOUTS:
        size = max(size, _REPACKED_BYTES * prod(info.shape))
    return round(size)


def load_onnx_engine(
    path: Path,
    span: Span,
    *,
    accuracy: str = "int8",
    threads: int | None = None,
    progress: Progress | None = None,
) -> OnnxEngine:
    """Load a span into the fast engine, as `load_engine` does."""
    if not has_onnx():
        raise ConfigError("engine is onnx, which is not installed: pip install onnx onnxruntime")
    # Here and not above: it takes a while, and may not be installed.
    from p2pinfer.engine.onnx_engine import OnnxEngine, OnnxSettings, OnnxWeights

    settings = OnnxSettings(accuracy=accuracy, threads=threads or 0)
    file = GGUFFile.open(path)  # its mapping lives on: a part of the span may be asked for later
    model = ModelConfig.from_gguf(file)
    reader = _Reader(file, span_tensor_names(model, span), progress)
    config = _engine_config(model, reader)
    matrix = partial(reader.matrix, exact_activations=accuracy == "float32")
    output = EMBEDDING if model.tied_output else OUTPUT
    weights = OnnxWeights(
        span=span,
        layer=partial(_layer_matrices, reader, matrix),
        embedding=reader.table(EMBEDDING) if span.start == 0 else None,
        head=(lambda: (reader.vector(OUTPUT_NORM), matrix(output)))
        if span.end == model.layer_count
        else None,
    )
    return OnnxEngine(config, weights, settings)


def _layer_matrices(reader: _Reader, matrix: Callable[[str], Matrix], layer: int) -> LayerMatrices:
    from p2pinfer.engine.onnx_graph import LayerMatrices

    def name(part: str) -> str:
        return f"blk.{layer}.{part}.weight"

    return LayerMatrices(
        attention_norm=reader.vector(name("attn_norm")),
        qkv=(matrix(name("attn_q")), matrix(name("attn_k")), matrix(name("attn_v"))),
        output=matrix(name("attn_output")),
        ffn_norm=reader.vector(name("ffn_norm")),
        gate_up=(matrix(name("ffn_gate")), matrix(name("ffn_up"))),
        down=matrix(name("ffn_down")),
    )


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
        self._lossy: set[GGMLQuantizationType] = set()

    def take(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """Read the tensors whose names start so and that were not read yet."""
        found = [name for name in self._waiting if name.startswith(prefix)]
        return {name: self.vector(name) for name in found}

    def vector(self, name: str) -> NDArray[np.float32]:
        """Read a tensor as numbers, again where it was read already."""
        tensor = self._file.read(name)
        self._tell(name)
        return tensor

    def matrix(self, name: str, *, exact_activations: bool) -> Matrix:
        """Read a tensor in the form in which onnxruntime multiplies it, again where it was read already."""
        kind = self._file.tensors[name].type
        matrix = quantised_matrix(name, self._file.read_raw(name), kind, exact_activations=exact_activations)
        self._tell(name)
        loss = matrix.loss if isinstance(matrix, QuantisedMatrix) else 0.0
        if loss and kind not in self._lossy:
            self._lossy.add(kind)
            _log.warning(
                "weights of type %s are rounded to eight bits, as onnxruntime multiplies none of them: "
                "in %s by %.2g of their size; the engine numpy computes them as they are",
                kind.name,
                name,
                loss,
            )
        return matrix

    def table(self, name: str) -> EmbeddingTable:
        """Return a tensor as it lies in the file."""
        table = EmbeddingTable(self._file.read_raw(name), self._file.tensors[name].type)
        self._tell(name)
        return table

    def _tell(self, name: str) -> None:
        if name in self._waiting:
            self._waiting.remove(name)
            if self._progress is not None:
                self._progress(self._count - len(self._waiting), self._count)


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
