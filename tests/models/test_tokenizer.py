from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import DamagedModel, ModelError, UnsupportedModel
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.guard import GUARD, ControlGuard
from p2pinfer.models.tokenizer import TextStream, Tokenizer
from tests.models.edit import write_gguf
from tests.models.real_model import real_model_path
from tests.models.tiny import write_tiny_llama
from tests.models.tiny_vocabulary import CONTROL_TOKENS, tiny_vocabulary

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "tokens.json").read_text(encoding="utf-8")
)
PRE_TOKENIZERS = sorted(GOLDEN.keys() - {"smollm2"})


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    directory = tmp_path_factory.mktemp("tokenizers")
    found: dict[str, Tokenizer] = {}
    for pre in PRE_TOKENIZERS:
        path = write_tiny_llama(
            directory / f"{pre}.gguf",
            pre=pre,
            vocabulary=GOLDEN[pre]["vocabulary"],
            layers=1,
            hidden=32,
            heads=1,
            kv_heads=1,
        )
        with GGUFFile.open(path) as file:
            found[pre] = Tokenizer.from_gguf(file)
    return found


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_gives_the_tokens_of_llama_cpp(tokenizers: dict[str, Tokenizer], pre: str) -> None:
    golden, tokenizer = GOLDEN[pre], tokenizers[pre]
    plain = {text: tokenizer.encode(text, allow_special=False) for text in golden["plain"]}
    special = {text: tokenizer.encode(text, allow_special=True) for text in golden["special"]}
    assert plain == golden["plain"]
    assert special == golden["special"]


@pytest.mark.e2e
def test_gives_the_tokens_of_llama_cpp_on_the_real_model() -> None:
    with GGUFFile.open(real_model_path()) as file:
        tokenizer = Tokenizer.from_gguf(file)
    golden = GOLDEN["smollm2"]
    assert {text: tokenizer.encode(text, allow_special=False) for text in golden["plain"]} == golden["plain"]
    assert {text: tokenizer.encode(text, allow_special=True) for text in golden["special"]} == golden[
        "special"
    ]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.stop_tokens) == (1, 2, frozenset((0, 2)))
    for text, ids in golden["plain"].items():
        assert tokenizer.decode(ids) == text


@settings(deadline=None, derandomize=True, max_examples=60)
@given(text=st.text())
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_any_text_comes_back(tokenizers: dict[str, Tokenizer], pre: str, text: str) -> None:
    tokenizer = tokenizers[pre]
    ids = tokenizer.encode(text, allow_special=False)
    assert tokenizer.decode(ids) == (text.replace("▁", " ") if pre == "spm" else text)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pieces=st.lists(st.sampled_from([*CONTROL_TOKENS, "<|im_", "end|>", "<", "|>", " ", "x", "é", GUARD])))
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_typed_text_forges_no_control_token(
    tokenizers: dict[str, Tokenizer], pre: str, pieces: list[str]
) -> None:
    tokenizer, text = tokenizers[pre], "".join(pieces)
    controls = {0, 1, 2}
    assert controls.isdisjoint(tokenizer.encode(text, allow_special=False))
    guarded = ControlGuard(tokenizer.control_texts()).guard(text)
    assert controls.isdisjoint(tokenizer.encode(guarded, allow_special=True))
    without = text.replace(GUARD, "\ufffd")
    assert tokenizer.encode(guarded, allow_special=True) == tokenizer.encode(without, allow_special=False)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ids=st.lists(st.integers(-1, 800), max_size=30))
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_a_streamed_answer_is_the_decoded_one(
    tokenizers: dict[str, Tokenizer], pre: str, ids: list[int]
) -> None:
    stream = TextStream(tokenizers[pre])
    pieces = [stream.push(token) for token in ids]
    assert "".join([*pieces, stream.flush()]) == tokenizers[pre].decode(ids)


