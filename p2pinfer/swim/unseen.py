"""Words of deaths in incarnations of which no record was seen.

Rules:

1. Such a word changes nothing that is believed: a liar could name any incarnation. It is only kept, so that a
   late record of an incarnation below does not bring the dead back.
2. Whoever that keeps out is told the word: a living peer signs a record above it. So words of incarnations
   ahead of the clock are not kept, or a liar could push its victim's incarnation beyond what others believe.
3. Bounded: the word used longest ago makes room.

Source of the case: al8n/memberlist PR 197, "Dead@10, unseen, then a late Alive@2".
"""

from __future__ import annotations

from collections import OrderedDict

from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.swim import Accusation

__all__ = ["UnseenDeaths"]

_WORD_COUNT_MAX = 256
"""Words kept, of some 200 bytes each: deaths of the few seconds in which a record may still be on its way."""


class UnseenDeaths:
    """The highest such word about each member."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: OrderedDict[PeerId, Accusation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._words)

    def note(self, word: Accusation, now: float) -> bool:
        """Keep a word; False if it is no word of a death, ahead of the clock, or below one that is kept."""
        held = self._words.get(word.accused)
        if not word.dead or word.incarnation > now * 1000:
            return False
        if held is not None and held.incarnation >= word.incarnation:
            return False
        self._words[word.accused] = word
        self._words.move_to_end(word.accused)
        if len(self._words) > _WORD_COUNT_MAX:
            self._words.popitem(last=False)
        return True

    def against(self, peer: PeerId, incarnation: int) -> Accusation | None:
        """The word that a record of this incarnation does not overcome; one that it does is forgotten."""
        word = self._words.get(peer)
        if word is None or word.incarnation >= incarnation:
            return word
        del self._words[peer]
        return None
