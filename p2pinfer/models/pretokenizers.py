"""Where a byte-level BPE tokenizer cuts a text before it merges: one list of patterns a name.

Each pattern of a list cuts what the one before it left; what lies between two matches is a piece too.

Source: the models' published `tokenizer.json` and llama.cpp `src/llama-vocab.cpp`, which names them.
"""

from __future__ import annotations

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from p2pinfer.errors import UnsupportedModel

__all__ = ["WHOLE_WORDS_FIRST", "PATTERNS", "pre_tokenizer"]

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_LLAMA_3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", r"[0-9][0-9][0-9]")

PATTERNS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    "gpt-2": (_GPT_2,),
    "smollm": (r"\p{N}", _GPT_2),
    "llama-bpe": (_LLAMA_3,),
    "llama3": (_LLAMA_3,),
    "llama-v3": (_LLAMA_3,),
    "qwen2": (_LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}"),),
}

WHOLE_WORDS_FIRST = frozenset(("llama-bpe", "llama3", "llama-v3"))
"""Where a piece that is a token as a whole becomes that token, whatever the merges say."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """Build the pre-tokenizer of a name.

    Raises:
        UnsupportedModel: The name is not known: guessing would give wrong tokens without a word.
    """
    patterns = PATTERNS.get(name)
    if patterns is None:
        raise UnsupportedModel(
            f"the pre-tokenizer {name!r} is not supported; supported are: {', '.join(sorted(PATTERNS))}"
        )
    cuts: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])
