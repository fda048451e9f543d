"""Checks that run after every event, and runs of one scenario over many seeds.

A scenario is a function that takes a fresh `World`, adds hosts and checkers, lets faults loose and runs it.
It fails by raising: `InvariantViolated` from a checker, or an assertion of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol

from p2pinfer.testing.trace import Trace
from p2pinfer.testing.world import World

__all__ = ["Always", "Checker", "InvariantViolated", "Scenario", "SimulationFailed", "run_seeds"]

Scenario = Callable[[World], object]

TAIL_COUNT = 40
"""Lines of the trace in a failure's message; the replay command shows all."""


class InvariantViolated(Exception):
    """Something that must always hold did not: a bug in the code under test."""


class Checker(Protocol):
    """Looks at the world after every event."""

    def check(self, world: World) -> None:
        """Return if all is well.

        Raises:
            InvariantViolated: The message says what was broken and by whom.
        """
        ...


class Always:
    """The plainest checker: a predicate that holds after every event."""

    def __init__(self, claim: str, holds: Callable[[], bool]) -> None:
        self._claim = claim
        self._holds = holds

    def check(self, world: World) -> None:
        """Ask the predicate."""
        if not self._holds():
            raise InvariantViolated(f"at {world.now:.6f} s it is not so that {self._claim}")


class SimulationFailed(Exception):
    """A scenario failed for a seed.

    Attributes:
        seed: The seed.
        trace: The trace of the run that was made again for it.
    """

    def __init__(self, message: str, seed: int, trace: Trace) -> None:
        super().__init__(message)
        self.seed = seed
        self.trace = trace


class _ExplainsFailure:
    """Runs a failed seed once more with a trace, and raises what it finds.

    A context manager and no `except Exception`: whatever a scenario raises is its failure, none is handled.
    """

    def __init__(self, scenario: Scenario, seed: int, replay: str) -> None:
        self._scenario = scenario
        self._seed = seed
        self._replay = replay

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        trace = Trace()
        with _Remembers() as again:
            self._scenario(World(self._seed, trace=trace))
        repeated = again.error is not None
        advice = "" if repeated else "\nIt did not fail again: something in it does not come from the seed."
        raise SimulationFailed(
            f"seed {self._seed}: {type(error).__name__}: {error}{advice}\n"
            f"{trace.tail(TAIL_COUNT)}\n"
            f"replay: python -m p2pinfer.testing.replay {self._replay} --seed {self._seed}",
            self._seed,
            trace,
        ) from error


class _Remembers:
    """Lets an error end its block and keeps it."""

    error: BaseException | None = None

    def __enter__(self) -> _Remembers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self.error = error
        return isinstance(error, Exception)


def run_seeds(scenario: Scenario, seeds: Iterable[int], replay: str) -> None:
    """Run a scenario in a fresh world for each seed, untraced; explain the first failure.

    Args:
        scenario: What to run.
        seeds: The seeds, such as range(200).
        replay: Where the scenario is found again, as "tests.simulation.test_x:scenario".

    Raises:
        SimulationFailed: With the seed, the end of the trace and the command that replays it.
    """
    for seed in seeds:
        with _ExplainsFailure(scenario, seed, replay):
            scenario(World(seed))
