from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import DamagedModel, ModelError, ModelNotFound, StorageError, UnsupportedModel
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.chat_template import ChatTemplate
from p2pinfer.models.gguf import DEQUANTISABLE, GGUFFile
from p2pinfer.models.tokenizer import Tokenizer
from tests.models.edit import write_gguf
from tests.models.raw import RawGGUF
from tests.models.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_tiny_llama(
        path, layers=2, hidden=32, heads=2, kv_heads=1, vocabulary=300, quantisation="Q4_1"
    )


def read_all(path: Path) -> None:
    """Do with a file all that a peer does with a model."""
    with GGUFFile.open(path) as file:
        for key in file.metadata:
            _ = file.metadata[key]
        ModelConfig.from_gguf(file)
        Tokenizer.from_gguf(file)
        ChatTemplate.from_gguf(file)
        for name in file.tensors:
            file.read(name)


@pytest.mark.parametrize("quantisation", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_reads_what_the_package_gguf_reads(tmp_path: Path, quantisation: str) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", layers=1, quantisation=quantisation, tied=False)
    reference = GGUFReader(path)
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == [tensor.name for tensor in reference.tensors]
        for tensor in reference.tensors:
            info = file.tensors[tensor.name]
            assert info.shape == tuple(int(n) for n in reversed(tensor.shape))
            assert (info.type, info.offset, info.size_bytes) == (
                tensor.tensor_type,
                tensor.data_offset,
                tensor.n_bytes,
            )
            weights = file.read(tensor.name)
            assert weights.dtype == np.float32
            assert weights.shape == info.shape
            assert np.array_equal(weights, quants.dequantize(tensor.data, tensor.tensor_type))
            raw = file.read_raw(tensor.name)
            assert raw.tobytes() == tensor.data.tobytes()
            assert raw.shape[1] == info.row_size_bytes
        for key, field in reference.fields.items():
            if not key.startswith("GGUF."):
                value, expected = file.metadata[key], field.contents()
                assert (list(value) if isinstance(value, tuple) else value) == expected


@pytest.mark.parametrize("type_", sorted(DEQUANTISABLE))
def test_every_type_that_is_named_can_be_dequantised(type_: GGMLQuantizationType) -> None:
    block_size, block_size_bytes = GGML_QUANT_SIZES[type_]
    weights = quants.dequantize(np.zeros((2, 4 * block_size_bytes), np.uint8), type_)
    assert weights.shape == (2, 4 * block_size)


def test_a_view_outlives_the_file(tiny: Path) -> None:
    with GGUFFile.open(tiny) as file:
        raw = file.read_raw("blk.0.attn_q.weight")
        before = raw.copy()
    assert np.array_equal(raw, before)
    assert not raw.flags.writeable
    with pytest.raises(ValueError, match="closed"):
        file.read("blk.0.attn_q.weight")
    file.close()


def test_weights_are_memory_of_their_own(tiny: Path) -> None:
    with GGUFFile.open(tiny) as file:
        weights = file.read("output_norm.weight")
        weights += 1
        assert not np.array_equal(weights, file.read("output_norm.weight"))


def test_a_missing_tensor_is_named(tiny: Path) -> None:
    with GGUFFile.open(tiny) as file:
        with pytest.raises(DamagedModel, match=r"tiny\.gguf: the tensor 'nothing' is missing"):
            file.read("nothing")
        with pytest.raises(KeyError):
            _ = file.metadata["nothing"]
        assert file.metadata.count("tokenizer.ggml.tokens") == 300
        assert file.metadata.count("general.name") is None


def test_no_file_and_no_permission_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        GGUFFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(StorageError, match="cannot be read"):
        GGUFFile.open(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(DamagedModel, match="no GGUF file"):
        GGUFFile.open(tmp_path / "empty.gguf")


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (RawGGUF(magic=b"GGML"), DamagedModel, "no GGUF file"),
        (RawGGUF(version=1), UnsupportedModel, "version 1"),
        (RawGGUF(version=3 << 24), UnsupportedModel, "big-endian"),
        (RawGGUF(version=4), DamagedModel, "version is 4"),
        (RawGGUF(tensor_count=1 << 63), DamagedModel, "announces 9223372036854775808 tensors"),
        (RawGGUF(key_count=1 << 63), DamagedModel, "metadata keys"),
        (RawGGUF().string_key("a", "x").string_key("a", "y"), DamagedModel, "'a' at byte"),
        (RawGGUF().key(b"\xff", 4, b"\0\0\0\0"), DamagedModel, "not UTF-8"),
        (RawGGUF().key(b"k", 8, b"\1\0\0\0\0\0\0\0\xff"), DamagedModel, "the value of 'k' at byte"),
        (RawGGUF().key(b"k", 8, b"\xff" * 8), DamagedModel, "truncated"),
        (RawGGUF().key(b"k", 13, b""), DamagedModel, "value type 13"),
        (RawGGUF().key(b"k", 7, b"\2"), DamagedModel, "a bool"),
        (RawGGUF().array(b"k", 9, 1, b""), UnsupportedModel, "array of arrays"),
        (RawGGUF().array(b"k", 77, 1, b""), DamagedModel, "element type 77"),
        (RawGGUF().array(b"k", 4, 1 << 60, b""), DamagedModel, "elements"),
        (RawGGUF().array(b"k", 8, 1 << 60, b""), DamagedModel, "elements"),
        (RawGGUF().array(b"k", 10, 1000, b""), DamagedModel, "the array 'k'"),
        (RawGGUF().array(b"k", 8, 2, b"\0" * 8), DamagedModel, "element 1 of 'k'"),
        (RawGGUF().array(b"k", 8, 1, b"\xff" * 8), DamagedModel, "element 0 of 'k'"),
        (RawGGUF().array(b"k", 7, 2, b"\1\5"), DamagedModel, "bools 'k'"),
        (RawGGUF().key(b"general.alignment", 4, b"\x03\0\0\0"), DamagedModel, "power of two"),
        (RawGGUF().key(b"general.alignment", 4, b"\0\0\0\0"), DamagedModel, "power of two"),
        (RawGGUF().string_key("general.alignment", "32"), DamagedModel, "no whole number"),
        (RawGGUF().tensor("t", (4,)).tensor("t", (4,), offset=32), DamagedModel, "'t' is there twice"),
        (RawGGUF().tensor("t", ()), DamagedModel, "0 dimensions"),
        (RawGGUF().tensor("t", (1, 1, 1, 1, 1)), DamagedModel, "5 dimensions"),
        (RawGGUF().tensor("t", (4, 0)), DamagedModel, "empty"),
        (RawGGUF().tensor("t", (1 << 40, 1 << 40)), DamagedModel, "too large"),
        (RawGGUF().tensor("t", (33,), type_=2), DamagedModel, "rows of 33"),
        (RawGGUF().tensor("t", (4,), type_=99), UnsupportedModel, "quantisation type 99"),
        (RawGGUF().tensor("t", (4,), offset=5), DamagedModel, "offset 5"),
        (RawGGUF().tensor("t", (4,), offset=1 << 62), DamagedModel, "truncated"),
        (RawGGUF().tensor("t", (4096,)), DamagedModel, "'t' ends at byte"),
        (RawGGUF().tensor("a", (16,)).tensor("b", (4,), offset=32), DamagedModel, "'a' and 'b' overlap"),
        (RawGGUF().tensor("n" * 200, (4,)), DamagedModel, "at most 127"),
    ],
)
def test_a_header_that_is_wrong_is_refused_by_name(
    tmp_path: Path, raw: RawGGUF, error: type[ModelError], said: str
) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(raw.to_bytes())
    with pytest.raises(error, match=r"^wrong\.gguf: ") as caught, GGUFFile.open(path):
        pass
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_nothing_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "nothing.gguf"
    path.write_bytes(RawGGUF().string_key("a", "x").to_bytes())
    with GGUFFile.open(path) as file:
        assert dict(file.metadata) == {"a": "x"}
        assert not file.tensors


