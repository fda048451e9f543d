"""What the nodes of the decode benchmark are told."""

from __future__ import annotations

import pytest

from benchmarks.decode import choose_settings
from p2pinfer.errors import ConfigError


def test_each_accuracy_is_measured_with_the_first_count_of_threads_and_the_first_with_all() -> None:
    setups = choose_settings("onnx", "int8,float32", "1,2")
    assert list(setups) == ["int8", "float32", "int8_2_threads"]
    assert [setup["threads"] for setup in setups.values()] == [1, 1, 2]
    assert [setup["accuracy"] for setup in setups.values()] == ["int8", "float32", "int8"]
    assert choose_settings("numpy", "int8", "2,1") == {"float32": {"engine": "numpy", "threads": 2}}


@pytest.mark.parametrize("threads", ["", "1,", "two", "-1"])
def test_threads_that_are_no_numbers_are_refused(threads: str) -> None:
    with pytest.raises(ConfigError, match="must be numbers"):
        choose_settings("onnx", "int8", threads)
