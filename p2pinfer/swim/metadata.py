"""What peers say of themselves beyond their records: tags, a description, what an application wants known.

Rules:

1. A record carries its digest and size alone, so that records stay small enough to be gossiped; whoever wants
   to read it asks the owner over a stream. (memberlist gossips up to 512 bytes and refuses more: its #191.)
2. What comes is believed if it has the digest that the owner signed, from whomever it comes.
3. What is kept of others is bounded, in bytes and by the questions that are open.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from p2pinfer.effects import Effect, Misbehaved, Notify, Send
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.news import MetadataFailed, MetadataRead
from p2pinfer.wire.messages.records import METADATA_SIZE_BYTES_MAX, PeerRecord
from p2pinfer.wire.messages.swim import MetadataReply, MetadataRequest

__all__ = ["MetadataBook", "digest_of"]

KEPT_SIZE_BYTES_MAX = 1 << 20
"""What is kept of others' metadata."""
_QUESTION_COUNT_MAX = 64
ANSWER_TIMEOUT_S = 10.0
"""How long an owner may take: a dial and 64 KiB over a slow line."""


def digest_of(data: bytes) -> bytes:
    """Return what a record says of this metadata; nothing of nothing."""
    return hashlib.sha256(data).digest() if data else b""


class MetadataBook:
    """This peer's metadata, that of others as far as it was read, and the questions for it."""

    def __init__(self) -> None:
        self.own = b""
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_size_bytes = 0
        self._asked: dict[PeerId, tuple[bytes, float]] = {}
        """By owner: the digest wanted, and until when."""

    @property
    def deadline(self) -> float | None:
        """When the next question has been open for too long."""
        return min((until for _, until in self._asked.values()), default=None)

    def set_own(self, data: bytes) -> None:
        """Say something else from now on.

        Raises:
            LocalProtocolError: It is too large.
        """
        if len(data) > METADATA_SIZE_BYTES_MAX:
            raise LocalProtocolError(
                f"metadata has at most {METADATA_SIZE_BYTES_MAX} bytes, not {len(data)}: name a place instead"
            )
        self.own = data

    def read(self, record: PeerRecord, now: float) -> list[Effect]:
        """Have a member's metadata told, as `MetadataRead` or `MetadataFailed`.

        Raises:
            Overloaded: Too many questions are open.
        """
        owner, digest = record.owner, record.metadata_digest
        known = b"" if not digest else self._kept.get(digest)
        if known is not None:
            return [Notify(MetadataRead(owner, known))]
        if owner not in self._asked and len(self._asked) >= _QUESTION_COUNT_MAX:
            raise Overloaded(f"{_QUESTION_COUNT_MAX} questions for metadata are open; retry when some end")
        self._asked[owner] = (digest, now + ANSWER_TIMEOUT_S)
        return [Send(record.contact, MetadataRequest(digest=digest))]

    def on_request(self, sender: Contact, request: MetadataRequest) -> list[Effect]:
        """Answer with this peer's metadata; with none where it is not what was asked for any more."""
        is_known = request.digest == digest_of(self.own)
        return [Send(sender, MetadataReply(digest=request.digest, data=self.own if is_known else b""))]

    def on_reply(self, sender: Contact, reply: MetadataReply) -> list[Effect]:
        """Take the answer of an owner."""
        if sender.peer is None or sender.peer not in self._asked:
            return []
        digest, _ = self._asked[sender.peer]
        if reply.digest != digest:
            return []  # of a question before this one
        del self._asked[sender.peer]
        if not reply.data:
            return [Notify(MetadataFailed(sender.peer, "it says something else by now: ask again"))]
        if digest_of(reply.data) != digest:
            reason = "its metadata is not what it signed"
            return [Misbehaved(sender.peer, reason), Notify(MetadataFailed(sender.peer, reason))]
        self._keep(digest, reply.data)
        return [Notify(MetadataRead(sender.peer, reply.data))]

    def lost(self, peer: PeerId) -> list[Effect]:
        """A stream to a peer could not be opened or broke."""
        if self._asked.pop(peer, None) is None:
            return []
        return [Notify(MetadataFailed(peer, "it cannot be reached"))]

    def tick(self, now: float) -> list[Effect]:
        """Give up the questions that were open for too long."""
        late = [peer for peer, (_, until) in self._asked.items() if until <= now]
        for peer in late:
            del self._asked[peer]
        return [Notify(MetadataFailed(peer, "it does not answer")) for peer in late]

    def _keep(self, digest: bytes, data: bytes) -> None:
        if digest in self._kept:
            return
        self._kept[digest] = data
        self._kept_size_bytes += len(data)
        while self._kept_size_bytes > KEPT_SIZE_BYTES_MAX:
            _, dropped = self._kept.popitem(last=False)
            self._kept_size_bytes -= len(dropped)
