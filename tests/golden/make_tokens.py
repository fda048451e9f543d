"""Makes tokens.json: what other tokenizers make of a wide sample of texts.

Needs llama.cpp (the package xllamacpp, of the extra `bench`) and the model smollm2:135m:

    python -m tests.golden.make_tokens MODEL.gguf

Oracles: llama.cpp, for smollm2 and for tiny vocabularies with each pre-tokenizer; and for smollm2 the
published tokenizer.json of the model, which is what it was trained with, put together from Hugging Face's
`tokenizers`. Where the two differ the text is left out of smollm2's part, and the script says so.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from p2pinfer.models.fields import texts
from p2pinfer.models.gguf import GGUFFile
from tests.models.tiny import write_tiny_llama

GOLDEN = Path(__file__).with_name("tokens.json")
TINY = {"default": 5000, "gpt-2": 5000, "smollm": 5000, "llama-bpe": 5000, "qwen2": 5000, "spm": 700}
"""The vocabulary's size for each pre-tokenizer."""
_SAMPLES = json.loads(GOLDEN.with_name("token_texts.json").read_text(encoding="utf-8"))
TEXTS: tuple[str, ...] = tuple(_SAMPLES["plain"])
SPECIAL_TEXTS: tuple[str, ...] = tuple(_SAMPLES["special"])


def _llama_cpp(model: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Ids of all texts: as plain text, and with control tokens recognised."""
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 64, 1, False
    server = xllamacpp.Server(parameters)

    def ids(text: str, parse_special: bool) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": parse_special}
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            tokens: list[int] = json.load(answer)["tokens"]
            return tokens

    plain = {text: ids(text, False) for text in (*TEXTS, *SPECIAL_TEXTS)}
    return plain, {text: ids(text, True) for text in SPECIAL_TEXTS}


def _hugging_face(model: Path) -> dict[str, list[int]]:
    """Ids of all texts by SmolLM2's published tokenizer.json, put together from the file's vocabulary."""
    with GGUFFile.open(model) as file:
        tokens = texts(file.metadata, "tokenizer.ggml.tokens")
        merges = [merge.partition(" ")[::2] for merge in texts(file.metadata, "tokenizer.ggml.merges")]
    built = tokenizers.Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    built.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens[:17]])
    return {text: built.encode(text, add_special_tokens=False).ids for text in (*TEXTS, *SPECIAL_TEXTS)}


def main(model: Path) -> None:
    golden: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for pre, vocabulary in TINY.items():
            path = write_tiny_llama(
                Path(directory, f"{pre}.gguf"),
                pre=pre,
                vocabulary=vocabulary,
                layers=1,
                hidden=32,
                heads=1,
                kv_heads=1,
            )
            plain, special = _llama_cpp(path)
            golden[pre] = {"vocabulary": vocabulary, "plain": plain, "special": special}
    plain, special = _llama_cpp(model)
    reference = _hugging_face(model)
    differing = [text for text in TEXTS if plain[text] != reference[text]]
    differing += [text for text in SPECIAL_TEXTS if special[text] != reference[text]]
    print(f"smollm2: the oracles differ on {differing}")
    kept = {text: ids for text, ids in plain.items() if text not in differing}
    golden["smollm2"] = {"plain": kept, "special": {t: i for t, i in special.items() if t not in differing}}
    GOLDEN.write_text(json.dumps(golden, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
