"""Small vocabularies that can encode any text: byte-level BPE and sentencepiece."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from string import ascii_lowercase, ascii_uppercase

from gguf.constants import TokenType

__all__ = ["CONTROL_TOKENS", "SENTENCEPIECE_MIN", "VOCABULARY_MIN", "tiny_sentencepiece", "tiny_vocabulary"]

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY_MIN = len(CONTROL_TOKENS) + 256
SENTENCEPIECE_MIN = 450
OTHER_SYMBOLS = "ĠĊčĉ0123456789'!.,-+$<>=_\"/STREVMLDÃ©ÐºðŁĺĢæĹ¥¬Â³"
"""Enough to see where a pre-tokenizer cuts: all pairs of these and of the letters are merges."""
WORDS = (
    "the",
    "he",
    "and",
    "ing",
    "hello",
    "hell",
    "el",
    "lo",
    "llo",
    "world",
    "or",
    "ld",
    "▁▁",
    "▁▁▁▁",
    "ü",
    "é",
)


def tiny_vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    """The tokens, their types and the merges of a tiny model."""
    pairs = list(islice(_merges(), size - VOCABULARY_MIN))
    tokens = [*CONTROL_TOKENS, *_byte_symbols(), *(first + second for first, second in pairs)]
    types = [int(TokenType.CONTROL)] * len(CONTROL_TOKENS)
    types += [int(TokenType.NORMAL)] * (len(tokens) - len(types))
    padding = range(size - len(tokens))
    tokens += [f"[PAD{index}]" for index in padding]
    types += [int(TokenType.UNUSED) for _ in padding]
    return tokens, types, [f"{first} {second}" for first, second in pairs]


def tiny_sentencepiece(size: int) -> tuple[list[str], list[int], list[float]]:
    """The tokens, their types and their scores: a later piece has a lower score, as in a trained one."""
    tokens = ["<unk>", *CONTROL_TOKENS[1:], *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [int(TokenType.UNKNOWN), *[int(TokenType.CONTROL)] * 2, *[int(TokenType.BYTE)] * 256]
    letters = sorted(ascii_lowercase, key="etaoinshrdlucmfwypvbgkqjxz".index)
    pieces = [
        *WORDS,
        "▁",
        *(f"▁{letter}" for letter in letters),
        *letters,
        *ascii_uppercase,
        *"0123456789.,!?'",
    ]
    pieces += [first + second for first, second in product(letters, letters)]
    pieces = list(dict.fromkeys(pieces))[: size - len(tokens)]
    scores = [0.0] * len(tokens) + [-1.0 - index for index in range(len(pieces))]
    return tokens + pieces, types + [int(TokenType.NORMAL)] * len(pieces), scores


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of common letters first, so that a small vocabulary still merges something in English."""
    letters = sorted(ascii_lowercase, key="etaoinshrdlucmfwypvbgkqjxz".index)
    yield from (("Ġ", letter) for letter in letters)
    yield from product(letters, letters)
    given = {("Ġ", letter) for letter in letters} | set(product(letters, letters))
    symbols = [*dict.fromkeys(OTHER_SYMBOLS), *letters]
    yield from (pair for pair in product(symbols, symbols) if pair not in given)


def _byte_symbols() -> list[str]:
    """GPT-2's 256 printable characters, one for each byte (its `bytes_to_unicode`)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]
