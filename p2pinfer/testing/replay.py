"""Shows the whole trace of a scenario with one seed.

    python -m p2pinfer.testing.replay tests.simulation.test_x:scenario --seed 17

Run it where the scenario's module can be imported, which is the root of the project. The last line is the
trace's hash; a scenario that fails ends with its error.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from p2pinfer.errors import ConfigError
from p2pinfer.testing.checkers import Scenario
from p2pinfer.testing.trace import Trace
from p2pinfer.testing.world import World

__all__ = ["find_scenario", "main"]


def find_scenario(where: str) -> Scenario:
    """Import `module:function`.

    Raises:
        ConfigError: There is no such module or function; the message says which.
    """
    module_name, separator, name = where.partition(":")
    if not separator or not name:
        raise ConfigError(f"{where!r} names no scenario: write module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"no module {error.name!r}: run this where it can be imported") from error
    scenario: Scenario | None = getattr(module, name, None)
    if scenario is None:
        raise ConfigError(f"{module_name} has no {name!r}")
    return scenario


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one seed and write its trace to standard output."""
    parser = argparse.ArgumentParser(prog="python -m p2pinfer.testing.replay", description="replay one seed")
    parser.add_argument("scenario", help="module:function, as in tests.simulation.test_x:scenario")
    parser.add_argument("--seed", type=int, required=True, help="the seed that failed")
    given = parser.parse_args(arguments)
    try:
        scenario = find_scenario(given.scenario)
    except ConfigError as error:
        parser.error(str(error))
    trace = Trace(file=sys.stdout)
    scenario(World(given.seed, trace=trace))
    sys.stdout.write(f"hash {trace.hash} of {trace.count} lines\n")


if __name__ == "__main__":
    main()
