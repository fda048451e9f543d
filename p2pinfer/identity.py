"""A peer's Ed25519 key pair, the checking of signatures, and sealing. The only file that imports nacl.

Rules:

1. The secret leaves an `Identity` in one way only: into its key file, which nobody else may read. What is
   derived from it does not lead back.
2. A key file is never overwritten: a lost key is a lost place in every swarm that admitted it.
3. A signature that was found good is not checked again: checking takes as long as a hundred messages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import nacl.bindings
import nacl.exceptions

from p2pinfer.errors import ConfigError, LocalProtocolError, SealError, SignatureError, StorageError
from p2pinfer.files import create_file
from p2pinfer.ids import PeerId
from p2pinfer.puzzle import zero_bits
from p2pinfer.wire.codec import signing_bytes
from p2pinfer.wire.messages.records import Signed

__all__ = [
    "NONCE_SIZE_BYTES",
    "PUBLIC_KEY_SIZE_BYTES",
    "SEAL_SIZE_BYTES",
    "SIGNATURE_SIZE_BYTES",
    "Identity",
    "Verifier",
    "seal",
    "unseal",
    "verify",
]

SEED_SIZE_BYTES = 32
PUBLIC_KEY_SIZE_BYTES = 32
SIGNATURE_SIZE_BYTES = 64
SEAL_SIZE_BYTES = 16
"""What sealing adds: the tag of Poly1305."""
NONCE_SIZE_BYTES = 24
"""XChaCha20's: long enough for a hash, so that nobody has to count across restarts."""
CACHE_COUNT_MAX = 4096
"""Good signatures remembered: some hundred bytes each, and several times the members of a large swarm."""

_HEADER = "p2pinfer identity, version 1: keep this file secret"
_KEY_FILE_SIZE_BYTES_MAX = 1024

S = TypeVar("S", bound=Signed)


class Identity:
    """A key pair. It prints as its peer id, and cannot be pickled or copied into a log."""

    __slots__ = ("_secret", "peer_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE_BYTES:
            raise LocalProtocolError(f"a key's seed has {SEED_SIZE_BYTES} bytes, not {len(seed)}")
        public_key, self._secret = nacl.bindings.crypto_sign_seed_keypair(bytes(seed))
        self.public_key: bytes = public_key
        self.peer_id = PeerId.from_public_key(public_key)

    @classmethod
    def generate(cls, difficulty: int = 0) -> Identity:
        """Draw a new key pair from the operating system's randomness.

        Args:
            difficulty: The work that its id has in it (`puzzle.py`), in bits: keys are drawn until one fits,
                about 20 us each, so 16 bits take 1 to 2 s and each bit more doubles that.
        """
        while True:
            seed = secrets.token_bytes(SEED_SIZE_BYTES)
            public_key = nacl.bindings.crypto_sign_seed_keypair(seed)[0]
            if difficulty <= 0 or zero_bits(hashlib.sha256(public_key).digest()) >= difficulty:
                return cls(seed)

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Return the key pair of a 32-byte seed: the same for the same seed, always."""
        return cls(seed)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read a key file.

        Raises:
            ConfigError: There is none, others may read it, or it is damaged.
            StorageError: The disk failed.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(f"{path} can be read by others: run chmod 600 {path}")
                content = file.read(_KEY_FILE_SIZE_BYTES_MAX + 1)
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist: create an identity there first") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        return cls(_parse_key_file(path, content))

    @classmethod
    def create(cls, path: str | os.PathLike[str], difficulty: int = 0) -> Identity:
        """Generate a key pair, as `generate` does, and write its file, whole or not at all.

        Raises:
            ConfigError: Something is at that path already; it is left as it is.
            StorageError: The disk failed; nothing was created.
        """
        path, identity = Path(path), cls.generate(difficulty)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            create_file(path, identity._key_file())
        except FileExistsError:
            raise ConfigError(f"{path} exists already and is not overwritten: choose another path") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error
        return identity

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str], difficulty: int = 0) -> Identity:
        """Read the key file, or create it where there is none yet; only what is created has the work in it.

        Raises:
            ConfigError: The file is there but cannot be used; see `load`.
            StorageError: The disk failed.
        """
        if not os.path.lexists(path):
            try:
                return cls.create(path, difficulty)
            except ConfigError:
                if not os.path.lexists(path):
                    raise  # else another process was faster: use its key
        return cls.load(path)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature of `data`. The caller separates domains by a prefix of its own."""
        return nacl.bindings.crypto_sign(data, self._secret)[:SIGNATURE_SIZE_BYTES]

    def derive(self, purpose: bytes) -> bytes:
        """Return a secret of 32 bytes: always the same for one purpose, and no way back to this key."""
        return hashlib.blake2b(purpose, key=self._secret[:SEED_SIZE_BYTES], digest_size=32).digest()

    def pair_key(self, public_key: bytes) -> bytes:
        """Return the key that this peer shares with another: both find the same, and nobody else does.

        X25519 over the Ed25519 keys, as libsodium converts them; hashed with both public keys.

        Raises:
            SignatureError: It is no public key, or one that leaves nothing secret.
        """
        try:
            secret = nacl.bindings.crypto_scalarmult(
                nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret),
                nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(public_key),
            )
        except (nacl.exceptions.CryptoError, ValueError, TypeError):
            raise SignatureError("that is no public key to share a secret with") from None
        keys = b"".join(sorted((self.public_key, public_key)))
        return hashlib.blake2b(keys, key=secret, digest_size=32, person=b"p2pinfer pair v1").digest()

    def sign_statement(self, statement: S) -> S:
        """Return the statement with its signature; this bound method is a `records.Sign`.

        Raises:
            LocalProtocolError: The statement names another key than this one.
        """
        if statement.public_key != self.public_key:
            raise LocalProtocolError("a peer signs its own statements alone: public_key is another key")
        unsigned: Any = statement
        signed: S = dataclasses.replace(unsigned, signature=self.sign(signing_bytes(statement)))
        return signed

    def _key_file(self) -> bytes:
        seed = self._secret[:SEED_SIZE_BYTES]
        return f"{_HEADER}\n{seed.hex()}\n{self.public_key.hex()}\n".encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.public_key == other.public_key

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id.short}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Identity is not pickled or copied: its secret stays where it is")


