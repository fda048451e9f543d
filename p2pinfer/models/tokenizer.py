"""Text to token ids and back, from the vocabulary that lies in the model file itself.

Rules:

1. Control tokens are recognised only where the caller says so: the text of a user cannot forge a turn.
   They are not even in the table that plain text is merged with.
2. An answer is streamed in whole characters: what a token leaves unfinished waits for the next one.
3. A tokenizer that is not known exactly is refused by name: one that is nearly right gives fluent nonsense.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers.models import BPE

from p2pinfer.errors import DamagedModel, ModelError
from p2pinfer.models.fields import text as text_field
from p2pinfer.models.fields import texts
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.gguf_header import Metadata
from p2pinfer.models.guard import GUARD
from p2pinfer.models.pretokenizers import WHOLE_WORDS_FIRST, pre_tokenizer
from p2pinfer.models.sentencepiece import SentencePiece
from p2pinfer.models.vocabulary import BYTE_SYMBOLS, TokenKind, Vocabulary

__all__ = ["TextStream", "Tokenizer"]

_PREFIX = "tokenizer.ggml."


class Tokenizer:
    """The tokenizer of one model. Immutable: it may be used from several threads."""

    def __init__(self, vocabulary: Vocabulary, encode_plain: Callable[[str], list[int]]) -> None:
        self.vocabulary = vocabulary
        self._encode_plain = encode_plain
        always = vocabulary.texts_of(TokenKind.USER_DEFINED)
        self._controls = vocabulary.texts_of(TokenKind.CONTROL, TokenKind.UNKNOWN)
        self._added = always | self._controls
        self._always_pattern = _pattern(always)
        self._special_pattern = _pattern(self._added)

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Build the tokenizer; about 0.1 s for 50,000 tokens.

        Raises:
            UnsupportedModel: A tokenizer or pre-tokenizer that is not known.
            DamagedModel: The vocabulary is missing or contradicts itself.
        """
        try:
            vocabulary = Vocabulary.from_metadata(file.metadata)
            build = _byte_level if vocabulary.model == "gpt2" else _sentencepiece
            return cls(vocabulary, build(vocabulary, file.metadata))
        except ModelError as error:
            raise type(error)(f"{file.path.name}: {error}") from error

    @property
    def bos(self) -> int | None:
        """The token that starts a text, if the model has one."""
        return self.vocabulary.bos

    @property
    def eos(self) -> int | None:
        """The token that ends a text, if the model has one."""
        return self.vocabulary.eos

    @property
    def stop_tokens(self) -> frozenset[int]:
        """All tokens that end an answer: end of text, of turn and of message."""
        return self.vocabulary.stop_tokens

    def encode(self, text: str, *, allow_special: bool, with_bos: bool = False) -> list[int]:
        """Turn text into ids.

        Args:
            text: Any text; lone surrogates, which no UTF-8 has, become U+FFFD.
            allow_special: Whether the text of a control token becomes that token: for a rendered chat
                template, never for what somebody typed.
            with_bos: Whether to start with bos, for a model that wants it and a text that has it not.
        """
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        pattern = self._special_pattern if allow_special else self._always_pattern
        tokens: list[int] = []
        for index, piece in enumerate(pattern.split(clean) if pattern else (clean,)):
            if index % 2:
                tokens.append(self._added[piece])
                continue
            if allow_special:
                piece = piece.replace(GUARD, "")
            if piece:
                tokens += self._encode_plain(self._spaced(piece, is_first=not index))
        bos = self.vocabulary.bos
        if with_bos and self.vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; control tokens give nothing, bytes that are no UTF-8 give U+FFFD."""
        stream = TextStream(self)
        return "".join([*(stream.push(token) for token in ids), stream.flush()])

    def control_texts(self) -> frozenset[str]:
        """The texts of all control tokens, as a chat template writes them."""
        return frozenset(self._controls)

    def _spaced(self, piece: str, *, is_first: bool) -> str:
        if self.vocabulary.model != "llama":
            return piece
        # llama.cpp gives the prefix to the text's start and to what follows a control token
        return (" " if self.vocabulary.adds_space_prefix else "") + piece


class TextStream:
    """Makes text of tokens one at a time; the pieces joined are exactly `Tokenizer.decode` of all.

    With sentencepiece the text's first space is the tokenizer's own: `at_start` says that these tokens start
    the text, so that it is left out. An answer continues a prompt.
    """

    def __init__(self, tokenizer: Tokenizer, *, at_start: bool = True) -> None:
        self._vocabulary = tokenizer.vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drops_space = (
            at_start and self._vocabulary.model == "llama" and self._vocabulary.adds_space_prefix
        )

    def push(self, token: int) -> str:
        """Take the next token and return the characters that are whole now; often one word, maybe none."""
        piece = self._vocabulary.bytes_of(token)
        if self._drops_space and piece:
            self._drops_space = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """Return what is left of a character that never became whole (U+FFFD), and start anew."""
        return self._decoder.decode(b"", final=True)


def _pattern(added: Iterable[str]) -> re.Pattern[str] | None:
    """Match any of the texts, the longest first; one group, so that `split` returns the matches too."""
    texts_by_length = sorted((text for text in added if text), key=lambda text: (-len(text), text))
    return re.compile(f"({'|'.join(map(re.escape, texts_by_length))})") if texts_by_length else None


def _byte_level(vocabulary: Vocabulary, metadata: Metadata) -> Callable[[str], list[int]]:
    name = text_field(metadata, f"{_PREFIX}pre", "default")
    cut = pre_tokenizer(name)
    ids = vocabulary.texts_of(TokenKind.NORMAL)
    every = set(vocabulary.tokens)
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(texts(metadata, f"{_PREFIX}merges")):
        first, _, second = merge.partition(" ")
        if not first or not second or not {first, second, first + second} <= every:
            raise DamagedModel(f"merge {index} ({merge[:40]!r}) joins what is no token, or into no token")
        if first in ids and second in ids and first + second in ids:  # no merge may end in a control token
            merges.append((first, second))
    if every.isdisjoint(BYTE_SYMBOLS):
        raise DamagedModel("the vocabulary has not one of the 256 byte tokens")
    built = tokenizers.Tokenizer(BPE(vocab=ids, merges=merges, ignore_merges=name in WHOLE_WORDS_FIRST))
    built.pre_tokenizer = cut
    return lambda text: list(built.encode(text, add_special_tokens=False).ids)


def _sentencepiece(vocabulary: Vocabulary, metadata: Metadata) -> Callable[[str], list[int]]:
    scores = metadata.get(f"{_PREFIX}scores")
    if not isinstance(scores, tuple) or len(scores) != len(vocabulary):
        raise DamagedModel(f"{_PREFIX}scores does not have one number for each of {len(vocabulary)} tokens")
    byte_ids = {int(text[3:5], 16): index for text, index in vocabulary.texts_of(TokenKind.BYTE).items()}
    pieces = SentencePiece(
        vocabulary.texts_of(TokenKind.NORMAL), [float(score) for score in scores], byte_ids
    )
    return lambda text: pieces.encode(text.replace(" ", "▁"), vocabulary.unknown)
