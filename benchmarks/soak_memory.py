"""Memory of processes over time: what they hold in RAM, and whether it grows."""

from __future__ import annotations

import os
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["MemoryLog", "resident_bytes"]

WARM_UP_SHARE = 1 / 3
"""Of the run: caches fill, allocators keep what they took once; growth is judged after that."""
GROWTH_SHARE_MAX = 0.05
"""How far the fitted line may rise over the judged part of the run, as a share of its mean."""
JUDGED_S_MIN = 300.0
"""A shorter time shows only what the allocator does."""
_MIB = 1 << 20


def resident_bytes(pid: int) -> int:
    """What a process holds in RAM (RSS); of a process that has ended 0."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        # Not Linux, or no such process.
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], stdout=subprocess.PIPE, check=False)
        return 1024 * int(told.stdout.strip() or 0)


@dataclass
class MemoryLog:
    """Samples of one process."""

    name: str
    times_s: list[float] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)

    def add(self, time_s: float, size_bytes: int) -> None:
        """Take a sample."""
        self.times_s.append(time_s)
        self.sizes_bytes.append(size_bytes)

    @property
    def _judged(self) -> tuple[list[float], list[int]]:
        start = int(len(self.times_s) * WARM_UP_SHARE)
        return self.times_s[start:], self.sizes_bytes[start:]

    @property
    def slope_bytes_per_s(self) -> float:
        """Of the least-squares line through the samples after the warm-up."""
        times_s, sizes_bytes = self._judged
        if len(set(times_s)) < 2:
            return 0.0
        return statistics.linear_regression(times_s, sizes_bytes).slope

    @property
    def is_growing(self) -> bool:
        """Whether the line rises by more than the share allowed, in a run that is long enough to tell."""
        times_s, sizes_bytes = self._judged
        if not times_s or times_s[-1] - times_s[0] < JUDGED_S_MIN:
            return False
        rise_bytes = self.slope_bytes_per_s * (times_s[-1] - times_s[0])
        return rise_bytes > GROWTH_SHARE_MAX * statistics.mean(sizes_bytes)

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        first, *_ = self._judged[1] or [0]
        return {
            "process": self.name,
            "mib_after_warm_up": round(first / _MIB, 1),
            "mib_at_the_end": round((self.sizes_bytes or [0])[-1] / _MIB, 1),
            "mib_max": round(max(self.sizes_bytes, default=0) / _MIB, 1),
            "mib_per_minute": round(self.slope_bytes_per_s * 60 / _MIB, 3),
            "growing": self.is_growing,
        }
