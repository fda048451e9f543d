"""The checks of the DHT are checked: every mutant of its core is killed by a test of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.dht_mutants import DHT_MUTANTS
from tests.simulation.mutants import Mutant
from tests.simulation.test_mutants import ROOT, assert_killed

TESTS = (
    "tests/dht",
    "tests/simulation/test_dht_attacks.py",
    "tests/simulation/test_dht_floods.py",
    "tests/simulation/test_dht_records.py",
    "tests/simulation/test_dht_address.py",
    "tests/simulation/test_dht.py",
)
"""The quick ones first: most mutants die there."""


@pytest.mark.parametrize("mutant", DHT_MUTANTS, ids=[mutant.name for mutant in DHT_MUTANTS])
def test_a_mutant_has_its_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1


@pytest.mark.soak
@pytest.mark.parametrize("mutant", DHT_MUTANTS, ids=[mutant.name for mutant in DHT_MUTANTS])
def test_a_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    assert_killed(mutant, TESTS, tmp_path)
