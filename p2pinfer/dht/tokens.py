"""Tokens: proof that a peer receives what is sent to its address, without remembering anything of it.

A token is a keyed hash of the peer's id and endpoint. The secret changes; the last one is honoured as well,
so that a token is good for at least one interval and at most two (BEP-5: 5 and 10 minutes).
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections import OrderedDict

from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import TOKEN_SIZE_BYTES

__all__ = ["HeldTokens", "TokenIssuer"]

_HELD_COUNT_MAX = 4096


class TokenIssuer:
    """Makes and checks the tokens that this peer gives out."""

    def __init__(self, interval_s: float, rng: random.Random, now: float) -> None:
        self._interval_s = interval_s
        self._rng = rng
        self._changed_at = now
        self._secret = rng.randbytes(32)
        self._last_secret = rng.randbytes(32)

    def issue(self, contact: Contact, now: float) -> bytes:
        """Return the token of a peer at an endpoint."""
        self._maybe_change(now)
        return self._token(contact, self._secret)

    def is_good(self, token: bytes, contact: Contact, now: float) -> bool:
        """Whether this peer gave that token to that contact, not too long ago."""
        if len(token) != TOKEN_SIZE_BYTES:
            return False
        self._maybe_change(now)
        secrets = (self._secret, self._last_secret)
        return any(hmac.compare_digest(token, self._token(contact, secret)) for secret in secrets)

    def _maybe_change(self, now: float) -> None:
        while now - self._changed_at >= self._interval_s:
            if now - self._changed_at >= 3 * self._interval_s:
                self._changed_at = now - 2 * self._interval_s  # after a long silence both are changed
            self._changed_at += self._interval_s
            self._last_secret, self._secret = self._secret, self._rng.randbytes(32)

    def _token(self, contact: Contact, secret: bytes) -> bytes:
        who = (contact.peer or b"") + str(contact.endpoint).encode()
        return hashlib.blake2b(who, key=secret, digest_size=TOKEN_SIZE_BYTES).digest()


class HeldTokens:
    """The tokens that others gave this peer; the one not used for longest is forgotten first."""

    def __init__(self, interval_s: float) -> None:
        self._fresh_s = interval_s
        self._held: OrderedDict[PeerId, tuple[bytes, float]] = OrderedDict()

    def keep(self, peer: PeerId, token: bytes, now: float) -> None:
        """Remember a token just received."""
        self._held[peer] = (token, now)
        self._held.move_to_end(peer)
        if len(self._held) > _HELD_COUNT_MAX:
            self._held.popitem(last=False)

    def token_for(self, peer: PeerId | None, now: float) -> bytes:
        """The token to show to a peer; empty where there is none that is surely still good."""
        if peer is None or peer not in self._held:
            return b""
        token, received_at = self._held[peer]
        return token if now - received_at < self._fresh_s else b""

    def forget(self, peer: PeerId) -> None:
        """The token was refused."""
        self._held.pop(peer, None)
