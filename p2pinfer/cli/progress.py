"""Long work on the screen: a bar on a terminal, plain lines elsewhere, both on stderr.

Rules:

1. Where stderr is no terminal nothing but lines is written: one when a piece of work begins, one when it is
   done, and between them one every few seconds, so that a log stays readable.
2. What is likely to be over at once (a prompt) says nothing unless it takes long.
3. The bar is gone when the block is left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pinfer.cli.output import harmless, size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["LINE_INTERVAL_S", "Pace", "PlainLines", "ShowProgress", "duration_text", "progress"]

ShowProgress = Callable[[str, int, int, str], None]
"""Told what is done, how much of how much, and in what unit; another text is other work; a total of 0 is
unknown."""

LINE_INTERVAL_S = 3.0
"""The shortest time between two lines about one piece of work."""
RATE_AFTER_S = 0.5
"""A speed that was measured over less says nothing."""
PATIENCE_S = 0.7
"""What is over sooner needs no bar: the answer itself is what people look at."""


class Pace:
    """How fast a piece of work goes, as text. Times are handed in.

    Args:
        unit: What is counted; `bytes` are shown in larger units.
        done: How much was done when the work was first heard of.
        now: When that was.
    """

    def __init__(self, unit: str, done: int, now: float) -> None:
        self._unit = unit
        self._begun_with = done
        self._began_at = now

    def text(self, done: int, total: int, now: float) -> str:
        """Return the figures: how much, and where it can be known how fast and how long it will take."""
        figures = [self._amount(done, total)]
        taken_s = now - self._began_at
        rate = (done - self._begun_with) / taken_s if taken_s >= RATE_AFTER_S else 0.0
        if rate > 0:
            speed = size_text(int(rate)) if self._unit == "bytes" else f"{rate:.{int(rate < 10)}f}"
            figures.append(f"{speed}/s")
            if done < total:
                figures.append(f"{duration_text((total - done) / rate)} left")
        return ", ".join(figures)

    def _amount(self, done: int, total: int) -> str:
        if self._unit == "bytes":
            amount = f"{size_text(done)} of {size_text(total)}" if total else size_text(done)
        else:
            amount = f"{done} of {total} {self._unit}" if total else f"{done} {self._unit}"
        return f"{100 * done // total} %, {amount}" if total else amount


def duration_text(duration_s: float) -> str:
    """Return a duration for people, as in 2 h 13 min."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days"


@dataclass(slots=True)
class _Work:
    """The piece of work that is shown."""

    text: str
    pace: Pace
    line_at: float
    """When the last line was written."""
    has_line: bool = False


class PlainLines:
    """Turns reports into lines that are few enough to read. Pure: times are handed in.

    Args:
        write: Takes a line.
        is_patient: Whether a line at the start is left out, and one at the end if there was none between.
    """

    def __init__(self, write: Callable[[str], None], *, is_patient: bool = False) -> None:
        self._write = write
        self._is_patient = is_patient
        self._work: _Work | None = None

    def show(self, text: str, done: int, total: int, unit: str, *, now: float) -> None:
        """Take a report."""
        work = self._work
        is_new = work is None or work.text != text
        if work is None or is_new:
            work = self._work = _Work(text, Pace(unit, done, now), now)
        is_done = 0 < total <= done and (work.has_line or not self._is_patient)
        is_due = now >= work.line_at + LINE_INTERVAL_S
        if is_due or is_done or (is_new and not self._is_patient):
            work.line_at = now
            work.has_line = True
            self._write(f"{text}: {work.pace.text(done, total, now)}")


class _Bar:
    """A bar that appears with the first report, or once that is some time ago."""

    def __init__(self, stack: ExitStack, *, is_patient: bool) -> None:
        self._stack = stack
        self._appears_at = time.monotonic() + (PATIENCE_S if is_patient else 0.0)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._work: _Work | None = None

    def show(self, text: str, done: int, total: int, unit: str) -> None:
        """Take a report."""
        now = time.monotonic()
        if self._work is None or self._work.text != text:
            self._work = _Work(text, Pace(unit, done, now), now)
        if now < self._appears_at:
            return
        figures = self._work.pace.text(done, total, now)
        if self._bars is None or self._task is None:
            self._bars = self._stack.enter_context(_bars())
            self._task = self._bars.add_task("", total=None, figures="")
        self._bars.update(
            self._task, description=harmless(text), completed=done, total=total or None, figures=figures
        )


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextmanager
def progress(*, is_patient: bool = False) -> Iterator[ShowProgress]:
    """Show how far something is for as long as the block lasts.

    Args:
        is_patient: Whether to say nothing about what is over soon.
    """
    with ExitStack() as stack:
        if sys.stderr.isatty():
            yield _Bar(stack, is_patient=is_patient).show
            return
        lines = PlainLines(_write_line, is_patient=is_patient)

        def show(text: str, done: int, total: int, unit: str) -> None:
            lines.show(text, done, total, unit, now=time.monotonic())

        yield show


def _write_line(line: str) -> None:
    print(harmless(line), file=sys.stderr, flush=True)
