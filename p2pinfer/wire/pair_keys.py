"""The keys that two peers share: with them a datagram is authenticated in microseconds instead of signed.

Each follows from the key pairs of both (X25519 over their Ed25519 keys), so nothing is exchanged: whoever
knows the other's public key has it. Who holds one is either of the two; that is all that an envelope has to
tell its receiver. Statements that travel on carry signatures of their own.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pinfer.identity import Identity
from p2pinfer.ids import PeerId

__all__ = ["PairKeys"]

_PAIRS_COUNT_MAX = 8192
"""Pairs remembered; making a key anew takes some 100 us."""


class PairKeys:
    """The keys of one peer with others, and the public keys of those that were heard.

    Invariant: at most `_PAIRS_COUNT_MAX` of each; the one not used for longest is forgotten first.
    """

    __slots__ = ("_heard", "_identity", "_keys")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()
        self._heard: OrderedDict[PeerId, bytes] = OrderedDict()

    def heard(self, peer: PeerId, public_key: bytes) -> None:
        """A datagram of this peer was good: from now on it can be sent tagged ones."""
        if peer not in self._heard and len(self._heard) >= _PAIRS_COUNT_MAX:
            self._heard.popitem(last=False)
        self._heard[peer] = public_key

    def key_to(self, peer: PeerId | None) -> bytes | None:
        """The key with a peer that was heard; None for any other, whose public key is not known."""
        public_key = self._heard.get(peer) if peer is not None else None
        return None if public_key is None else self.key_with(public_key)

    def key_with(self, public_key: bytes) -> bytes:
        """The key with whoever has this public key.

        Raises:
            SignatureError: It is no public key of anybody.
        """
        key = self._keys.get(public_key)
        if key is not None:
            self._keys.move_to_end(public_key)
            return key
        key = self._identity.pair_key(public_key)
        self._keys[public_key] = key
        if len(self._keys) > _PAIRS_COUNT_MAX:
            self._keys.popitem(last=False)
        return key
