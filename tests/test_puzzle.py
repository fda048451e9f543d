"""The puzzle of peer ids (S/Kademlia, section 4.1)."""

from __future__ import annotations

import hashlib
import random

import pytest

from p2pinfer.config import NodeConfig
from p2pinfer.dht.config import DhtConfig
from p2pinfer.errors import ConfigError
from p2pinfer.identity import Identity
from p2pinfer.ids import PeerId
from p2pinfer.puzzle import DIFFICULTY_MAX, fits, zero_bits


def test_the_zero_bits_are_counted_one_by_one() -> None:
    rng = random.Random(1)
    for _ in range(500):
        peer = PeerId(rng.randbytes(32))
        digest = hashlib.sha256(b"p2pinfer id puzzle" + peer).digest()
        bits = "".join(f"{byte:08b}" for byte in digest)
        assert zero_bits(peer) == len(bits) - len(bits.lstrip("0"))
        for difficulty in range(-1, 12):
            assert fits(peer, difficulty) == (zero_bits(peer) >= difficulty)


def test_one_id_in_two_to_the_difficulty_fits() -> None:
    """Section 4.1: making an id takes O(2^c)."""
    rng = random.Random(2)
    counts = [0] * 9
    for _ in range(16_384):
        found = zero_bits(rng.randbytes(32))
        for difficulty in range(min(found, 8) + 1):
            counts[difficulty] += 1
    for difficulty, count in enumerate(counts):
        expected = 16_384 / 2**difficulty
        assert abs(count - expected) < 5 * expected**0.5 + 1


@pytest.mark.parametrize("difficulty", [0, 1, 8, 10])
def test_a_key_made_for_a_difficulty_fits_it(difficulty: int) -> None:
    assert fits(Identity.generate(difficulty).peer_id, difficulty)


def test_everybody_checks_the_same_bounds() -> None:
    assert NodeConfig(id_difficulty=DIFFICULTY_MAX).id_difficulty == DIFFICULTY_MAX
    with pytest.raises(ConfigError, match="id_difficulty"):
        NodeConfig(id_difficulty=DIFFICULTY_MAX + 1)
    with pytest.raises(ConfigError, match="id_difficulty"):
        DhtConfig(id_difficulty=DIFFICULTY_MAX + 1)
