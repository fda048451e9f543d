"""What people see: text that cannot play tricks on a terminal, sizes, and progress."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ShowProgress", "console", "harmless", "progress", "say", "size_text", "write"]

ShowProgress = Callable[[str, int, int], None]
"""Told the phase, and how many of how many bytes are done; a total of 0 is unknown."""

PERCENT_STEP = 10
"""Without a terminal a line is written each time that many percent are done: a log stays readable."""


def say(text: str) -> None:
    """Write a line."""
    print(text)


def write(text: str) -> None:
    """Write a piece of an answer at once; on a terminal, without what would control it."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def harmless(text: str) -> str:
    """Return the text without control characters, which could move the cursor or change the title.

    Names come from other peers and answers from a model: neither is to be trusted with a terminal.
    """
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def size_text(size_bytes: int) -> str:
    """Return a size for people, as in 87.4 MiB."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def console() -> Console:
    """Return a console for tables: no colour where stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    # A pipe has no width; tables that are cut at 80 columns there would lose what scripts look for.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@contextmanager
def progress(title: str) -> Iterator[ShowProgress]:
    """Show how far something is: a bar on a terminal, else a line now and then, on stderr."""
    if not sys.stderr.isatty():
        yield _percent_lines(title)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(escape(title), total=None)

        def show(phase: str, done: int, total: int) -> None:
            text = escape(harmless(f"{title}: {phase}"))
            bars.update(task, description=text, completed=done, total=total or None)

        yield show


def _percent_lines(title: str) -> ShowProgress:
    last = ("", -PERCENT_STEP)

    def show(phase: str, done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // total if total > 0 else 0
        if phase != last[0] or percent >= last[1] + PERCENT_STEP:
            last = (phase, percent - percent % PERCENT_STEP)
            print(f"{title}: {harmless(phase)} {percent}%", file=sys.stderr)

    return show
