from __future__ import annotations

import time

from p2pinfer.runtime.clock import Clock


def test_it_starts_at_the_date_and_goes_on_with_the_steady_clock_alone() -> None:
    steady, date = [100.0], [1_700_000_000.0]
    clock = Clock(steady=lambda: steady[0], date=lambda: date[0])
    assert clock.now() == 1_700_000_000.0
    date[0] -= 3600.0
    steady[0] += 2.5
    assert clock.now() == 1_700_000_002.5


def test_the_real_one_tells_the_date_and_never_goes_back() -> None:
    clock = Clock()
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < 1.0
