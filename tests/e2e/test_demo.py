"""The demonstration that the README begins with, whole and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def _start(scratch: Path, prompt: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "p2pinfer.cli.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PROMPT": prompt, "TMPDIR": str(scratch)},
    )


def _left_processes(scratch: Path) -> list[str]:
    """The command lines of processes that were started with files of this test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(scratch) in command:
            found.append(command)
    return found


def test_the_demonstration_survives_its_kill_with_the_same_tokens(tmp_path: Path) -> None:
    demo = _start(tmp_path, "Count from one to thirty.")
    output, errors = demo.communicate(timeout=110)
    assert demo.returncode == 0, errors
    assert "same tokens        yes" in output
    assert "peers killed       1" in output
    assert " ms" in output.partition("pause")[2]
    assert list(tmp_path.iterdir()) == []
    assert _left_processes(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    demo = _start(tmp_path, "Count from one to thirty.")
    assert demo.stdout is not None
    while "Starting six node processes" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert _left_processes(tmp_path) == []
