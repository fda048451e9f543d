"""Every error that p2pinfer raises on purpose.

Each docstring says whose fault it is, whether state changed and whether to retry. Messages are one line:
what is wrong, then the remedy. Foreign exceptions are mapped to these where they enter, with `from`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pinfer.ids import PeerId, Span

__all__ = [
    "P2PInferError",
    "ConfigError",
    "ProtocolError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "DecodeError",
    "FrameTooLarge",
    "SignatureError",
    "ReplayError",
    "SealError",
    "UnknownKey",
    "Unsealed",
    "WrongSwarm",
    "CertificateError",
    "CertificateExpired",
    "UnfitId",
    "HandshakeError",
    "VersionMismatch",
    "UnavailableError",
    "PeerUnreachable",
    "NoChain",
    "SessionLost",
    "Overloaded",
    "Cancelled",
    "RecordConflict",
    "ModelError",
    "ModelNotFound",
    "UnsupportedModel",
    "DamagedModel",
    "PromptTooLong",
    "Retry",
    "CommandRefused",
    "StorageError",
    "DamagedStorage",
    "NewerFormat",
    "InternalError",
]


class P2PInferError(Exception):
    """Anything that p2pinfer reports on purpose. Never a bug of ours: that is `InternalError`."""


class ConfigError(P2PInferError, ValueError):
    """A setting is wrong: the caller's fault. Nothing was started. Correct the named field, then retry."""


class ProtocolError(P2PInferError):
    """A rule of the protocol was broken; see the two kinds below."""


class LocalProtocolError(ProtocolError):
    """Our own caller misused a core: a fault in this process. State is unchanged. Do not retry as is."""


class RemoteProtocolError(ProtocolError):
    """A remote peer broke the rules: its fault. The message is dropped and state is unchanged.

    Whoever catches it counts it against the sender; it never ends the peer.
    """


class DecodeError(RemoteProtocolError):
    """Bytes that are no message: wrong type, size, depth, count or tag. The sender's fault; drop it."""


class FrameTooLarge(RemoteProtocolError):
    """A frame or message announces more bytes than its kind may have. Refused before it is read."""


class SignatureError(RemoteProtocolError):
    """A signature does not match its key. The sender's fault, or an attack; drop it."""


class ReplayError(RemoteProtocolError):
    """A message seen before, or outside the time window. Drop it; check the clocks if it persists."""


class SealError(RemoteProtocolError):
    """A proven member's datagram that does not open with the key it names. Its fault; drop it.

    Unlike a forgery it says who sent it: the envelope's signature was good.

    Attributes:
        sender: The member; None where the error was told by another peer.
    """

    def __init__(self, message: str, *, sender: PeerId | None = None) -> None:
        super().__init__(message)
        self.sender = sender


class UnknownKey(SealError):
    """A proven member sealed with a key that we lack: one of us missed a rotation. Nobody's fault; drop it.

    Whoever catches it compares keyrings with the sender over a stream, which mends it.
    """


class Unsealed(SealError):
    """A proven member sent in the open where this swarm seals: it has no keyring yet. Drop it; as above."""


class WrongSwarm(RemoteProtocolError):
    """The message belongs to another swarm. Drop it; an honest peer needs another invite."""


class CertificateError(RemoteProtocolError):
    """A peer cannot show that the swarm's owner admitted it. The peer needs a valid invite."""


class CertificateExpired(CertificateError):
    """The peer's membership has run out. The peer needs a new invite."""


class UnfitId(RemoteProtocolError):
    """A peer's id lacks the work that the swarm asks for. The peer needs a fresh key, made for this swarm."""


class HandshakeError(RemoteProtocolError):
    """The other end of a stream did not prove its identity for this very connection. It was closed."""


class VersionMismatch(RemoteProtocolError):
    """The other peer speaks no protocol version that we speak. Update the older of the two."""


class UnavailableError(P2PInferError):
    """An expected failure of operation: nobody's fault in this process. State is consistent; retry later.

    Attributes:
        retry_after_s: When it makes sense to come back, in seconds; None where that is unknown.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PeerUnreachable(UnavailableError):
    """A peer could not be reached or its connection broke. Nothing is known of what it did before that."""


class NoChain(UnavailableError):
    """Some layers of the model have no live holder. Start a peer with these layers, then retry.

    Attributes:
        missing: The runs of layers that nobody holds, in order.
    """

    def __init__(
        self, message: str, *, missing: tuple[Span, ...] = (), retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.missing = missing


class SessionLost(UnavailableError):
    """A generation could not be continued although it was tried. Tokens given so far are right. Retry."""


class Overloaded(UnavailableError):
    """A peer has no room for another session. Refused before anything was computed. Retry later."""


class Cancelled(UnavailableError):
    """The generation was cancelled by its owner or by the shutdown of a peer. Tokens so far are right."""


class RecordConflict(P2PInferError):
    """A record of the DHT is not the one that a compare-and-swap expected. Nothing was stored.

    Read what is held and decide anew.

    Attributes:
        sequence: Of the record that is held; 0 where none is.
        value: Of the record that is held.
    """

    def __init__(self, message: str, *, sequence: int = 0, value: bytes = b"") -> None:
        super().__init__(message)
        self.sequence = sequence
        self.value = value


class ModelError(P2PInferError):
    """A model file or name cannot be used. Nothing was loaded. The message names what is wrong."""


class ModelNotFound(ModelError):
    """No such model here. Pull it, or name the file with --file."""


class UnsupportedModel(ModelError):
    """The file is sound, but its architecture, quantisation or tokenizer is not supported."""


class DamagedModel(ModelError):
    """The file is truncated or its contents contradict each other. Fetch it again."""


class PromptTooLong(P2PInferError, ValueError):
    """The prompt and the answer do not fit into the model's context. Shorten either; nothing was computed."""


class Retry(enum.IntEnum):
    """What helps after a command was refused; its number is what travels."""

    NEVER = 0
    """Nothing but another command: this one is wrong as it is."""
    REREAD = 1
    """The state is not what the command took it for: read it again, and decide anew."""
    LATER = 2
    """The same command may work later."""
    REOPEN = 3
    """The session is gone: open another. What had no answer in the old one has an unknown outcome."""


class CommandRefused(P2PInferError):
    """Replicated state did not take a command, and has not changed. Whether to retry is in `retry`.

    Every replica refuses alike, so asking another peer gives the same answer.

    Attributes:
        code: The reason as one word, for programs: "lease_held".
        about: The key or the name that it is about, if there is one.
        number: What `code` says a number of: a limit, a token; 0 otherwise.
        retry: What helps.
        retry_after_s: With `LATER`, when it makes sense to come back; None where that is unknown.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        about: str = "",
        number: int = 0,
        retry: Retry = Retry.NEVER,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.about = about
        self.number = number
        self.retry = retry
        self.retry_after_s = retry_after_s


class StorageError(P2PInferError):
    """The disk said no: full, read-only or broken. What was reported as stored before stays stored."""


class DamagedStorage(StorageError):
    """What is on disk is not what was written there: a fault of the disk, or of whoever changed the files.

    Nothing was changed. Do not retry as is: the message says how the node comes back without it.
    """


class NewerFormat(StorageError):
    """A newer version of p2pinfer wrote these files. Nothing was changed. Update this one, then retry."""


class InternalError(Exception):
    """A bug of p2pinfer, outside the tree above so that `except P2PInferError` cannot hide it."""
