"""What nurseries do not do by themselves: outlive a cancellation, and raise the error that callers know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["hold_tasks", "unwrapped"]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the one exception inside a group, however deep it lies; a group of several stays one."""
    try:
        yield
    except BaseExceptionGroup as group:
        inner: BaseException = group
        while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
            inner = inner.exceptions[0]
        if inner is group:
            raise
        raise inner from inner.__cause__


async def hold_tasks(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold tasks that a cancellation from outside does not end: whoever started this cancels them.

    Start it with `nursery.start`, which returns the nursery for the tasks.
    """
    async with trio.open_nursery() as tasks:
        task_status.started(tasks)
        # If the user is being cancelled already, nobody takes the tasks: shielded, they would run for ever.
        await trio.lowlevel.checkpoint_if_cancelled()
        tasks.cancel_scope.shield = True
        await trio.sleep_forever()
