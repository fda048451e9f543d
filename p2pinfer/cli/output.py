"""What people see: text that cannot play tricks on a terminal, sizes, and tables."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "harmless", "say", "size_text", "write"]


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
