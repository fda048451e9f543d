"""`version`: what to name in a report."""

from __future__ import annotations

import argparse
import platform

from p2pinfer.cli.output import say

__all__ = ["EPILOG", "configure", "run"]

EPILOG = """\
examples:
  p2pinfer version
  python -m p2pinfer version
"""


def configure(_: argparse.ArgumentParser) -> None:
    """There are no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print the version of p2pinfer, of Python and of the system."""
    from importlib.metadata import version

    say(f"p2pinfer {version('p2pinfer')} (Python {platform.python_version()}, {platform.system()})")
    return 0