def test_an_element_that_is_not_utf8_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(RawGGUF().array(b"k", 8, 1, b"\1\0\0\0\0\0\0\0\xff").to_bytes())
    with GGUFFile.open(path) as file, pytest.raises(DamagedModel, match="element 0 of 'k'"):
        _ = file.metadata["k"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    norm = np.ones(32, np.float32)
    norm[7] = value
    path = write_gguf(tmp_path / "a.gguf", {}, {"output_norm.weight": norm})
    with GGUFFile.open(path) as file, pytest.raises(DamagedModel, match=r"'output_norm\.weight'"):
        file.read("output_norm.weight")


def test_a_type_that_cannot_be_dequantised_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    raw = RawGGUF().tensor("t", (4,), type_=GGMLQuantizationType.I32)
    path.write_bytes(raw.to_bytes() + b"\0" * 64)
    with GGUFFile.open(path) as file, pytest.raises(UnsupportedModel, match="I32"):
        file.read("t")


def test_a_file_cut_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes())
    with GGUFFile.open(tiny) as file:
        data_start = min(info.offset for info in file.tensors.values())
        ends = [info.offset + info.size_bytes for info in file.tensors.values()]
    # every byte of the first part, steps through the vocabulary, every end of a tensor
    cuts = {*range(400), *range(400, data_start, 97), *(end - 1 for end in ends), *(end - 32 for end in ends)}
    for size in sorted(cuts, reverse=True):
        os.truncate(path, size)
        with pytest.raises(DamagedModel), GGUFFile.open(path):
            pass


@settings(deadline=None, derandomize=True, max_examples=120)
@given(data=st.data())
def test_damaged_bytes_give_a_model_error_or_a_model(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(tiny.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # half of the damage hits the fields before the vocabulary, where it matters most
        place = data.draw(st.one_of(st.integers(0, 1200), st.integers(0, len(content) - 1)))
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    with suppress(ModelError):
        read_all(path)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(content=st.binary(max_size=300), proper=st.booleans())
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, proper: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.gguf"
    path.write_bytes((b"GGUF\3\0\0\0" if proper else b"") + content)
    with pytest.raises(ModelError):
        read_all(path)
