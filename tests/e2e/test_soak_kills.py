"""The long run behind `make soak`: many kills of real processes with the real model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

KILLS_COUNT = 50


def test_fifty_kills_change_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--json", "--kills", str(KILLS_COUNT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    with capsys.disabled():
        print(done.stdout)
    result = json.loads(done.stdout)
    assert result["kills"] == KILLS_COUNT
    assert result["equal"] == KILLS_COUNT
