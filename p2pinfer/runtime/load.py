"""What a peer's engine had to do lately, and which failures its answers survived.

Everything is counted on the event loop. Rates are of positions computed here: a token that is computed again
in a replay counts again, for it takes the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2pinfer.runtime.windows import SlidingCounts
from p2pinfer.work import EngineInput

__all__ = ["SHORT_S", "WINDOW_S", "Load"]

SHORT_S = 10.0
"""The window for what is now."""
WINDOW_S = 60.0
"""The window for what is usual, and for the distribution of batch sizes."""


class Load:
    """Counts batches and recoveries. Times are handed in: seconds of any clock that never goes backwards.

    Args:
        now: When the counting begins.
    """

    def __init__(self, now: float) -> None:
        self._batch_sizes: SlidingCounts[int] = SlidingCounts(now, length_s=WINDOW_S)
        self._amounts: SlidingCounts[str] = SlidingCounts(now, length_s=WINDOW_S)
        self._recovery_count = 0
        self._pause_s = 0.0
        self._recovered_at = now

    def batch_done(self, batch: Sequence[EngineInput], duration_s: float, now: float) -> None:
        """Count a batch that the engine has computed."""
        self._batch_sizes.add(len({each.session for each in batch}), now)
        for each in batch:
            self._amounts.add("decode" if each.row_count == 1 else "prefill", now, each.row_count)
        self._amounts.add("busy_us", now, round(duration_s * 1e6))

    def recovered(self, pause_s: float, now: float) -> None:
        """Count an answer that goes on after a failure."""
        self._recovery_count += 1
        self._pause_s = pause_s
        self._recovered_at = now

    def as_data(self, now: float) -> dict[str, Any]:
        """Return the keys `batches`, `speed` and `recoveries` of a status."""
        return {
            "batches": self._batches(now),
            "speed": {
                "decode_tokens_per_s": self._rates("decode", now),
                "prefill_tokens_per_s": self._rates("prefill", now),
                "busy_percent": {
                    name: round(min(100.0, rate / 1e4), 1)
                    for name, rate in self._rates("busy_us", now).items()
                },
            },
            "recoveries": self._recoveries(now),
        }

    def _batches(self, now: float) -> dict[str, Any]:
        sizes = self._batch_sizes.counts(now, WINDOW_S)
        count = sizes.total()
        sessions = sum(size * times for size, times in sizes.items())
        return {
            "count": count,
            "mean": round(sessions / count, 2) if count else None,
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
        }

    def _rates(self, kind: str, now: float) -> dict[str, float]:
        return {
            "last_10_s": round(self._amounts.rate(kind, now, SHORT_S), 1),
            "last_60_s": round(self._amounts.rate(kind, now, WINDOW_S), 1),
        }

    def _recoveries(self, now: float) -> dict[str, Any]:
        if not self._recovery_count:
            return {"count": 0, "last_pause_ms": None, "last_ago_s": None}
        return {
            "count": self._recovery_count,
            "last_pause_ms": round(self._pause_s * 1000, 1),
            "last_ago_s": round(now - self._recovered_at, 1),
        }
