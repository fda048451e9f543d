"""Which layers a peer serves, and how they get into memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pinfer.config import NodeConfig
from p2pinfer.engine.api import Engine
from p2pinfer.errors import ConfigError, ModelNotFound
from p2pinfer.ids import Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.inference.placement import choose_span
from p2pinfer.loading import layers_size_bytes, load_engine
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.manifest import Manifest
from p2pinfer.models.store import ModelStore, PullProgress
from p2pinfer.runtime.composition import Parts
from p2pinfer.runtime.progress import Activity, Phase, Progress

__all__ = ["LoadedSpan", "LocalModel", "find_local_model", "load_own_span", "load_span", "served_span"]

_log = logging.getLogger(__name__)

_MEMORY_SHARE = 0.6
"""Of the memory now free, what weights may take by themselves: caches and other programs want the rest."""

_EVEN_COUNT = 1 << 16
"""Positions whose caches fill whole pages: a multiple of every system's page size in bytes."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose file lies on this machine."""

    manifest: Manifest
    path: Path

    @property
    def name(self) -> str:
        """Name and tag."""
        return self.manifest.full_name


@dataclass(frozen=True, slots=True)
class LoadedSpan:
    """A span in memory, ready to be served."""

    engine: Engine
    served: ServedSpan
    model: LocalModel


Report = Callable[[Progress], None]
"""Told how far blocking work is; may end it by raising."""


async def load_own_span(parts: Parts, activity: Activity) -> LoadedSpan | None:
    """Load the span that this peer is told to serve; None if it serves none.

    Args:
        parts: The peer's.
        activity: Told what is being done, and how far it is.

    Raises:
        ConfigError: The span goes beyond the model.
        ModelError: The model is not here and is not to be pulled, or it cannot be used.
        UnavailableError: The model was to be pulled, and the package index cannot be reached.
    """
    store, config = parts.store, parts.config
    if config.file is None and not config.model:
        activity.enter(Phase.READY)
        return None
    if config.pull and await trio.to_thread.run_sync(_is_missing, store, config):
        activity.enter(Phase.PULLING)
        await trio.to_thread.run_sync(_pull, store, config.model, activity.report)
    activity.enter(Phase.LOADING)
    model = await trio.to_thread.run_sync(find_local_model, store, config, activity.report)
    held = [resident.span for resident in parts.core.residents(model.manifest.digest)]
    span = await trio.to_thread.run_sync(choose_own_span, model, config, held)
    engine = await trio.to_thread.run_sync(load_span, model, span, config, activity.report)
    served = await trio.to_thread.run_sync(served_span, model, engine)
    return LoadedSpan(engine, served, model)


def _is_missing(store: ModelStore, config: NodeConfig) -> bool:
    if config.file is not None:
        return False
    try:
        store.manifest_of(config.model)
    except ModelNotFound:
        return True
    return False


def _pull(store: ModelStore, name: str, report: Report) -> None:
    _log.info("the model %s is not here: pulling it", name)
    store.pull(name, _byte_report(f"pulling {name}", report))


def _byte_report(what: str, report: Report) -> Callable[[PullProgress], None]:
    return lambda news: report(Progress(f"{what}: {news.phase}", news.done, news.total, "bytes"))


def find_local_model(store: ModelStore, config: NodeConfig, report: Report) -> LocalModel:
    """Return the model that a node is told to serve. Blocks on the disk.

    Raises:
        ModelError: The file is not there or cannot be used; the message says how to get it.
    """
    if config.file is not None:
        progress = _byte_report(f"reading {config.file.name}", report)
        manifest = store.import_file(config.file, config.model or None, progress)
        return LocalModel(manifest, store.path_of(manifest.full_name))
    manifest = store.manifest_of(config.model)
    return LocalModel(manifest, store.path_of(config.model))


def choose_own_span(model: LocalModel, config: NodeConfig, held: list[Span]) -> Span:
    """Return the span to serve: the one asked for, or what the swarm lacks most. Blocks on the disk.

    Args:
        model: Whose layers.
        config: The node's: the span asked for, if one is, and the engine, which tells how many layers fit.
        held: What the others hold who do not drain.

    Raises:
        ConfigError: The span goes beyond the model.
        ModelError: The file cannot be used.
    """
    layer_count, wanted = model.manifest.layer_count, config.span
    if wanted is None:
        capacity = _capacity(model.path, layer_count, config.engine)
        chosen = choose_span(layer_count, capacity, held)
        _log.info("chose layers %s of %s: memory is for %d", chosen, model.name, capacity)
        return chosen
    if wanted.end > layer_count:
        raise ConfigError(
            f"span {wanted.start}:{wanted.end} goes beyond {model.name}, which has {layer_count} layers"
        )
    return wanted


def load_span(model: LocalModel, span: Span, config: NodeConfig, report: Report) -> Engine:
    """Read the span's tensors into an engine. Blocks for as long as that takes.

    Raises:
        ModelError: The file cannot be used.
    """
    work = f"loading layers {span.start}:{span.end} of {model.name}"
    started_s = time.perf_counter()

    def progress(done: int, total: int) -> None:
        report(Progress(work, done, total, "tensors"))

    engine = load_engine(
        model.path,
        span,
        engine=config.engine,
        accuracy=config.accuracy,
        threads=config.threads or None,
        progress=progress,
    )
    _log.info("%s took %.1f s", work, time.perf_counter() - started_s)
    return engine


def served_span(model: LocalModel, engine: Engine) -> ServedSpan:
    """Describe a loaded span to the hop's core."""
    with GGUFFile.open(model.path) as file:
        context_length = ModelConfig.from_gguf(file).context_length
    position_bytes, session_bytes = _cache_costs(engine, context_length)
    kept_bytes = 4 * engine.hidden_size
    return ServedSpan(
        digest=model.manifest.digest,
        span=engine.span,
        layer_count=model.manifest.layer_count,
        position_size_bytes=position_bytes + kept_bytes,
        positions_max=context_length,
        session_size_bytes=session_bytes,
    )


def _cache_costs(engine: Engine, positions_max: int) -> tuple[int, int]:
    """What a session's cache takes for each position and besides: never less together than the engine takes.

    The cost of a position is the slope over so many that every engine's steps (pages) come out even; what is
    besides is the most that any count of positions exceeds that line by.
    """
    size = engine.cache_size_bytes
    position_bytes = -(-(size(1 + _EVEN_COUNT) - size(1)) // _EVEN_COUNT)
    above = max(size(count) - count * position_bytes for count in range(1, positions_max + 1))
    return position_bytes, max(0, above)


def _capacity(path: Path, layer_count: int, engine: str) -> int:
    """How many layers fit into a share of the memory that is free now; at least one is tried."""
    free_bytes = _free_bytes()
    if free_bytes is None:
        return layer_count  # a system that does not tell: the operator's --span decides
    layer_bytes = max(1, layers_size_bytes(path, engine) // layer_count)
    return max(1, int(free_bytes * _MEMORY_SHARE) // layer_bytes)


def _free_bytes() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
