"""What the DHT is used for: the values that peers keep in it, and what clients and peers ask over streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import Endpoint
from p2pinfer.wire.messages.dht import SUBKEY_SIZE_BYTES_MAX, VALUE_SIZE_BYTES_MAX
from p2pinfer.wire.schema import INT_MAX, Between, Exactly, Size, registered

__all__ = [
    "MANIFEST_SIZE_BYTES_MAX",
    "DhtAnswer",
    "DhtCommand",
    "HeldSpan",
    "ManifestReply",
    "ManifestRequest",
]

MANIFEST_SIZE_BYTES_MAX = 4096
"""UTF-8 bytes of a manifest's JSON: eight short fields."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSpan(Message):
    """The value of a record in the namespace `holders`: its owner serves these layers of the key's model.

    The sub-key is the span as `start:end`. An owner that stops puts an empty value in its place.
    """

    TAG: ClassVar[int] = 57

    endpoint: Endpoint
    """Where the owner listens."""
    model: Annotated[str, Size(128)]
    """The model's name and tag, for people."""
    layer_count: Annotated[int, Between(1, 1024)]
    """Layers of the whole model."""
    start: Annotated[int, Between(0, 1023)]
    end: Annotated[int, Between(1, 1024)]

    @property
    def is_plausible(self) -> bool:
        """Whether the fields agree with each other; a value that fails this is ignored."""
        return self.start < self.end <= self.layer_count and self.endpoint.port > 0

    @property
    def subkey(self) -> bytes:
        """The sub-key that belongs to it."""
        return b"%d:%d" % (self.start, self.end)


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class DhtCommand(Message):
    """Client to node: use your part of the DHT for me. Answered by one DhtAnswer.

    `action` is get, put, rm, provide, stop, providers, peers, members, manifest
    or status. What changes anything is
    done for the command line of the node's own data directory alone: it is said in the node's name.
    """

    TAG: ClassVar[int] = 58
    PLANE: ClassVar[Plane] = Plane.STREAM

    action: Annotated[str, Size(16)]
    namespace: Annotated[str, Size(64)] = ""
    """Of the name; empty where `key` says which key is meant."""
    name: Annotated[str, Size(1024)] = ""
    key: Annotated[bytes, Size(32)] = b""
    """The key itself, 32 bytes; or the digest of a manifest."""
    subkey: Annotated[bytes, Size(SUBKEY_SIZE_BYTES_MAX)] = b""
    value: Annotated[bytes, Size(VALUE_SIZE_BYTES_MAX)] = b""
    ttl_ms: Annotated[int, Between(0, INT_MAX)] = 0
    """How long a value lives without being put again; 0 takes the node's default."""
    expected: Annotated[int, Between(-1, INT_MAX)] = -1
    """For put: the sequence that must be held, 0 for none at all, -1 for no such condition."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class DhtAnswer(Message):
    """Node to client: what came of it, as the JSON object that `dht ... --json` prints."""

    TAG: ClassVar[int] = 59
    PLANE: ClassVar[Plane] = Plane.STREAM

    json: Annotated[str, Size(1 << 24)]


@registered
@dataclass(frozen=True, slots=True)
class ManifestRequest(Message):
    """Any peer to one that provides a manifest: tell me of the model file with this SHA-256.

    Answered by one ManifestReply.
    """

    TAG: ClassVar[int] = 60
    PLANE: ClassVar[Plane] = Plane.STREAM

    digest: Annotated[bytes, Exactly(32)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReply(Message):
    """The answer to ManifestRequest: the manifest as JSON; empty where the model is not here any more."""

    TAG: ClassVar[int] = 61
    PLANE: ClassVar[Plane] = Plane.STREAM

    json: Annotated[str, Size(MANIFEST_SIZE_BYTES_MAX)]
