"""The onnxruntime engine: it conforms, what its bits do not depend on, parts of a span, and failures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from p2pinfer.engine.api import Engine, EngineInput, EngineOutput, SampleRequest
from p2pinfer.engine.embedding import EmbeddingTable
from p2pinfer.engine.kv_slots import SLOT_COUNT
from p2pinfer.engine.onnx_engine import OnnxEngine, OnnxSettings, OnnxWeights
from p2pinfer.engine.onnx_graph import LayerMatrices
from p2pinfer.engine.quantised import DenseMatrix
from p2pinfer.engine.rope import RopeSettings
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.engine.weights import EngineConfig
from p2pinfer.errors import ConfigError, UnsupportedModel
from p2pinfer.ids import SessionId, Span
from p2pinfer.loading import load_engine, load_numpy_engine, load_onnx_engine
from p2pinfer.testing import engine_conformance as suite
from p2pinfer.wire.messages.inference import Sampling
from tests.engine.tiny import tiny_config, tiny_engine, tiny_tensors
from tests.models.tiny import TinyOptions, write_tiny_llama

WHOLE = Span(0, 4)
PROMPT = tuple(range(3, 60, 4))
KINDS: dict[str, TinyOptions] = {
    "floats": {"quantisation": "F32"},
    "four bits": {"quantisation": "Q4_1"},
    "eight bits": {"quantisation": "Q8_0", "tied": False},
    "llama 3": {"rope_factors": True, "quantisation": "Q5_0"},
}
TOLERANCES = {"int8": 2e-2, "float32": 1e-4}


def session(number: int) -> SessionId:
    return SessionId(number.to_bytes(16, "big"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", quantisation="Q4_1")


@pytest.mark.parametrize("accuracy", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_conforms_to_the_bit(kind: str, accuracy: str, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", **KINDS[kind])
    subject = suite.EngineSubject(
        make=lambda span: load_onnx_engine(path, span, accuracy=accuracy, threads=1),
        layer_count=4,
        vocabulary_size=320,
        token_count=4,
        tolerance=TOLERANCES[accuracy],
    )
    suite.check_engine(subject)


@pytest.mark.parametrize(("accuracy", "difference_max"), [("int8", 0.2), ("float32", 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_reference_computes(
    kind: str, accuracy: str, difference_max: float, tmp_path: Path
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", **KINDS[kind])
    found = []
    for engine in (load_numpy_engine(path, WHOLE), load_onnx_engine(path, WHOLE, accuracy=accuracy)):
        engine.open_cache(session(1), 64)
        engine.run([EngineInput(session(1), 0, tokens=PROMPT)])
        found.append(engine.logits(EngineInput(session(1), len(PROMPT), tokens=(5,))))
    assert np.abs(found[0] - found[1]).max() <= difference_max * np.abs(found[0]).max()


def hidden_bytes(output: EngineOutput) -> bytes:
    assert output.error is None
    assert output.hidden is not None
    return output.hidden.data


def generated(engine: Engine, count: int, together: Callable[[int], bool]) -> dict[tuple[int, int], bytes]:
    """Feed sessions prompts, then single tokens in batches of those asked for; their hidden states."""
    found: dict[tuple[int, int], bytes] = {}
    for number in range(count):
        engine.open_cache(session(number), 40)
        prompt = tuple(Random(number).randrange(320) for _ in range(3 + number))
        step = EngineInput(session(number), 0, tokens=prompt)
        found[number, 0] = hidden_bytes(engine.run([step])[0])
    for turn in range(3):
        steps = [
            EngineInput(session(number), 3 + number + turn, tokens=(7 * turn + number,))
            for number in range(count)
            if together(number)
        ]
        for step, output in zip(steps, engine.run(steps), strict=True):
            found[int.from_bytes(step.session, "big"), turn + 1] = hidden_bytes(output)
    return found


@pytest.mark.parametrize("accuracy", TOLERANCES)
def test_bits_depend_neither_on_the_batch_nor_on_idle_slots_nor_on_threads(path: Path, accuracy: str) -> None:
    found = []
    for threads, together in (
        (1, lambda number: True),
        (2, lambda number: True),
        (1, lambda number: number % 3 == 0),  # two idle slots between any two: one batch
        (1, lambda number: number % 4 == 0),  # three: several
        (1, lambda number: number == 5),
    ):
        engine = load_onnx_engine(path, Span(0, 3), accuracy=accuracy, threads=threads)
        found.append(generated(engine, 12, together))
        engine.close()
    for other in found[1:]:
        assert all(found[0][key] == numbers for key, numbers in other.items())
    assert len(found[0]) == 12 * 4


def test_with_int8_single_rows_have_the_bits_that_they_have_in_a_prompt(path: Path) -> None:
    prompt = tuple(Random(4).randrange(320) for _ in range(90))
    engine = load_onnx_engine(path, Span(0, 3), threads=1)
    for number in range(4):
        engine.open_cache(session(number), len(prompt))

    def singles(number: int, bases: range) -> list[EngineInput]:
        return [EngineInput(session(number), base, tokens=prompt[base : base + 1]) for base in bases]

    whole = hidden_bytes(engine.run([EngineInput(session(1), 0, tokens=prompt)])[0])
    one_by_one = [hidden_bytes(engine.run([step])[0]) for step in singles(2, range(90))]
    begun = hidden_bytes(engine.run([EngineInput(session(3), 0, tokens=prompt[:30])])[0])
    others = engine.run([*singles(0, range(7)), *singles(3, range(30, 90)), *singles(0, range(7, 9))])
    run = [hidden_bytes(output) for output in others]
    assert whole == b"".join(one_by_one) == begun + b"".join(run[7:67])
    assert b"".join(run[:7] + run[67:]) == whole[: len(run[0]) * 9]


def test_what_is_wrong_in_a_run_costs_nobody_before_it(path: Path) -> None:
    engine = load_onnx_engine(path, WHOLE, threads=1)
    engine.open_cache(session(1), 3)
    steps = [EngineInput(session(1), base, tokens=(base,)) for base in range(5)]
    errors = [output.error for output in engine.run(steps)]
    assert errors[:3] == [None] * 3
    assert all("the cache is full" in str(error) or "beyond" in str(error) for error in errors[3:])
    again = engine.run([steps[1], EngineInput(session(1), 2, tokens=(320,)), steps[2]])
    assert [output.error is None for output in again] == [True, False, True]


def test_int8_fast_computes_a_single_row_as_one_and_promises_no_bits(path: Path) -> None:
    found = []
    for accuracy in ("int8", "int8-fast"):
        engine = load_onnx_engine(path, WHOLE, accuracy=accuracy, threads=1)
        engine.open_cache(session(1), 40)
        engine.run([EngineInput(session(1), 0, tokens=PROMPT)])
        found.append(engine.logits(EngineInput(session(1), len(PROMPT), tokens=(5,))))
    np.testing.assert_allclose(found[0], found[1], atol=2e-2 * np.abs(found[0]).max())
    assert (
        OnnxSettings(accuracy="int8-fast").row_count_min
        == OnnxSettings(accuracy="float32").row_count_min
        == 1
    )


def test_the_last_slot_of_a_block_is_padded_by_the_one_before(path: Path) -> None:
    engine = load_onnx_engine(path, Span(0, 3), threads=1)
    found = []
    for number in range(SLOT_COUNT):
        engine.open_cache(session(number), 40)
        if number in (0, SLOT_COUNT - 1):
            engine.run([EngineInput(session(number), 0, tokens=PROMPT)])
            step = EngineInput(session(number), len(PROMPT), tokens=(5,))
            found.append(hidden_bytes(engine.run([step])[0]))
    assert found[0] == found[1]


@pytest.mark.parametrize("accuracy", TOLERANCES)
@pytest.mark.parametrize("chunks", [(2, 398), (200, 200), (301, 99), (100, 2, 2, 296)], ids=str)
def test_however_a_prompt_is_cut_its_bits_are_the_same(
    path: Path, accuracy: str, chunks: tuple[int, ...]
) -> None:
    prompt = tuple(Random(4).randrange(320) for _ in range(400))
    engine = load_onnx_engine(path, Span(0, 3), accuracy=accuracy, threads=1)
    engine.open_cache(session(1), 400)
    whole = hidden_bytes(engine.run([EngineInput(session(1), 0, tokens=prompt)])[0])
    engine.open_cache(session(2), 2000)
    base, pieces = 0, []
    for size in chunks:
        step = EngineInput(session(2), base, tokens=prompt[base : base + size])
        pieces.append(hidden_bytes(engine.run([step])[0]))
        base += size
    assert b"".join(pieces) == whole


def test_a_part_of_the_span_is_cut_off_once_and_changes_no_bit(path: Path) -> None:
    whole = load_onnx_engine(path, WHOLE, threads=1)
    steps = [EngineInput(session(1), 0, tokens=PROMPT), EngineInput(session(1), len(PROMPT), tokens=(3,))]

    def logits(engine: OnnxEngine) -> list[NDArray[np.float32]]:
        engine.open_cache(session(1), 64)
        found = [engine.logits(step) for step in steps]
        engine.drop_cache(session(1))
        return found

    before = logits(whole)
    whole.open_cache(session(2), 64)
    whole.open_cache(session(3), 64)
    low = whole.run([EngineInput(session(2), 0, tokens=PROMPT, layers=Span(0, 3))])[0]
    high = whole.logits(EngineInput(session(3), 0, hidden=low.hidden, layers=Span(3, 4)))
    assert high.tobytes() == before[0].tobytes()
    assert [found.tobytes() for found in logits(whole)] == [found.tobytes() for found in before]
    moved = whole.run([EngineInput(session(2), len(PROMPT), tokens=(1,), layers=Span(0, 2))])[0]
    assert moved.error == "the session runs layers [0,3) here, not [0,2)"


def test_a_run_after_a_failed_step_fails_and_others_do_not(path: Path) -> None:
    engine = load_onnx_engine(path, WHOLE, threads=1)
    for number in (1, 2):
        engine.open_cache(session(number), 8)
    asked = SampleRequest(Sampling(), 1)
    outputs = engine.run(
        [
            EngineInput(session(1), 0, tokens=(1,)),
            EngineInput(session(1), 1, tokens=(320,)),
            EngineInput(session(1), 2, tokens=(1,)),
            EngineInput(session(2), 0, tokens=(1,), sample=asked),
        ]
    )
    assert [output.error is None for output in outputs] == [True, False, False, True]
    assert outputs[3].token is not None
    assert all(0 < output.duration_s < 10 for output in outputs)


def dense(*arrays: NDArray[np.float32]) -> tuple[DenseMatrix, ...]:
    return tuple(DenseMatrix(np.ascontiguousarray(array.T)) for array in arrays)


def engine_of(config: EngineConfig, tensors: dict[str, NDArray[np.float32]]) -> OnnxEngine:
    """An engine of a whole tiny model without a file."""

    def layer(index: int) -> LayerMatrices:
        def part(name: str) -> NDArray[np.float32]:
            return tensors[f"blk.{index}.{name}.weight"]

        return LayerMatrices(
            attention_norm=part("attn_norm"),
            qkv=dense(part("attn_q"), part("attn_k"), part("attn_v")),
            output=dense(part("attn_output"))[0],
            ffn_norm=part("ffn_norm"),
            gate_up=dense(part("ffn_gate"), part("ffn_up")),
            down=dense(part("ffn_down"))[0],
        )

    embedding = tensors["token_embd.weight"]
    weights = OnnxWeights(
        span=Span(0, config.layer_count),
        layer=layer,
        embedding=EmbeddingTable(embedding.view(np.uint8), GGMLQuantizationType.F32),
        head=lambda: (tensors["output_norm.weight"], dense(embedding)[0]),
    )
    return OnnxEngine(config, weights, OnnxSettings(threads=1))


def test_numbers_that_overflow_are_an_error_and_the_session_is_cut_to_the_base() -> None:
    config = tiny_config(head_size=16, rope=RopeSettings(dimension_count=16))
    tensors = tiny_tensors(config)
    tensors["blk.1.ffn_down.weight"][:] = 3e38
    engine = engine_of(config, tensors)
    engine.open_cache(session(1), 20)
    output = engine.run([EngineInput(session(1), 0, tokens=PROMPT)])[0]
    assert output.error == "layers [0,4) gave numbers that are not finite"
    assert "base 1" in str(engine.run([EngineInput(session(1), 1, tokens=(1,))])[0].error)
    with pytest.raises(StepRefused, match="not finite"):
        engine.logits(EngineInput(session(1), 0, tokens=PROMPT))


def test_a_partly_rotated_head_is_computed_as_the_reference_does() -> None:
    config = tiny_config(head_size=32, rope=RopeSettings(dimension_count=16, scale=2.0))
    found = []
    for engine in (tiny_engine(config=config), engine_of(config, tiny_tensors(config))):
        engine.open_cache(session(1), 64)
        found.append(engine.logits(EngineInput(session(1), 0, tokens=PROMPT)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_heads_that_onnxruntime_cannot_rotate_are_refused_and_left_to_numpy_by_auto(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", heads=8, kv_heads=2)
    with pytest.raises(UnsupportedModel, match="heads of 8 numbers"):
        load_engine(path, WHOLE, engine="onnx")
    engine = load_engine(path, WHOLE, engine="auto")
    engine.open_cache(session(1), 64)
    assert engine.run([EngineInput(session(1), 0, tokens=PROMPT)])[0].error is None


def test_a_closed_engine_says_so_and_a_span_beyond_the_model_is_refused(path: Path) -> None:
    engine = load_onnx_engine(path, WHOLE)
    engine.open_cache(session(1), 20)
    engine.close()
    assert engine.run([EngineInput(session(1), 0, tokens=(1,))])[0].error
    with pytest.raises(ConfigError, match="beyond"):
        load_onnx_engine(path, Span(2, 5))


def test_settings_that_are_wrong_are_refused() -> None:
    with pytest.raises(ConfigError, match="accuracy is 'int4'; it must be one of int8, int8-fast, float32"):
        OnnxSettings(accuracy="int4")
    with pytest.raises(ConfigError, match="threads is -1"):
        OnnxSettings(threads=-1)


def test_nothing_is_written_besides_the_model_and_telemetry_is_off(path: Path, tmp_path: Path) -> None:
    """onnxruntime keeps an id and a database in the user's home, and sends them, if nobody forbids it."""
    program = (
        "import sys; from pathlib import Path; from p2pinfer.ids import Span; "
        "from p2pinfer.loading import load_onnx_engine; "
        "load_onnx_engine(Path(sys.argv[1]), Span(0, 4)).close()"
    )
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment.pop("CI", None)  # it keeps quiet there, too
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        environment[name] = str(tmp_path)
    command = [sys.executable, "-B", "-c", program, str(path)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
