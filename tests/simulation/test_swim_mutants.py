"""The checks of the membership are checked: every mutant of its core is killed by a test of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import Mutant
from tests.simulation.swim_mutants import SWIM_MUTANTS
from tests.simulation.test_mutants import ROOT, assert_killed

TESTS = (
    "tests/swim",
    "tests/simulation/test_swim.py",
    "tests/simulation/test_swim_liars.py",
    "tests/simulation/test_swim_outages.py",
    "tests/simulation/test_swim_partitions.py",
)
"""The quick ones first: most mutants die there."""


@pytest.mark.parametrize("mutant", SWIM_MUTANTS, ids=[mutant.name for mutant in SWIM_MUTANTS])
def test_a_mutant_has_its_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1


@pytest.mark.soak
@pytest.mark.parametrize("mutant", SWIM_MUTANTS, ids=[mutant.name for mutant in SWIM_MUTANTS])
def test_a_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    assert_killed(mutant, TESTS, tmp_path)
