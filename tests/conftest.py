"""Options of the whole test run, and what every test can count on.

--seeds N     simulation tests that take `sim_seed` run with the seeds 0 to N-1 (make sim)
--fuzz N      property tests run with N fresh examples in place of their own few (make fuzz)
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest

SEEDS_COUNT = 10
"""Enough to notice a broken core in seconds; `make sim` runs many more."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=SEEDS_COUNT, help="how many seeds the simulation runs with")
    parser.addoption("--fuzz", type=int, default=0, help="examples of each property test; 0 keeps its own")


def pytest_configure() -> None:
    """Take one BLAS thread, before any test imports numpy.

    Peers are processes, and BLAS threads that fight for the same cores make the tests slow and uneven.
    """
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes `sim_seed` every seed of the run; the seed is in the test's name."""
    if "sim_seed" in metafunc.fixturenames:
        metafunc.parametrize("sim_seed", range(metafunc.config.getoption("--seeds")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under --fuzz, replace the number of examples and the fixed seed of every property test."""
    count = config.getoption("--fuzz")
    for item in items if count else ():
        function = getattr(item, "obj", None)
        test: Any = getattr(function, "__func__", function)
        if hypothesis.is_hypothesis_test(function):
            # Hypothesis has no public way to lay settings over those that a test states itself.
            own = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = hypothesis.settings(
                own, max_examples=count, derandomize=False, print_blob=True
            )
