"""Loading spans of real GGUF files: tiny ones of each kind that the engine computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p2pinfer.engine.api import EngineInput, SampleRequest
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.onnx_engine import OnnxEngine
from p2pinfer.errors import ConfigError, DamagedModel, ModelNotFound
from p2pinfer.ids import SessionId, Span
from p2pinfer.loading import load_engine, load_numpy_engine, load_numpy_weights
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.testing import engine_conformance as suite
from p2pinfer.wire.messages.inference import Sampling
from tests.models.tiny import TinyOptions, write_tiny_llama

SESSION = SessionId(bytes(16))
PROMPT = tuple(range(7, 300, 13))
KINDS: dict[str, TinyOptions] = {
    "plain": {"quantisation": "F32"},
    "quantised": {"quantisation": "Q4_1"},
    "separate output": {"tied": False, "quantisation": "Q8_0"},
    "llama 3": {"rope_factors": True},
    "linear scaling": {"rope_scale": 4.0},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_conforms(kind: str, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", **KINDS[kind])
    subject = suite.EngineSubject(
        make=lambda span: load_engine(path, span, engine="numpy", threads=1),
        layer_count=4,
        vocabulary_size=320,
        token_count=4,
    )
    suite.check_engine(subject)


def last_logits(path: Path) -> bytes:
    engine = load_numpy_engine(path, Span(0, 4))
    engine.open_cache(SESSION, 64)
    return engine.logits(EngineInput(SESSION, 0, tokens=PROMPT)).tobytes()


def test_every_field_of_the_file_reaches_the_arithmetic(tmp_path: Path) -> None:
    """Models that differ in one setting alone give different logits: none is read and forgotten."""
    found = {}
    for kind, options in KINDS.items():
        if kind not in ("quantised", "separate output"):
            found[kind] = last_logits(write_tiny_llama(tmp_path / f"{kind}.gguf", **options))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("engine", ["numpy", "onnx"])
def test_only_the_tensors_of_the_span_are_read(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    read: list[str] = []
    original = GGUFFile.read_raw

    def spy(file: GGUFFile, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        read.append(name)
        return original(file, name)

    monkeypatch.setattr(GGUFFile, "read_raw", spy)
    told: list[tuple[int, int]] = []
    load_engine(path, Span(1, 3), engine=engine, progress=lambda done, count: told.append((done, count)))
    assert len(read) == len(set(read)) == 18
    assert {name.split(".")[1] for name in read} == {"1", "2"}
    assert told == [(number, 18) for number in range(1, 19)]
    read.clear()
    load_engine(path, Span(0, 4), engine=engine)
    tensor_count = 4 * 9 + 2
    assert len(set(read)) == tensor_count
    assert len(read) == tensor_count + (engine == "onnx"), "onnx looks the tied embedding up where it lies"


def test_auto_takes_onnx_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    assert isinstance(load_engine(path, Span(0, 1)), OnnxEngine)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(load_engine(path, Span(0, 1)), NumpyEngine)
    with pytest.raises(ConfigError, match="onnx, which is not installed"):
        load_engine(path, Span(0, 1), engine="onnx")


def test_memory_follows_the_span(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    sizes = [load_numpy_engine(path, Span(1, end)).size_bytes for end in (2, 3)]
    assert sizes[1] == 2 * sizes[0]
    whole, first = load_numpy_engine(path, Span(0, 4)), load_numpy_engine(path, Span(0, 1))
    assert whole.size_bytes == 4 * sizes[0] + (320 + 1) * 64 * 4
    assert first.size_bytes == sizes[0] + 320 * 64 * 4


@pytest.mark.parametrize("span", [Span(0, 2), Span(1, 3), Span(2, 4), Span(0, 4)], ids=str)
def test_a_part_of_loaded_weights_is_what_the_file_gives_for_it(span: Span, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    config, weights = load_numpy_weights(path, Span(0, 4))
    part, (_, own) = weights.part(config, span), load_numpy_weights(path, span)
    assert len(part.layers) == len(own.layers) == len(span)
    assert all(np.array_equal(one.qkv, other.qkv) for one, other in zip(part.layers, own.layers, strict=True))
    for name in ("embedding", "output_norm", "output"):
        one, other = getattr(part, name), getattr(own, name)
        assert (one is None) == (other is None), name
        assert one is None or np.array_equal(one, other), name
    with pytest.raises(ConfigError, match="are not a part"):
        part.part(config, Span(0, 5))


def test_what_cannot_be_loaded_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    with pytest.raises(ConfigError, match=r"engine is 'abacus'; it must be one of auto, onnx, numpy"):
        load_engine(path, Span(0, 1), engine="abacus")
    with pytest.raises(ConfigError, match=r"accuracy is 'int3'; it must be one of int8, int8-fast, float32"):
        load_engine(path, Span(0, 1), accuracy="int3")
    with pytest.raises(ConfigError, match="threads is 0"):
        load_engine(path, Span(0, 1), threads=0)
    with pytest.raises(ConfigError, match=r"\[2,5\)"):
        load_engine(path, Span(2, 5))
    with pytest.raises(ModelNotFound):
        load_engine(tmp_path / "none.gguf", Span(0, 1))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DamagedModel):
        load_engine(path, Span(0, 1))


def test_an_engine_from_a_file_generates(tmp_path: Path) -> None:
    engine = load_engine(write_tiny_llama(tmp_path / "tiny.gguf"), Span(0, 4))
    engine.open_cache(SESSION, 64)
    output = engine.run(
        [EngineInput(SESSION, 0, tokens=PROMPT, sample=SampleRequest(Sampling(), len(PROMPT)))]
    )
    assert output[0].error is None
    assert 0 <= (output[0].token or 0) < 320


def test_types_that_are_rounded_are_named_once_with_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    for kind, expected in (("TQ2_0", 1), ("Q4_1", 0)):
        caplog.clear()
        path = write_tiny_llama(
            tmp_path / f"{kind}.gguf", quantisation=kind, hidden=256, heads=4, kv_heads=4, layers=2
        )
        load_engine(path, Span(0, 2), engine="onnx", threads=1).close()
        said = [each.getMessage() for each in caplog.records if "rounded to eight bits" in each.getMessage()]
        assert len(said) == expected
        assert all(kind in each for each in said)
