"""Keeps what a person wrote from being taken for a model's control tokens.

A chat template mixes its own control tokens with what people wrote into one text. Before that, each control
text in their words is broken by one character that no text has (a Unicode noncharacter); the tokenizer cuts
the text at control tokens first and then removes that character, so that the words are tokenised as words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["GUARD", "ControlGuard"]

GUARD = "\ufdd0"
"""Unicode 16, section 23.7: reserved for use inside a program, never for interchange."""
_REPLACEMENT = "\ufffd"


class ControlGuard:
    """Breaks the texts of control tokens in what people wrote."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        texts = sorted({text for text in control_texts if text}, key=lambda text: (-len(text), text))
        longer = [re.escape(text) for text in texts if len(text) > 1]
        # a lookahead, so that texts which overlap are broken as well
        self._starts = re.compile(f"(?=(?:{'|'.join(longer)}))(.)", re.DOTALL) if longer else None
        self._single = str.maketrans(
            dict.fromkeys((GUARD, *(text for text in texts if len(text) == 1)), _REPLACEMENT)
        )

    def guard(self, text: str) -> str:
        """Return the text with no control text in it; the tokenizer undoes what this inserts."""
        clean = text.translate(self._single)
        return self._starts.sub(rf"\1{GUARD}", clean) if self._starts else clean
