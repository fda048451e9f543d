"""A model's vocabulary: the tokens' texts and kinds, which of them end an answer, and the bytes of each.

Rules:

1. A token is text or control, never both. Control tokens are those that the file marks so, those that it
   names as bos or eos, and those whose text is known to end a turn: some files mark none.
2. A token's bytes need not be whole characters; only `TextStream` and `decode` make text of them.

Source: gguf.md for the keys; llama.cpp `src/llama-vocab.cpp` for the texts that end an answer.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from p2pinfer.errors import DamagedModel, UnsupportedModel
from p2pinfer.models.fields import flag, texts, whole
from p2pinfer.models.gguf_header import Metadata

__all__ = ["BYTE_SYMBOLS", "TokenKind", "Vocabulary"]

_PREFIX = "tokenizer.ggml."
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_END_TEXTS = frozenset(
    (
        *("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<|eom_id|>"),
        *("<end_of_turn>", "<end_of_utterance>", "<EOT>", "[EOT]", "[EOS]"),
    )
)


def _byte_symbols() -> dict[str, int]:
    """GPT-2's printable character for each byte, turned round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_SYMBOLS = _byte_symbols()
"""The byte that each of the 256 characters of a byte-level vocabulary stands for."""


class TokenKind(enum.IntEnum):
    """What a token is, numbered as in the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS: dict[object, TokenKind] = {0: TokenKind.NORMAL, **{kind.value: kind for kind in TokenKind}}
"""By the file's number; 0 stands for a kind that the file's writer did not know."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id.

    Invariant: `kinds` is as long as `tokens`, and every id named is below that.
    """

    model: str
    """gpt2 (byte-level BPE) or llama (sentencepiece)."""
    tokens: tuple[str, ...] = field(repr=False)
    kinds: tuple[TokenKind, ...] = field(repr=False)
    bos: int | None
    eos: int | None
    unknown: int | None
    adds_bos: bool
    adds_space_prefix: bool
    stop_tokens: frozenset[int]

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Vocabulary:
        """Read and check the vocabulary.

        Raises:
            UnsupportedModel: Its kind is not supported.
            DamagedModel: A field is missing or contradicts another.
        """
        model = metadata.get(f"{_PREFIX}model")
        if model not in ("gpt2", "llama"):
            raise UnsupportedModel(f"the tokenizer {model!r} is not supported; supported are: gpt2, llama")
        tokens = texts(metadata, f"{_PREFIX}tokens")
        ids = {
            name: _read_id(metadata, f"{_PREFIX}{name}_token_id", len(tokens))
            for name in ("bos", "eos", "eot", "eom", "unknown")
        }
        stop_tokens = {index for name in ("eos", "eot", "eom") if (index := ids[name]) is not None}
        stop_tokens.update(index for index, token in enumerate(tokens) if token in _END_TEXTS)
        kinds = _read_kinds(metadata, len(tokens))
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
            if kind is TokenKind.BYTE and not _BYTE_TOKEN.fullmatch(token):
                raise DamagedModel(
                    f"the byte token {index} has the text {token[:40]!r}, not one such as <0x0A>"
                )
        for index in stop_tokens | {index for index in (ids["bos"], ids["eos"]) if index is not None}:
            kinds[index] = TokenKind.CONTROL
        is_llama_3 = metadata.get(f"{_PREFIX}pre") in ("llama3", "llama-v3", "llama-bpe")
        adds_bos = flag(metadata, f"{_PREFIX}add_bos_token", model == "llama" or is_llama_3)
        return cls(
            model=str(model),
            tokens=tokens,
            kinds=tuple(kinds),
            bos=ids["bos"],
            eos=ids["eos"],
            unknown=ids["unknown"],
            adds_bos=adds_bos and ids["bos"] is not None,
            adds_space_prefix=flag(metadata, f"{_PREFIX}add_space_prefix", model == "llama"),
            stop_tokens=frozenset(stop_tokens),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def texts_of(self, *kinds: TokenKind) -> dict[str, int]:
        """The ids of all tokens of these kinds, by text.

        Raises:
            DamagedModel: Two of them have the same text.
        """
        found: dict[str, int] = {}
        for index, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)):
            if kind not in kinds:
                continue
            if token in found:
                raise DamagedModel(f"the tokens {found[token]} and {index} have the same text {token[:40]!r}")
            found[token] = index
        return found

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to the text; nothing if it is control, unused or no token at all."""
        if not 0 <= token < len(self.tokens):
            return b""  # padding of the output layer beyond the tokenizer's vocabulary
        text, kind = self.tokens[token], self.kinds[token]
        if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.UNUSED):
            return b""
        if kind is TokenKind.BYTE:
            return bytes.fromhex(text[3:5])
        if kind is TokenKind.USER_DEFINED:
            return (text if self.model == "gpt2" else text.replace("▁", " ")).encode()
        if self.model == "llama":
            return text.replace("▁", " ").encode()
        return b"".join(
            bytes((BYTE_SYMBOLS[symbol],)) if symbol in BYTE_SYMBOLS else symbol.encode() for symbol in text
        )


def _read_id(metadata: Metadata, key: str, token_count: int) -> int | None:
    return whole(metadata, key, 0, token_count - 1) if key in metadata else None


def _read_kinds(metadata: Metadata, token_count: int) -> list[TokenKind]:
    values = metadata.get(f"{_PREFIX}token_type")
    if values is None:
        return [TokenKind.NORMAL] * token_count
    if not isinstance(values, tuple) or len(values) != token_count:
        raise DamagedModel(f"{_PREFIX}token_type does not have one number for each of {token_count} tokens")
    try:
        return [_KINDS[value] for value in values]
    except KeyError as error:
        raise DamagedModel(f"{_PREFIX}token_type holds {error}, a kind that GGUF does not have") from error
