"""Commands that need no node: model, keygen, invite; and what a terminal gets to see."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pinfer.cli import model as model_command
from p2pinfer.cli.app import main
from p2pinfer.cli.output import harmless, size_text, write
from p2pinfer.errors import ModelNotFound
from p2pinfer.identity import Identity
from p2pinfer.ids import Endpoint
from p2pinfer.membership import Invite
from p2pinfer.models.manifest import Manifest
from p2pinfer.models.store import PullProgress
from p2pinfer.puzzle import zero_bits
from p2pinfer.runtime.home import open_home

MANIFEST = Manifest(
    name="smollm2",
    tag="135m",
    file_name="a.gguf",
    size_bytes=91_600_000,
    sha256="ab" * 32,
    architecture="llama",
    layer_count=30,
    source="file:a.gguf",
)


class Shelf:
    """A store with one model that reports its pull in three steps."""

    def __init__(self) -> None:
        self.models: tuple[Manifest, ...] = (MANIFEST,)

    def list(self) -> tuple[Manifest, ...]:
        return self.models

    def manifest_of(self, name: str) -> Manifest:
        for model in self.models:
            if model.full_name == name:
                return model
        raise ModelNotFound(f"the model {name} is not here: pull it")

    def path_of(self, name: str) -> Path:
        return Path("models") / self.manifest_of(name).file_name

    def pull(self, name: str, progress: model_command.ShowPull) -> Path:
        for done in (0, 50, 100):
            progress(PullProgress("downloading", done, 100))
        return self.path_of(name)

    def import_file(
        self, path: Path, name: str | None = None, progress: model_command.ShowPull = lambda _: None
    ) -> Manifest:
        progress(PullProgress("verifying", 5, 5))
        return MANIFEST

    def remove(self, name: str) -> None:
        self.manifest_of(name)
        self.models = ()


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    monkeypatch.setattr(model_command, "open_store", lambda args: shelf)
    return shelf


def test_the_store_lies_in_the_cache_directory(tmp_path: Path) -> None:
    store = model_command.open_store(SimpleNamespace(cache_dir=tmp_path))  # type: ignore[arg-type]
    assert store.directory == tmp_path / "models"


def test_models_are_listed(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list"]) == 0
    shown = capsys.readouterr().out
    for cell in ("smollm2:135m", "87.4 MiB", "30", "llama", "abababababab"):
        assert cell in shown


def test_no_models_is_said_with_the_next_step(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.models = ()
    assert main(["model", "list"]) == 0
    assert "p2pinfer model pull" in capsys.readouterr().out


def test_a_pull_shows_plain_percentages_without_a_terminal(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "pull", "smollm2:135m"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "smollm2:135m: downloading: 0 %, 0 B of 100 B",
        "smollm2:135m: downloading: 100 %, 100 B of 100 B",
    ]
    assert "smollm2:135m is ready" in out


def test_a_file_is_taken_in_and_a_pull_without_a_name_refused(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "pull", "--file", "a.gguf"]) == 0
    assert capsys.readouterr().err == "a.gguf: verifying: 100 %, 5 B of 5 B\n"
    assert main(["model", "pull"]) == 1
    assert "no model is named" in capsys.readouterr().err


def test_a_model_is_shown(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "smollm2:135m"]) == 0
    assert "sha256        abab" in capsys.readouterr().out
    assert main(["model", "show", "smollm2:135m", "--file"]) == 0
    assert capsys.readouterr().out == f"{Path('models/a.gguf')}\n"


def test_a_model_is_removed_once(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "rm", "smollm2:135m"]) == 0
    assert main(["model", "remove", "smollm2:135m"]) == 1
    assert capsys.readouterr().err == "p2pinfer: the model smollm2:135m is not here: pull it\n"


def test_a_key_is_made_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "my.key"
    assert main(["keygen", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(Identity.load(path).peer_id)
    before = path.read_bytes()
    assert main(["keygen", str(path)]) == 1
    error = capsys.readouterr().err
    assert "not overwritten" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before


def test_a_key_goes_into_the_data_directory_by_default(tmp_path: Path) -> None:
    assert main(["keygen", "--data-dir", str(tmp_path), "--id-difficulty", "8"]) == 0
    assert zero_bits(Identity.load(tmp_path / "identity.key").peer_id) >= 8
    assert Identity.load(tmp_path / "identity.key")


def test_an_invite_carries_the_address_of_the_running_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = open_home(tmp_path, (), 1e9)
    (tmp_path / "node.json").write_text(json.dumps({"endpoint": "10.0.0.1:7946"}))
    assert main(["invite", "--data-dir", str(tmp_path)]) == 0
    invite = Invite.parse(capsys.readouterr().out)
    assert invite.addresses == (Endpoint("10.0.0.1", 7946),)
    assert invite.swarm == home.swarm


def test_an_invite_takes_other_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_home(tmp_path, (), 1e9)
    line = [
        "invite",
        "--data-dir",
        str(tmp_path),
        "--valid",
        "1h",
        "--address",
        "a:1",
        "--address",
        "[::1]:2",
    ]
    assert main(line) == 0
    assert Invite.parse(capsys.readouterr().out).addresses == (Endpoint("a", 1), Endpoint("::1", 2))


@pytest.mark.parametrize("content", ["{", "[]", '{"endpoint": "nowhere"}', "\\xff"])
def test_a_damaged_node_file_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.json").write_text(content)
    assert main(["invite", "--data-dir", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().err


def test_without_a_node_an_invite_needs_an_address_and_a_founder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["invite", "--data-dir", str(tmp_path)]) == 1
    assert "--address" in capsys.readouterr().err
    assert main(["invite", "--data-dir", str(tmp_path), "--address", "a:1"]) == 1
    assert "owner" in capsys.readouterr().err


def test_text_on_a_terminal_is_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("\x1b]0;title\x07")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write("\x1b]0;title\x07\tok\n")
    assert capsys.readouterr().out == "\x1b]0;title\x07]0;title\tok\n"
    assert harmless("a\r\x9b1mé👩‍🚀") == "a1mé👩‍🚀"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_written_for_people(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
