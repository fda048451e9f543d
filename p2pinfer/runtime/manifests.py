"""Which model file a digest names: asked of peers that have the file.

A swarm speaks of models by digest, the SHA-256 of the file. Whoever has a file says so in the DHT, under the
key of its digest, and answers with the manifest over a stream. What may be believed of an answer:

1. The digest, because it was asked for: an answer about another file is refused. A file that is fetched by
   what the manifest says is checked against it, so no liar can pass another file off as this one.
2. Nothing else. Name, size, layers, architecture and source are the word of the peer that is named beside
   them; that peer can keep somebody busy with a wrong one, and no more.

A manifest could be named by the hash of its own text and then be checked whole; but what the swarm knows of a
model is the digest of its file, and the same file has another name on every machine.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from p2pinfer.dht.keyspace import key_of
from p2pinfer.effects import Message
from p2pinfer.errors import (
    DamagedModel,
    LocalProtocolError,
    ModelNotFound,
    P2PInferError,
    RemoteProtocolError,
    UnavailableError,
)
from p2pinfer.ids import Contact, PeerId
from p2pinfer.models.manifest import Manifest, ModelName
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime.calls import Handler
from p2pinfer.runtime.streams import Streams
from p2pinfer.wire.messages.dht_use import MANIFEST_SIZE_BYTES_MAX, ManifestReply, ManifestRequest

__all__ = [
    "FoundManifest",
    "Provides",
    "ask_for_manifest",
    "manifest_handler",
    "manifest_key",
    "provide_manifests",
]

_log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0
"""How long one provider may take."""
ASKED_COUNT_MAX = 8
"""Providers asked in turn."""
PROVIDED_COUNT_MAX = 32
"""Manifests of this machine that are told of: others keep some 128 records of one peer."""
_LOCAL = "file:"


class Provides(Protocol):
    """What is needed of `runtime/dht.py`."""

    async def wait_for_others(self) -> None:
        """Wait until another peer of the DHT has answered."""
        ...

    async def provide(self, name: bytes) -> int:
        """Say that this peer can hand out what a key names."""
        ...


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """What is known of a model file, and who says so."""

    manifest: Manifest
    provider: PeerId | None
    """None where the file is on this machine."""


def manifest_key(digest: bytes) -> bytes:
    """The key under which those are found who have the file with this SHA-256."""
    return key_of("manifest", digest)


async def ask_for_manifest(
    streams: Streams, store: ModelStore, providers: Sequence[Contact], digest: bytes
) -> FoundManifest:
    """Return the manifest of this machine, or that of the first provider that answers soundly.

    Raises:
        ModelNotFound: Nobody does.
    """
    own = await trio.to_thread.run_sync(_manifest_here, store, digest)
    if own is not None:
        return FoundManifest(own, None)
    for contact in providers[:ASKED_COUNT_MAX]:
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                async with streams.call(contact, ManifestRequest(digest)) as responses:
                    reply = await responses.one()
            return FoundManifest(_checked(reply, digest), contact.peer)
        except (P2PInferError, trio.TooSlowError) as error:
            _log.info("%s gave no manifest of %s: %s", contact, digest.hex()[:12], error or "no answer")
    raise ModelNotFound(
        f"nobody is found who has the file {digest.hex()[:12]} and answers: "
        f"{len(providers)} said that they have it"
    )


def manifest_handler(store: ModelStore) -> Handler:
    """Return what answers a ManifestRequest."""

    async def on_request(contact: Contact, request: Message) -> AsyncGenerator[Message, None]:
        if not isinstance(request, ManifestRequest):
            raise LocalProtocolError(f"{type(request).__name__} is no ManifestRequest")
        found = await trio.to_thread.run_sync(_manifest_here, store, request.digest)
        text = "" if found is None else _shared(found).to_json()
        yield ManifestReply(json=text if len(text.encode()) <= MANIFEST_SIZE_BYTES_MAX else "")

    return on_request


async def provide_manifests(store: ModelStore, dht: Provides) -> None:
    """Say in the DHT which files are here, once others are there; what is told is kept alive by the DHT."""
    try:
        manifests = await trio.to_thread.run_sync(store.list)
    except P2PInferError as error:
        _log.warning("no manifest is told of: %s", error)
        return
    digests = list(dict.fromkeys(each.digest for each in manifests))[:PROVIDED_COUNT_MAX]
    if digests:
        await dht.wait_for_others()
    for digest in digests:
        try:
            await dht.provide(manifest_key(digest))
        except (UnavailableError, LocalProtocolError) as error:
            _log.info("the manifest %s is not told of: %s", digest.hex()[:12], error)


def _manifest_here(store: ModelStore, digest: bytes) -> Manifest | None:
    try:
        return next((each for each in store.list() if each.digest == digest), None)
    except P2PInferError:
        return None  # a damaged store has nothing to tell


def _shared(manifest: Manifest) -> Manifest:
    """A manifest as it may be told: where a file lies on this machine is nobody's business."""
    source = "" if manifest.source.startswith(_LOCAL) else manifest.source
    return replace(manifest, source=source)


def _checked(reply: Message, digest: bytes) -> Manifest:
    if not isinstance(reply, ManifestReply):
        raise RemoteProtocolError(f"a ManifestRequest was answered with {type(reply).__name__}")
    if not reply.json:
        raise ModelNotFound("the file is not there any more")
    manifest = Manifest.from_json(reply.json)
    if manifest.digest != digest:
        raise DamagedModel("the answer is about another file")
    if manifest.layer_count < 1 or manifest.size_bytes < 1:
        raise DamagedModel("the answer has a size or a number of layers below 1")
    ModelName(manifest.name, manifest.tag)  # raises where it is no name that could be used here
    return manifest
