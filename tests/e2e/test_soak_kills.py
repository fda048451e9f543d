"""The long run behind `make soak`: many kills of real processes with the real model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

KILLS_COUNT = 100
STOPS_COUNT = 20


def test_a_hundred_kills_and_twenty_stops_change_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["--kills", str(KILLS_COUNT), "--stops", str(STOPS_COUNT)]
    command = [sys.executable, "-m", "benchmarks.kills", "--json", *counts]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    with capsys.disabled():
        print(done.stdout)
    result = json.loads(done.stdout)
    assert result["failures"] == KILLS_COUNT + STOPS_COUNT
    assert result["equal"] == KILLS_COUNT + STOPS_COUNT
    assert result["killed"]["count"] == KILLS_COUNT
