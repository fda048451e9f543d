"""How many threads numpy's BLAS uses: a property of the process, not of an engine.

numpy's wheels bring their own OpenBLAS, whose thread count is set through the library itself. Where numpy
uses another BLAS nothing is done and False is returned: set OMP_NUM_THREADS before the process starts, or use
the package `threadpoolctl`, which knows them all.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from p2pinfer.errors import ConfigError

__all__ = ["set_blas_threads"]

_PLACES = ("../numpy.libs", ".dylibs", "../.dylibs")  # Linux and Windows, macOS, older macOS wheels
_SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")


def set_blas_threads(count: int) -> bool:
    """Set the thread count of numpy's OpenBLAS for this process; return whether that was possible.

    Raises:
        ConfigError: The count is below 1.
    """
    if count < 1:
        raise ConfigError(f"threads is {count}; it must be at least 1")
    package = Path(np.__file__).parent
    for place in _PLACES:
        for path in sorted((package / place).glob("*openblas*")):
            if _set(path, count):
                return True
    return False


def _set(path: Path, count: int) -> bool:
    try:
        library = ctypes.CDLL(str(path))  # loaded already: this is a handle on the same one
    except OSError:
        return False
    for name in _SETTERS:
        setter = getattr(library, name, None)
        if setter is not None:
            setter(ctypes.c_int(count))
            return True
    return False
