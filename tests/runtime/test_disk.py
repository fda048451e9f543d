from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from p2pinfer.effects import Persist
from p2pinfer.errors import LocalProtocolError, StorageError
from p2pinfer.runtime.disk import Disk, WriteFailed


async def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "new" / "data")
    assert disk.load() == {}
    values = {"raft/log:1": b"entry", "a.b_c-d": b"", "large": os.urandom(300_000)}
    await disk.write([Persist(key, value) for key, value in values.items()])
    await disk.write([Persist("large", b"smaller"), Persist("gone", b"x"), Persist("gone", None)])
    await disk.write([Persist("never-there", None)])
    disk.close()
    again = Disk(tmp_path / "new" / "data")
    assert again.load() == {**values, "large": b"smaller"}
    again.close()


async def test_keys_with_signs_do_not_become_paths(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    await disk.write([Persist("a/../../b", b"1"), Persist("a/b", b"2"), Persist("a-2fb", b"3")])
    assert disk.load() == {"a/../../b": b"1", "a/b": b"2", "a-2fb": b"3"}
    assert len(os.listdir(tmp_path)) == 3 + 1, "and the lock"
    disk.close()


@pytest.mark.parametrize("key", ["", "../up", "UPPER", "a b", "a\x00", "k" * 101, ".hidden"])
async def test_a_key_of_another_form_is_refused_before_anything_is_written(tmp_path: Path, key: str) -> None:
    disk = Disk(tmp_path)
    with pytest.raises(LocalProtocolError, match="is no key"):
        await disk.write([Persist("good", b"1"), Persist(key, b"2")])
    assert disk.load() == {}
    disk.close()


async def test_a_crash_while_writing_leaves_the_old_value_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path)
    await disk.write([Persist("key", b"old")])

    class Crash(BaseException):
        pass

    def crash(descriptor: int) -> None:
        raise Crash

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(Crash):
        await disk.write([Persist("key", b"new")])
    monkeypatch.undo()
    disk.close()
    assert "key.tmp" in os.listdir(tmp_path)
    again = Disk(tmp_path)
    assert again.load() == {"key": b"old"}
    assert "key.tmp" not in os.listdir(tmp_path)
    again.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_disk_that_says_no_names_the_first_key_that_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(tmp_path)
    await disk.write([Persist("b", b"old")])
    real_open = os.open

    def open_or_fail(path: str | Path, *rest: int) -> int:
        if Path(path).name == "b.tmp":
            raise OSError(number, os.strerror(number))
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", open_or_fail)
    with pytest.raises(WriteFailed, match=os.strerror(number)) as caught:
        await disk.write([Persist("a", b"1"), Persist("b", b"2"), Persist("c", b"3")])
    assert isinstance(caught.value, StorageError)
    assert caught.value.key == "b"
    monkeypatch.undo()
    assert disk.load() == {"a": b"1", "b": b"old"}
    disk.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with pytest.raises(StorageError, match="used by another running peer"):
        Disk(tmp_path)
    disk.close()
    Disk(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="choose a directory that is writable"):
        Disk(tmp_path / "file")
