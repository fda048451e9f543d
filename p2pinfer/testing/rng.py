"""Named random generators derived from one root seed.

Each user of randomness has its own stream, found by name: adding a host, a link or a fault does not change
what the others draw, so a failing seed stays failing while a test is being edited.
"""

from __future__ import annotations

import hashlib
import random

__all__ = ["derive"]


def derive(seed: int, name: str) -> random.Random:
    """Return the generator called `name` under `seed`.

    hashlib and not `hash()`: the latter differs between two processes.
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))
