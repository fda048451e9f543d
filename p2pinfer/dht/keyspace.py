"""The DHT's key space: 256-bit numbers under the XOR metric (Kademlia, section 2.1).

A key is 32 bytes, read as a big-endian number. A peer stands at the key that its PeerId is.
"""

from __future__ import annotations

import hashlib
import random

from p2pinfer.errors import LocalProtocolError

__all__ = [
    "KEY_SIZE_BITS",
    "KEY_SIZE_BYTES",
    "bucket_range",
    "check_key",
    "choose_key_in_bucket",
    "distance",
    "key_of",
    "prefix_length",
]

KEY_SIZE_BYTES = 32
KEY_SIZE_BITS = 8 * KEY_SIZE_BYTES


def key_of(namespace: str, name: str | bytes) -> bytes:
    """Return the key of a name: SHA-256 with a namespace prefix, so that two uses never share a key.

    Raises:
        LocalProtocolError: The namespace is empty or has a NUL, which would let two namespaces collide.
    """
    if not namespace or "\0" in namespace:
        raise LocalProtocolError(f"namespace {namespace!r}: give a text without NUL, as in 'holders'")
    data = name.encode() if isinstance(name, str) else name
    return hashlib.sha256(b"p2pinfer-dht\0" + namespace.encode() + b"\0" + data).digest()


def check_key(key: bytes) -> None:
    """Refuse what is not a key.

    Raises:
        LocalProtocolError: Wrong length.
    """
    if len(key) != KEY_SIZE_BYTES:
        raise LocalProtocolError(f"a key has {KEY_SIZE_BYTES} bytes, not {len(key)}: make one with key_of")


def distance(one: bytes, other: bytes) -> int:
    """The XOR distance between two keys."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def prefix_length(one: bytes, other: bytes) -> int:
    """How many leading bits two keys share; 256 for equal keys."""
    return KEY_SIZE_BITS - distance(one, other).bit_length()


def bucket_range(own: bytes, prefix: int) -> tuple[int, int]:
    """The lowest and the highest key, both inclusive, that share exactly `prefix` leading bits with `own`."""
    free_bits = KEY_SIZE_BITS - prefix - 1
    low = ((int.from_bytes(own, "big") >> free_bits) ^ 1) << free_bits
    return low, low | ((1 << free_bits) - 1)


def choose_key_in_bucket(own: bytes, prefix: int, rng: random.Random) -> bytes:
    """Draw a key that shares exactly `prefix` leading bits with `own`."""
    low, high = bucket_range(own, prefix)
    return rng.randint(low, high).to_bytes(KEY_SIZE_BYTES, "big")
