"""Proof of work for peer ids: the static puzzle of S/Kademlia (Baumgart and Mies 2007, section 4.1).

Rules:

1. An id fits difficulty c if SHA-256(prefix + id) begins with c zero bits. The id alone decides, so whoever
   is told of a contact can check it without having its key.
2. The swarm sets the difficulty, in its invites; 0 asks for no work.

Whoever wants n ids in a swarm has to make about n * 2^c keys. That does not keep a determined attacker out:
it sets a price on a crowd of ids, and multiplies the price of ids near one key, which are tried for as well.
Departs from the paper: it hashes the key twice and cuts the id from the first hash; here the id is the first
hash already (`ids.PeerId`), and the second has a prefix of its own.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from p2pinfer.ids import PeerId

__all__ = ["DIFFICULTY_MAX", "fits", "zero_bits"]

DIFFICULTY_MAX = 24
"""Leading zero bits that a swarm may ask for: making a key takes about 20 us, so 24 bits take 6 minutes."""
_PREFIX = b"p2pinfer id puzzle"
_IDS_KEPT_COUNT = 16_384


def zero_bits(peer: bytes) -> int:
    """The number of zero bits that the puzzle's hash of an id begins with: the highest difficulty it fits."""
    digest = hashlib.sha256(_PREFIX + peer).digest()
    return 8 * len(digest) - int.from_bytes(digest, "big").bit_length()


def fits(peer: PeerId, difficulty: int) -> bool:
    """Whether an id has the work in it that a swarm of this difficulty asks for."""
    return difficulty <= 0 or _zero_bits(peer) >= difficulty


_zero_bits = lru_cache(maxsize=_IDS_KEPT_COUNT)(zero_bits)  # the same few ids are asked about all the time
