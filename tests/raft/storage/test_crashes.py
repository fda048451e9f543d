"""Power lost and calls failing at every single point: what was acknowledged is there, and nothing half."""

from __future__ import annotations

import random

import pytest

from p2pinfer.errors import StorageError
from p2pinfer.testing.crashing_files import PowerLoss
from tests.raft.storage.ledger import Machine

BATCH_COUNT = 14


def calls_of(seed: int) -> int:
    """How many calls a run makes in which nothing fails."""
    machine = Machine(seed)
    machine.run(BATCH_COUNT)
    return machine.files.call_count


@pytest.mark.parametrize("seed", range(6))
def test_power_lost_in_any_call(seed: int) -> None:
    for call in range(1, calls_of(seed) + 1):
        machine = Machine(seed)
        machine.files.lose_power_at = call
        with pytest.raises(PowerLoss):
            machine.run(BATCH_COUNT)
        machine.files.crash()
        assert machine.start()
        assert machine.write(2)
        machine.files.crash()
        assert machine.start()


@pytest.mark.parametrize("seed", range(6))
def test_power_lost_while_what_a_crash_left_is_mended(seed: int) -> None:
    for call in range(5, calls_of(seed), 7):
        for second in range(1, 40, 3):
            machine = Machine(seed)
            machine.files.lose_power_at = call
            with pytest.raises(PowerLoss):
                machine.run(BATCH_COUNT)
            machine.files.crash()
            machine.files.lose_power_at = machine.files.call_count + second
            try:
                machine.start()
            except PowerLoss:
                machine.files.crash()
                assert machine.start()


@pytest.mark.parametrize("seed", range(6))
def test_any_call_may_fail_and_writing_goes_on(seed: int) -> None:
    for call in range(1, calls_of(seed) + 1):
        machine = Machine(seed)
        machine.files.fail_at = frozenset((call,))
        machine.run(BATCH_COUNT)
        machine.files.fail_at = frozenset()
        if machine.store.statistics()["segments"]:
            assert machine.write(2)
        machine.files.crash()
        assert machine.start()


def test_a_disk_that_fails_for_a_while() -> None:
    for seed in range(200):
        machine = Machine(seed)
        begin = machine.rng.randrange(1, 60)
        machine.files.fail_at = frozenset(range(begin, begin + machine.rng.randrange(1, 40)))
        machine.run(BATCH_COUNT)
        machine.files.fail_at = frozenset()
        machine.files.crash()
        assert machine.start()
        assert machine.write(1)


def test_crashes_failures_and_kills_in_any_order() -> None:
    for seed in range(300):
        machine = Machine(seed)
        rng = random.Random(seed)
        for _ in range(12):
            files = machine.files
            if rng.random() < 0.6:
                files.fail_at = frozenset(
                    files.call_count + rng.randrange(1, 60) for _ in range(rng.randrange(4))
                )
            if rng.random() < 0.6:
                files.lose_power_at = files.call_count + rng.randrange(1, 80)
            try:
                machine.run(rng.randrange(8))
            except PowerLoss:
                files.crash()
            else:
                if rng.random() < 0.5:
                    files.crash()
                else:
                    files.kill()
        machine.files.crash()
        assert machine.start()


def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() -> None:
    for seed in range(50):
        machine = Machine(seed)
        machine.run(3)
        machine.files.capacity_bytes = machine.files.size_bytes + machine.rng.randrange(6000)
        outcomes = [machine.write(2) for _ in range(30)]
        assert not all(outcomes)
        machine.files.capacity_bytes = None
        assert machine.write(2)
        machine.files.capacity_bytes = machine.files.size_bytes
        for _ in range(10):
            machine.write(1)
        machine.files.crash()
        if not machine.start():  # a start needs room as well, and says so
            machine.files.capacity_bytes = None
            assert machine.start()


def test_what_a_failed_sync_left_in_memory_is_never_built_upon() -> None:
    """Fsyncgate: a sync fails, the process ends, and the next one reads pages that the disk lacks."""
    for seed in range(100):
        machine = Machine(seed)
        machine.run(2)
        files = machine.files
        files.fail_at = frozenset((files.call_count + 2,))
        if machine.write(1):
            continue
        files.kill()
        # From memory: what failed may be believed, but only because it is written anew.
        assert machine.start()
        files.crash()
        assert machine.start()


def test_a_start_that_the_disk_refuses_names_the_directory_and_releases_it() -> None:
    machine = Machine(1)
    machine.run(2)
    machine.files.kill()
    machine.files.fail_at = frozenset(range(1000))
    with pytest.raises(StorageError, match=r"memory: .*Input/output error"):
        machine.store.__class__(machine.files).load()
    machine.files.fail_at = frozenset()
    assert machine.start()
