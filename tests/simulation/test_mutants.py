"""The checkers are checked: every mutant of the inference cores is killed by a test of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent.parent
TESTS = (
    "tests/simulation/test_prefix_reuse.py",
    "tests/simulation/test_drain.py",
    "tests/simulation/test_failover.py",
    "tests/inference",
    "tests/simulation/test_peer.py",
    "tests/simulation/test_inference_outages.py",
    "tests/simulation/test_inference_breaks.py",
    "tests/simulation/test_inference_liars.py",
    "tests/simulation/test_inference_chaos.py",
)
"""The quick ones first: most mutants die there."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_has_its_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1


@pytest.mark.soak
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    assert_killed(mutant, TESTS, tmp_path)


def assert_killed(mutant: Mutant, tests: Sequence[str], tmp_path: Path) -> None:
    """Run the tests on a copy with the mutant in it: one has to fail."""
    for folder in ("p2pinfer", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    target = tmp_path / mutant.path
    target.write_text(target.read_text().replace(mutant.old, mutant.new))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 1, f"{mutant.name} survives:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
