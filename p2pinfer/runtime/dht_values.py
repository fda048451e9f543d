"""What `peer.dht` takes and gives: keys, values that were found, and providers."""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.dht.keyspace import KEY_SIZE_BYTES, key_of
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.wire.messages.dht import NAMESPACE_SIZE_BYTES_MAX, DhtRecord

__all__ = [
    "PROVIDER",
    "VALUE",
    "Found",
    "Key",
    "Provider",
    "found_of",
    "place_of",
    "provided_place",
    "provider_of",
]

VALUE, PROVIDER = "value", "provider"
"""Namespaces: any value of anybody, and who can hand something out."""

Key = bytes | str | tuple[str, str | bytes]
"""32 bytes; a name in the namespace `value`; or a namespace and a name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A value that somebody keeps under a key; its owner signed it."""

    owner: PeerId
    value: bytes
    subkey: bytes
    sequence: int
    """Counts up with each value of one owner under one key and sub-key."""
    expires_s: float
    """When it is void, seconds since the Unix epoch."""
    namespace: str


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody who says that it can hand out what was asked for."""

    peer: PeerId
    endpoint: Endpoint | None
    """Where it listens, as a member or by its own word; None where it gave none and is no member known."""
    expires_s: float


def place_of(key: Key) -> tuple[str, bytes]:
    """Return the namespace, empty for a bare key, and the 32 bytes."""
    if isinstance(key, bytes):
        if len(key) != KEY_SIZE_BYTES:
            raise LocalProtocolError(
                f"a key has {KEY_SIZE_BYTES} bytes, not {len(key)}: give a text, or a namespace and a name"
            )
        return "", bytes(key)
    namespace, name = (VALUE, key) if isinstance(key, str) else key
    if len(namespace.encode()) > NAMESPACE_SIZE_BYTES_MAX:
        raise LocalProtocolError(f"a namespace has at most {NAMESPACE_SIZE_BYTES_MAX} bytes: {namespace!r}")
    return namespace, key_of(namespace, name)


def provided_place(name: Key) -> bytes:
    """The key under which providers of a thing are found: a bare name has its own namespace here."""
    return key_of(PROVIDER, name) if isinstance(name, str) else place_of(name)[1]


def found_of(record: DhtRecord) -> Found:
    """Read a record as a value that was found."""
    return Found(
        owner=record.owner,
        value=record.value,
        subkey=record.subkey,
        sequence=record.sequence,
        expires_s=record.expires_ms / 1000,
        namespace=record.namespace,
    )


def provider_of(record: DhtRecord) -> Provider:
    """Read a record as the word of a provider."""
    try:
        endpoint = Endpoint.parse(record.value.decode()) if record.value else None
    except ValueError:  # a text that is no UTF-8 is one as well
        endpoint = None
    return Provider(record.owner, endpoint, record.expires_ms / 1000)
