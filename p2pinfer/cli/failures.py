"""How a command ends: one line on stderr and an exit code, never a traceback unless asked for.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from p2pinfer.errors import P2PInferError, StorageError
from p2pinfer.files import replace_file

__all__ = [
    "CRASH_FILE",
    "FAILED",
    "INTERRUPTED",
    "PIPE_CLOSED",
    "USED_WRONGLY",
    "describe",
    "kept_traceback",
    "one_line",
    "run_command",
]

CRASH_FILE = "crash.txt"
"""In a node's data directory: the traceback of the bug that ended it last."""

FAILED = 1
USED_WRONGLY = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE, as shells report it."""


def one_line(text: str) -> str:
    """Return the text as one line without control characters: errors may quote what a peer said."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def describe(error: BaseException) -> str:
    """Return what went wrong and the remedy, in one line."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port to listen on is taken: stop the other program, or choose another port with --listen"
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror or error}")
    return one_line(str(error)) or type(error).__name__


def run_command(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command and return its exit code.

    Args:
        command: The command; returns an exit code and raises what `errors` documents.
        debug: Let the exception through, so that its traceback is shown.
    """
    if not debug:
        sys.excepthook = _report_bug
    try:
        code = command()
        sys.stdout.flush()
    except (P2PInferError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        if debug and not isinstance(error, KeyboardInterrupt):
            raise
        return _code_of(error)
    return code


def _code_of(error: BaseException) -> int:
    """Report an expected error; raise it again if it is none, for the hook below."""
    causes = list(_leaves(error))
    if _is_interrupt(causes):
        return INTERRUPTED
    if any(isinstance(cause, BrokenPipeError) for cause in causes):
        # The interpreter flushes stdout once more at exit: give it something that takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    if not _are_expected(causes):
        raise error
    print(f"p2pinfer: {describe(causes[0])}", file=sys.stderr)
    return FAILED


@contextmanager
def kept_traceback(path: Path) -> Iterator[None]:
    """Write an unexpected error to a file: what ran for months cannot be run again to see its traceback."""
    try:
        yield
    except (Exception, BaseExceptionGroup) as error:
        causes = list(_leaves(error))
        if not (_is_interrupt(causes) or _are_expected(causes)):
            try:
                replace_file(path, "".join(traceback.format_exception(error)).encode())
                error.add_note(f"report it with its traceback, which is in {path}")
            except StorageError:
                pass  # the disk may be what is wrong; the error itself is told all the same
        raise


def _is_interrupt(causes: list[BaseException]) -> bool:
    return any(isinstance(cause, KeyboardInterrupt) for cause in causes)


def _are_expected(causes: list[BaseException]) -> bool:
    return all(isinstance(cause, P2PInferError | OSError) for cause in causes)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the errors inside the groups that nurseries make."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _report_bug(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Show an unexpected exception in one line: the interpreter's hook, called when nobody caught it."""
    cause = next(_leaves(error))
    notes = getattr(error, "__notes__", None)
    remedy = notes[-1] if notes else "run the command again with --debug and report what it shows"
    print(
        f"p2pinfer: unexpected {type(cause).__name__}: {one_line(str(cause))}; this is a bug: {remedy}",
        file=sys.stderr,
    )
