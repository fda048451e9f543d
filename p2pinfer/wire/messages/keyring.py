"""The swarm's keyring: the secret keys that seal its datagrams, as a document that the swarm's owner signs.

    who has a newer one        who has an older one, or none
      |--KeyringNews---------------->|     datagram: the version that I have
      |<-KeyringRequest--------------|     stream: mine is older
      |--KeyringReply--------------->|     stream: the keys

Rules:

1. Keys never travel in a datagram: whoever has a key that was removed could read them. Datagrams carry the
   owner's signed notice, which tells of a keyring and not what is in it; streams are encrypted by themselves,
   and both their ends are proven members.
2. A notice or a keyring is good whoever passes it on: its owner's signature is all that counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.wire.messages.records import Signed
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "KEYS_COUNT_MAX",
    "KEY_ID_SIZE_BYTES",
    "KEY_SIZE_BYTES",
    "Keyring",
    "KeyringAnswer",
    "KeyringCommand",
    "KeyringNews",
    "KeyringNotice",
    "KeyringReply",
    "KeyringRequest",
    "key_id",
    "keys_digest",
]

KEY_SIZE_BYTES = 32
"""Of XChaCha20-Poly1305."""
KEY_ID_SIZE_BYTES = 4
"""A name and no proof: two keys of one ring differ in it, a stranger's may be the same."""
KEYS_COUNT_MAX = 4
"""The one in use, the next, and two whose removal was put off. serf's keyring has no limit."""


def key_id(key: bytes) -> bytes:
    """Return a key's name, which tells nothing of the key: shown to people as eight hexadecimal digits."""
    return hashlib.sha256(b"p2pinfer sealing key v1\x00" + key).digest()[:KEY_ID_SIZE_BYTES]


def keys_digest(keys: Iterable[bytes]) -> bytes:
    """Return the digest of a ring's keys, in their order."""
    return hashlib.sha256(b"p2pinfer keyring v1\x00" + b"".join(keys)).digest()


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringNotice(Signed):
    """The owner's signed word that there is a keyring of this version. It tells no key."""

    TAG: ClassVar[int] = 48

    public_key: Annotated[bytes, Exactly(32)]
    """The owner's, which is the swarm's id."""
    version: Annotated[int, Between(1, (1 << 63) - 1)]
    """The highest wins, everywhere."""
    primary: Annotated[bytes, Exactly(KEY_ID_SIZE_BYTES)]
    """The id of the key to seal with; all others of the ring only open."""
    digest: Annotated[bytes, Exactly(32)]
    signature: Annotated[bytes, Size(64)] = b""

    @property
    def content(self) -> tuple[bytes, bytes]:
        """What two notices of one version must agree in."""
        return self.primary, self.digest


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring(Message):
    """The keys themselves, oldest first, and the notice that makes them the owner's. They are never shown."""

    TAG: ClassVar[int] = 49

    notice: KeyringNotice
    keys: Annotated[tuple[Annotated[bytes, Exactly(KEY_SIZE_BYTES)], ...], Count(KEYS_COUNT_MAX)] = field(
        repr=False
    )

    @property
    def version(self) -> int:
        """The notice's."""
        return self.notice.version

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The names of the keys, in their order."""
        return tuple(key_id(key) for key in self.keys)

    def is_sound(self, owner: bytes) -> bool:
        """Whether it is the owner's and its parts belong together; the signature was checked before."""
        ids = self.key_ids
        return (
            self.notice.public_key == owner
            and self.notice.primary in ids
            and len(set(ids)) == len(ids)
            and self.notice.digest == keys_digest(self.keys)
        )


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringNews(Message):
    """Any member to any other: this is what I have, nothing if `notice` is None.

    Answered with the same where that is asked for, or where the sender's is older.
    """

    TAG: ClassVar[int] = 50
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    notice: KeyringNotice | None
    asks: bool = False


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringRequest(Message):
    """Any peer to any member: give me your keyring if it is newer than this. Answered by KeyringReply.

    Sent with each state exchange, so that a joiner has the keys before it hears a datagram.
    """

    TAG: ClassVar[int] = 51
    PLANE: ClassVar[Plane] = Plane.STREAM

    notice: KeyringNotice | None


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringReply(Message):
    """The answer to KeyringRequest: what I have, with the keys if the asker's are older."""

    TAG: ClassVar[int] = 52
    PLANE: ClassVar[Plane] = Plane.STREAM

    notice: KeyringNotice | None
    keyring: Keyring | None = None


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringCommand(Message):
    """Client to the owner's node: list, install, use, remove or rotate. Answered by one KeyringAnswer."""

    TAG: ClassVar[int] = 53
    PLANE: ClassVar[Plane] = Plane.STREAM

    action: Annotated[str, Size(16)]
    key: Annotated[str, Size(64)] = ""
    """The id of the key to use or to remove, in hexadecimal."""
    force: bool = False
    """Do not wait for members that lack the version before."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringAnswer(Message):
    """Node to client: the keyring after the command, as the JSON object that `keyring list --json` prints."""

    TAG: ClassVar[int] = 54
    PLANE: ClassVar[Plane] = Plane.STREAM

    json: Annotated[str, Size(1 << 24)]
