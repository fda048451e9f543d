"""Small files that are replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

from p2pinfer.errors import StorageError

__all__ = ["replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, readable by its owner alone.

    Raises:
        StorageError: The disk refused; the old content is there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: {error.strerror}; free space or choose another directory") from error
