"""What a loaded span is said to cost, and how much of a model a node takes on."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest

from p2pinfer.config import NodeConfig
from p2pinfer.engine.api import Engine
from p2pinfer.ids import SessionId, Span
from p2pinfer.inference.hop_session import Reservation
from p2pinfer.loading import has_onnx, load_numpy_engine, load_onnx_engine
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime import serving
from p2pinfer.runtime.serving import LocalModel, choose_own_span, served_span
from tests.models.tiny import write_tiny_llama

SESSION = SessionId(b"s" * 16)
POSITIONS = range(1, 3001)
LAYERS, KV_HEADS = 3, 2

with_onnx = pytest.mark.skipif(not has_onnx(), reason="onnxruntime is not installed")


def tiny_model(directory: Path, **options: Any) -> LocalModel:
    path = write_tiny_llama(directory / "tiny.gguf", layers=LAYERS, kv_heads=KV_HEADS, heads=4, **options)
    store = ModelStore(directory / "models")
    return LocalModel(store.import_file(path, "tiny:latest"), path)


def excess_bytes(model: LocalModel, engine: Engine) -> list[int]:
    """What a session of each count of positions reserves more than it can take."""
    served = served_span(model, engine)
    kept_bytes = 4 * engine.hidden_size

    def reserved_bytes(positions: int) -> int:
        costs = served.position_size_bytes, served.session_size_bytes
        return Reservation(SESSION, positions, *costs).size_bytes

    return [reserved_bytes(n) - engine.cache_size_bytes(n) - n * kept_bytes for n in POSITIONS]


@with_onnx
@pytest.mark.parametrize("hidden", [64, 192])  # rows of a head of 64 bytes, and of 192: no part of a page
def test_a_session_reserves_the_pages_that_its_slot_takes(tmp_path: Path, hidden: int) -> None:
    model = tiny_model(tmp_path, hidden=hidden, context_length=3000)
    excess = excess_bytes(model, load_onnx_engine(model.path, Span(0, LAYERS)))
    assert min(excess) >= 0
    assert max(excess) <= 2 * LAYERS * KV_HEADS * mmap.PAGESIZE


def test_a_session_of_an_engine_without_pages_reserves_what_its_positions_take(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, hidden=64, context_length=3000)
    assert set(excess_bytes(model, load_numpy_engine(model.path, Span(0, LAYERS)))) == {0}


@pytest.mark.parametrize(
    ("engine", "quantisation", "layer_count"),
    [
        pytest.param("onnx", "Q4_0", 4, marks=with_onnx),  # 0.9 bytes a weight, the norms 4
        pytest.param("auto", "Q4_0", 4, marks=with_onnx),
        pytest.param("onnx", "F16", 1, marks=with_onnx),  # whose floats are kept as float32
        ("numpy", "Q4_0", 1),
    ],
)
def test_a_node_takes_as_many_layers_as_its_engine_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, quantisation: str, layer_count: int
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=8, hidden=256, heads=4, quantisation=quantisation)
    model = LocalModel(ModelStore(tmp_path / "models").import_file(path, "tiny:latest"), path)
    weights = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 512 * 256
    monkeypatch.setattr(serving, "_free_bytes", lambda: round(4.5 * weights / serving._MEMORY_SHARE))
    assert len(choose_own_span(model, NodeConfig(engine=engine), [])) == layer_count