def _parse_key_file(path: Path, content: bytes) -> bytes:
    """Return the seed; the public key beside it shows that not one bit was lost."""
    damaged = ConfigError(f"{path} is damaged: restore it from a backup, or remove it to get a new identity")
    try:
        lines = content.decode("ascii").split("\n")
        if len(lines) == 4 and lines[0] != _HEADER and lines[0].startswith("p2pinfer identity, version"):
            raise ConfigError(f"{path} was written by a newer p2pinfer: update, or name another key file")
        header, seed_hex, public_hex, rest = lines
        seed = bytes.fromhex(seed_hex)
    except ConfigError:
        raise
    except ValueError:
        raise damaged from None
    if header != _HEADER or rest or len(seed) != SEED_SIZE_BYTES:
        raise damaged
    if nacl.bindings.crypto_sign_seed_keypair(seed)[0].hex() != public_hex:
        raise damaged
    return seed


def verify(public_key: bytes, data: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        SignatureError: It is not this key's signature of these bytes.
    """
    _check_sizes(public_key, signature)
    try:
        nacl.bindings.crypto_sign_open(signature + data, public_key)
    except nacl.exceptions.BadSignatureError:
        raise SignatureError("the signature does not match its key") from None


def seal(key: bytes, nonce: bytes, body: bytes, header: bytes) -> bytes:
    """Encrypt a body and bind a header to it, with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha).

    One key and nonce must never seal two bodies.
    """
    sealed: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(body, header, nonce, key)
    return sealed


def unseal(key: bytes, nonce: bytes, sealed: bytes, header: bytes) -> bytes:
    """Return the body that was sealed.

    Raises:
        SealError: Key, nonce, header or body is not what was sealed.
    """
    if len(sealed) < SEAL_SIZE_BYTES:
        raise SealError(f"a seal has at least {SEAL_SIZE_BYTES} bytes")
    try:
        body: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, nonce, key)
    except nacl.exceptions.CryptoError:
        raise SealError("the seal does not open with its key") from None
    return body


def _check_sizes(public_key: bytes, signature: bytes) -> None:
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES or len(signature) != SIGNATURE_SIZE_BYTES:
        raise SignatureError("a key has 32 bytes and a signature 64")


class Verifier:
    """Checks signatures and remembers the good ones, so that gossip that comes twice costs little.

    Invariant: only digests of signatures that were good are kept, at most `cache_count_max`.
    """

    __slots__ = ("_cache_count_max", "_good", "hit_count", "miss_count")

    def __init__(self, cache_count_max: int = CACHE_COUNT_MAX) -> None:
        if cache_count_max < 1:
            raise ConfigError(f"cache_count_max is at least 1, not {cache_count_max}")
        self._cache_count_max = cache_count_max
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self.hit_count = 0
        self.miss_count = 0

    def verify(self, public_key: bytes, data: bytes, signature: bytes) -> None:
        """Check a signature, unless it was found good before.

        Raises:
            SignatureError: It is not this key's signature of these bytes.
        """
        # Sizes first: only with them is each split of the joined bytes another digest.
        _check_sizes(public_key, signature)
        digest = hashlib.sha256(b"".join((public_key, signature, data))).digest()
        if digest in self._good:
            self._good.move_to_end(digest)
            self.hit_count += 1
            return
        self.miss_count += 1
        verify(public_key, data, signature)
        self._good[digest] = None
        if len(self._good) > self._cache_count_max:
            self._good.popitem(last=False)

    def verify_statement(self, statement: Signed) -> None:
        """Check a signed structure.

        Raises:
            SignatureError: Its owner did not sign it.
        """
        self.verify(statement.public_key, signing_bytes(statement), statement.signature)
