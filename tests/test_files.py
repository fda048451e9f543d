"""Small files: whole or not at all, and known to the disk with their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pinfer.errors import StorageError
from p2pinfer.files import create_file, move_into_place, replace_file, storage_errors


def test_a_file_is_replaced_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    for content in (b"first", b"2"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["key"]


def test_a_file_may_be_for_everybody(tmp_path: Path) -> None:
    replace_file(tmp_path / "manifest", b"x", mode=0o644)
    assert (tmp_path / "manifest").stat().st_mode & 0o044 == 0o044 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_that_is_there_is_not_created_again(tmp_path: Path) -> None:
    create_file(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_a_file_written_elsewhere_gets_its_name(tmp_path: Path) -> None:
    (tmp_path / "draft").write_bytes(b"x")
    move_into_place(tmp_path / "draft", tmp_path / "models" / "file")
    assert (tmp_path / "models" / "file").read_bytes() == b"x"
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda directory: replace_file(directory / "file", b"x"),
        lambda directory: create_file(directory / "other", b"x"),
        lambda directory: move_into_place(directory / "file", directory / "moved"),
    ],
)
def test_both_content_and_name_are_synced_in_this_order(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    write(tmp_path)
    assert synced == [False, True]


def test_a_disk_that_fails_leaves_the_old_content_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(tmp_path / "file", b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"file cannot be written: No space left .* free space"):
        replace_file(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_error_without_a_reason_of_the_system_is_told_in_its_own_words() -> None:
    with pytest.raises(StorageError, match="x: strange"), storage_errors("x"):
        raise OSError("strange")
