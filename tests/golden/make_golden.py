"""Makes `smollm2_135m_q4_1.npz`: what Hugging Face's float32 llama says for five prompts.

Run by hand when the prompts change, in a throw-away environment; nothing of the project is imported:

    pip install torch==2.13.0 transformers==5.23.0 accelerate gguf
    python tests/golden/make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

Arrays of the file, for each prompt NAME:
    NAME.prompt   (T,) int32    token ids of the prompt
    NAME.logits   (V,) float32  logits after the prompt
    NAME.tokens   (64,) int32   greedy tokens; end-of-text does not stop them
    NAME.margins  (64,) float32 how far each greedy token's logit lies above the second
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKEN_COUNT = 64
OUTPUT = Path(__file__).with_name("smollm2_135m_q4_1.npz")

_STORY = (
    "The lighthouse keeper had written in the same book every evening for thirty one years. He wrote "
    "down the wind, the height of the waves, the ships that passed and, when there was something to say, "
    "what he had thought about. On the last page that was left he drew a small map of the island: the "
    "landing place in the south, the path that climbs in eleven bends to the tower, the well, the three "
    "apple trees that his grandmother planted, and the flat stone where the seals lie in March. Below it "
    "he put a list of things that the next keeper should know. First, the third step of the stair is "
    "loose and cannot be mended, because the stone below it has split. Second, the lamp must be cleaned "
    "with warm water and never with spirit. Third, if fog comes from the east it will stay for two days, "
    "but if it comes from the west it will be gone before noon. Fourth, the supply boat is always late, "
    "and its captain likes to be asked about his daughter, who plays the violin. Fifth,"
)
PROMPTS = {
    "short": "The capital of France is",
    "code": (
        'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n'
        "    if n < 2:\n        return"
    ),
    "unicode": (
        "Größe, naïve café, 東京 and Москва 🚀: translate each word — «one by one» — into English:\n1."
    ),
    "long": _STORY,
    "chat": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nName three things that float on water, and say why.<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
}


def greedy(torch: Any, model: Any, prompt: list[int]) -> tuple[NDArray[np.float32], list[int], list[float]]:
    """Return the logits after the prompt, the greedy tokens and their margins."""
    ids = torch.tensor([prompt])
    past = None
    first: NDArray[np.float32] | None = None
    tokens: list[int] = []
    margins: list[float] = []
    while len(tokens) < TOKEN_COUNT:
        answer = model(input_ids=ids, past_key_values=past, use_cache=True)
        past, logits = answer.past_key_values, answer.logits[0, -1].float()
        if first is None:
            first = logits.numpy().copy()
        best = torch.topk(logits, 2).values
        tokens.append(int(torch.argmax(logits)))
        margins.append(float(best[0] - best[1]))
        ids = torch.tensor([[tokens[-1]]])
    if first is None:
        raise SystemExit("TOKEN_COUNT must be at least 1")
    return first, tokens, margins


def main(path: Path) -> None:
    """Load the model, run the prompts, write the file."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    place = {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **place)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, **place
    ).eval()
    arrays: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for name, text in PROMPTS.items():
            prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
            logits, tokens, margins = greedy(torch, model, prompt)
            arrays[f"{name}.prompt"] = np.array(prompt, np.int32)
            arrays[f"{name}.logits"] = logits.astype(np.float32)
            arrays[f"{name}.tokens"] = np.array(tokens, np.int32)
            arrays[f"{name}.margins"] = np.array(margins, np.float32)
            print(f"{name}: {len(prompt)} prompt tokens, least margin {min(margins):.4f}")
            print(repr(tokenizer.decode(tokens)))
    np.savez_compressed(OUTPUT, **arrays)  # type: ignore[arg-type]  # the stub's allow_pickle


if __name__ == "__main__":
    main(Path(sys.argv[1]))
