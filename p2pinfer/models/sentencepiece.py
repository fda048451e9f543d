"""Sentencepiece's BPE with scores: the tokenizer of Llama 1 and 2, Mistral and Gemma.

The two neighbours whose union has the best score merge first, the leftmost first among equals; a piece that
is no token falls back to the byte tokens of its characters.

Source: google/sentencepiece `src/bpe_model.cc`; llama.cpp `llm_tokenizer_spm` for the fallback.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

__all__ = ["SentencePiece"]


class SentencePiece:
    """Turns normalised text (spaces are ▁ already) into ids."""

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], byte_ids: Mapping[int, int]) -> None:
        self._ids = ids
        self._scores = scores
        self._byte_ids = byte_ids

    def encode(self, text: str, unknown: int | None) -> list[int]:
        """Return the ids; what is neither a token nor has byte tokens becomes `unknown`, or nothing."""
        tokens: list[int] = []
        for piece in self._merge(text):
            index = self._ids.get(piece)
            if index is not None:
                tokens.append(index)
                continue
            for byte in piece.encode():
                token = self._byte_ids.get(byte, unknown)
                if token is not None:
                    tokens.append(token)
        return tokens

    def _merge(self, text: str) -> list[str]:
        """Merge neighbours in a linked list, best first: O(n log n) for a text of n characters."""
        pieces = list(text)
        before = list(range(-1, len(pieces) - 1))
        after = [*range(1, len(pieces)), -1]
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0:
                return
            union = pieces[left] + pieces[right]
            index = self._ids.get(union)
            if index is not None:
                heapq.heappush(queue, (-self._scores[index], left, right, union))

        for left in range(len(pieces) - 1):
            offer(left, left + 1)
        while queue:
            _, left, right, union = heapq.heappop(queue)
            if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != union:
                continue  # one of the two has been merged otherwise since
            pieces[left], pieces[right] = union, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [piece for piece in pieces if piece]
