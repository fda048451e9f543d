"""What a swarm's owner may make of its keyring: pure functions from one version to the next.

Rules:

1. Each change is one version: install, then use, then remove, so that at every moment whatever any member
   seals with is in every member's ring (serf's rotation, which has the same three steps).
2. A ring has a primary key always: sealing, once begun, cannot be ended by a change.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pinfer.errors import ConfigError
from p2pinfer.wire.messages.keyring import KEYS_COUNT_MAX, Keyring, KeyringNotice, key_id, keys_digest
from p2pinfer.wire.messages.records import Sign

__all__ = ["first_keyring", "install_key", "remove_key", "use_key"]


def first_keyring(owner: bytes, key: bytes, sign: Sign) -> Keyring:
    """Make version 1, with one key.

    Args:
        owner: The owner's public key, which is the swarm's id.
        key: 32 secret bytes.
        sign: Signs as the owner.
    """
    return _signed(owner, 1, (key,), key_id(key), sign)


def install_key(keyring: Keyring, key: bytes, sign: Sign) -> Keyring:
    """Add a key that all can open with and nobody seals with yet.

    Raises:
        ConfigError: The ring is full, or has a key of that id.
    """
    if len(keyring.keys) >= KEYS_COUNT_MAX:
        raise ConfigError(
            f"the keyring has {KEYS_COUNT_MAX} keys already: remove one first (p2pinfer keyring remove ID)"
        )
    if key_id(key) in keyring.key_ids:
        raise ConfigError("the keyring has a key of that id: draw another one")
    return _next(keyring, (*keyring.keys, key), keyring.notice.primary, sign)


def use_key(keyring: Keyring, name: bytes, sign: Sign) -> Keyring:
    """Seal with an installed key from now on.

    Raises:
        ConfigError: There is no such key, or it is in use already.
    """
    _check_known(keyring, name)
    if name == keyring.notice.primary:
        raise ConfigError(f"key {name.hex()} is in use already")
    return _next(keyring, keyring.keys, name, sign)


def remove_key(keyring: Keyring, name: bytes, sign: Sign) -> Keyring:
    """Forget a key: what is sealed with it is not heard any more.

    Raises:
        ConfigError: There is no such key, or it is the one in use.
    """
    _check_known(keyring, name)
    if name == keyring.notice.primary:
        raise ConfigError(f"key {name.hex()} is in use: use another one first (p2pinfer keyring use ID)")
    kept = tuple(key for key in keyring.keys if key_id(key) != name)
    return _next(keyring, kept, keyring.notice.primary, sign)


def _check_known(keyring: Keyring, name: bytes) -> None:
    if name not in keyring.key_ids:
        known = ", ".join(each.hex() for each in keyring.key_ids)
        raise ConfigError(f"no key {name.hex()} in the keyring, which has {known}: name one of them")


def _next(keyring: Keyring, keys: Sequence[bytes], primary: bytes, sign: Sign) -> Keyring:
    return _signed(keyring.notice.public_key, keyring.version + 1, tuple(keys), primary, sign)


def _signed(owner: bytes, version: int, keys: tuple[bytes, ...], primary: bytes, sign: Sign) -> Keyring:
    notice = KeyringNotice(public_key=owner, version=version, primary=primary, digest=keys_digest(keys))
    return Keyring(notice=sign(notice), keys=keys)
