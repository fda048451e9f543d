"""What an application wants stored."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Put"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A value to be kept under a key, and kept alive until it is taken back."""

    key: bytes
    """Where; made with `key_of`."""
    value: bytes
    """At most 512 bytes."""
    ttl_s: float
    """How long a copy lives that is not refreshed, seconds."""
    subkey: bytes = b""
    """Which of the owner's values under the key, at most 64 bytes; BEP-44's salt."""
    namespace: str = "value"
    """What values there may be: see `namespaces.py`."""
    expected: int | None = None
    """The sequence that it replaces, 0 for none at all; holders that have another refuse it. None for any."""
