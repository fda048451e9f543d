"""Which layers a peer serves, and how they get into memory."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from p2pinfer.config import NodeConfig
from p2pinfer.engine.api import Engine
from p2pinfer.errors import ConfigError
from p2pinfer.ids import Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.placement import choose_span
from p2pinfer.loading import load_engine
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.manifest import Manifest
from p2pinfer.models.store import ModelStore

__all__ = ["LocalModel", "find_local_model", "load_span", "served_span"]

_log = logging.getLogger(__name__)

_MEMORY_SHARE = 0.6
"""Of the memory now free, what weights may take by themselves: caches and other programs want the rest."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose file lies on this machine."""

    manifest: Manifest
    path: Path

    @property
    def name(self) -> str:
        """Name and tag."""
        return self.manifest.full_name


def find_local_model(store: ModelStore, config: NodeConfig) -> LocalModel | None:
    """Return the model that a node is told to serve; None if it serves none. Blocks on the disk.

    Raises:
        ModelError: The file is not there or cannot be used; the message says how to get it.
    """
    if config.file is not None:
        manifest = store.import_file(config.file, config.model or None)
        return LocalModel(manifest, store.path_of(manifest.full_name))
    if not config.model:
        return None
    manifest = store.manifest_of(config.model)
    return LocalModel(manifest, store.path_of(config.model))


def choose_own_span(model: LocalModel, wanted: Span | None, held: list[Span]) -> Span:
    """Return the span to serve: the one asked for, or what the swarm lacks most. Blocks on the disk.

    Raises:
        ConfigError: The span goes beyond the model.
    """
    layer_count = model.manifest.layer_count
    if wanted is None:
        capacity = _capacity(model.path, layer_count)
        chosen = choose_span(layer_count, capacity, held)
        _log.info("chose layers %s of %s: memory is for %d", chosen, model.name, capacity)
        return chosen
    if wanted.end > layer_count:
        raise ConfigError(
            f"span {wanted.start}:{wanted.end} goes beyond {model.name}, which has {layer_count} layers"
        )
    return wanted


def load_span(model: LocalModel, span: Span, config: NodeConfig) -> Engine:
    """Read the span's tensors into an engine. Blocks for as long as that takes.

    Raises:
        ModelError: The file cannot be used.
    """

    def progress(done: int, total: int) -> None:
        if done == total or done % max(1, total // 4) == 0:
            _log.info("loading layers %s of %s: %d of %d tensors", span, model.name, done, total)

    return load_engine(
        model.path, span, engine=config.engine, threads=config.threads or None, progress=progress
    )


def served_span(model: LocalModel, engine: Engine) -> ServedSpan:
    """Describe a loaded span to the hop's core."""
    with GGUFFile.open(model.path) as file:
        context_length = ModelConfig.from_gguf(file).context_length
    positions = min(1024, context_length)
    cache_bytes = -(-engine.cache_size_bytes(positions) // positions)
    kept_bytes = 4 * engine.hidden_size
    return ServedSpan(
        digest=model.manifest.digest,
        span=engine.span,
        layer_count=model.manifest.layer_count,
        position_size_bytes=cache_bytes + kept_bytes,
        positions_max=context_length,
    )


def _capacity(path: Path, layer_count: int) -> int:
    """How many layers fit into a share of the memory that is free now; at least one is tried."""
    with GGUFFile.open(path) as file:
        weights = sum(_count(info.shape) for name, info in file.tensors.items() if name.startswith("blk."))
    layer_bytes = max(1, 4 * weights // layer_count)
    try:
        free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return layer_count  # a system that does not tell: the operator's --span decides
    return max(1, int(free_bytes * _MEMORY_SHARE) // layer_bytes)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