def test_a_stream_gives_whole_characters_only(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt-2"]
    ids = tokenizer.encode("a🎉b", allow_special=False)
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == "a🎉b"
    assert "" in pieces  # a token that ends within the emoji gives nothing yet
    stream.push(ids[1])
    assert stream.flush() == "\ufffd"
    assert stream.push(ids[0]) == "a"


def test_an_answer_keeps_its_first_space(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["spm"]
    ids = tokenizer.encode("hello", allow_special=False)
    assert tokenizer.decode(ids) == "hello"
    answer = TextStream(tokenizer, at_start=False)
    assert "".join(map(answer.push, ids)) == " hello"


def test_control_and_padding_tokens_give_no_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt-2"]
    assert tokenizer.decode([0, 1, 2, -1, 1 << 31]) == ""


def test_lone_surrogates_are_replaced(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt-2"]
    assert tokenizer.decode(tokenizer.encode("a\ud800b", allow_special=False)) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83c\udf89", allow_special=False)) == "🎉"


def test_bos_is_added_once_and_only_where_the_model_wants_it(tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "wanted.gguf", {"tokenizer.ggml.add_bos_token": True})
    unwanted = write_gguf(tmp_path / "unwanted.gguf", {"tokenizer.ggml.add_bos_token": False})
    with GGUFFile.open(wanted) as file:
        tokenizer = Tokenizer.from_gguf(file)
    assert tokenizer.encode("", allow_special=False, with_bos=True) == [1]
    assert tokenizer.encode("<|im_start|>", allow_special=True, with_bos=True) == [1]
    assert tokenizer.encode("", allow_special=False) == []
    with GGUFFile.open(unwanted) as file:
        assert Tokenizer.from_gguf(file).encode("", allow_special=False, with_bos=True) == []


def test_control_tokens_are_known_even_where_the_file_marks_none(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", {"tokenizer.ggml.token_type": None})
    with GGUFFile.open(path) as file:
        tokenizer = Tokenizer.from_gguf(file)
    assert tokenizer.control_texts() == set(CONTROL_TOKENS)
    assert tokenizer.stop_tokens == {0, 2}
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [2]


TOKENS, TYPES, MERGES = tiny_vocabulary(320)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"tokenizer.ggml.pre": "viking"}, UnsupportedModel, "viking"),
        ({"tokenizer.ggml.model": "bert"}, UnsupportedModel, "bert"),
        ({"tokenizer.ggml.model": None}, UnsupportedModel, "None"),
        ({"tokenizer.ggml.pre": 7}, DamagedModel, "should be a text"),
        ({"tokenizer.ggml.tokens": None}, DamagedModel, "lacks 'tokenizer.ggml.tokens'"),
        ({"tokenizer.ggml.tokens": [1, 2]}, DamagedModel, "array of numbers"),
        ({"tokenizer.ggml.tokens": TOKENS[:-1]}, DamagedModel, "one number for each of 319"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], TOKENS[-2]]}, DamagedModel, "the same text"),
        ({"tokenizer.ggml.token_type": [9] * 320}, DamagedModel, "holds 9"),
        ({"tokenizer.ggml.token_type": [*TYPES[:-1], 6]}, DamagedModel, "byte token 319"),
        ({"tokenizer.ggml.merges": None}, DamagedModel, "lacks 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.merges": ["a"]}, DamagedModel, "merge 0"),
        ({"tokenizer.ggml.merges": ["q q"]}, DamagedModel, "merge 0"),
        ({"tokenizer.ggml.eos_token_id": 320}, DamagedModel, "should be 0 to 319"),
        ({"tokenizer.ggml.bos_token_id": "x"}, DamagedModel, "whole number"),
        ({"tokenizer.ggml.add_bos_token": 1}, DamagedModel, "true or false"),
        ({"tokenizer.ggml.model": "llama"}, DamagedModel, "scores"),
    ],
)
def test_a_vocabulary_that_is_wrong_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], error: type[ModelError], said: str
) -> None:
    path = write_gguf(tmp_path / "wrong.gguf", changes)
    with GGUFFile.open(path) as file, pytest.raises(error, match=r"^wrong\.gguf: ") as caught:
        Tokenizer.from_gguf(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_merge_makes_a_control_token(tmp_path: Path) -> None:
    tokens = [*TOKENS[:-1], "<|"]
    types = [*TYPES[:-1], 3]
    path = write_gguf(
        tmp_path / "a.gguf",
        {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": ["< |"],
        },
    )
    with GGUFFile.open(path) as file:
        tokenizer = Tokenizer.from_gguf(file)
    assert tokenizer.encode("<|", allow_special=False) == [tokens.index("<"), tokens.index("|")]
    assert tokenizer.encode("<|", allow_special=True) == [319]
