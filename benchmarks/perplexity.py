"""How well an engine predicts a fixed text, beside the float32 reference.

    python -m benchmarks.perplexity MODEL.gguf '{"engine": "numpy"}'

Each token is computed in a step of its own, as in decoding. The perplexity is exp of the mean negative
log-likelihood of a token given those before it. Source: Jelinek et al. 1977, "Perplexity - a measure of the
difficulty of speech recognition tasks".

The text is the opening of "The Time Machine" by H. G. Wells (1895), in the public domain.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import trio
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput
from p2pinfer.errors import UnavailableError
from p2pinfer.ids import SessionId, Span
from p2pinfer.loading import load_engine
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.tokenizer import Tokenizer

__all__ = ["MeasurableEngine", "perplexity_of", "run_perplexity"]

TEXT = """\
The Time Traveller (for so it will be convenient to speak of him) was expounding a recondite matter to \
us. His pale grey eyes shone and twinkled, and his usually pale face was flushed and animated. The fire \
burnt brightly, and the soft radiance of the incandescent lights in the lilies of silver caught the \
bubbles that flashed and passed in our glasses. Our chairs, being his patents, embraced and caressed us \
rather than submitted to be sat upon, and there was that luxurious after-dinner atmosphere, when thought \
runs gracefully free of the trammels of precision. And he put it to us in this way, marking the points \
with a lean forefinger, as we sat and lazily admired his earnestness over this new paradox (as we thought \
it) and his fecundity.

"You must follow me carefully. I shall have to controvert one or two ideas that are almost universally \
accepted. The geometry, for instance, they taught you at school is founded on a misconception."

"Is not that rather a large thing to expect us to begin upon?" said Filby, an argumentative person with \
red hair.

"I do not mean to ask you to accept anything without reasonable ground for it. You will soon admit as \
much as I need from you. You know of course that a mathematical line, a line of thickness nil, has no \
real existence. They taught you that? Neither has a mathematical plane. These things are mere \
abstractions."

"That is all right," said the Psychologist.

"Nor, having only length, breadth, and thickness, can a cube have a real existence."

"There I object," said Filby. "Of course a solid body may exist. All real things."

"So most people think. But wait a moment. Can an instantaneous cube exist?"

"Don't follow you," said Filby.

"Can a cube that does not last for any time at all, have a real existence?"

Filby became pensive. "Clearly," the Time Traveller proceeded, "any real body must have extension in four \
directions: it must have Length, Breadth, Thickness, and Duration. But through a natural infirmity of the \
flesh, which I will explain to you in a moment, we incline to overlook this fact."
"""


class MeasurableEngine(Protocol):
    """What is needed of an engine: its caches, and its logits, which `engine.api.Engine` does not show."""

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        """Make room for a session."""
        ...

    def drop_cache(self, session: SessionId) -> None:
        """Give the room back."""
        ...

    def logits(self, step: EngineInput) -> NDArray[np.float32]:
        """Compute a step and return the logits of its last position: (V,)."""
        ...


def perplexity_of(engine: MeasurableEngine, tokens: Sequence[int]) -> float:
    """Return the perplexity of a text of at least two tokens."""
    session = SessionId(b"perplexity".ljust(16))
    engine.open_cache(session, len(tokens))
    losses = []
    for position, following in enumerate(tokens[1:]):
        step = EngineInput(session, position, tokens=(tokens[position],))
        scores = engine.logits(step).astype(np.float64)
        scores -= scores.max()
        losses.append(math.log(np.exp(scores).sum()) - float(scores[following]))
    engine.drop_cache(session)
    return math.exp(math.fsum(losses) / len(losses))


async def run_perplexity(path: Path, settings: Mapping[str, object]) -> float:
    """Measure in a process of its own, which ends.

    Raises:
        UnavailableError: The process failed; the message has its last words.
    """
    command = [sys.executable, "-m", "benchmarks.perplexity", str(path), json.dumps(dict(settings))]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnavailableError(f"the perplexity was not measured: {(words or ['-'])[-1]}")
    return float(done.stdout)


def _measure(path: Path, settings: Mapping[str, Any]) -> float:
    with GGUFFile.open(path) as file:
        layer_count = ModelConfig.from_gguf(file).layer_count
        tokens = Tokenizer.from_gguf(file).encode(TEXT, allow_special=False, with_bos=True)
    engine: Any = load_engine(path, Span(0, layer_count), **settings)
    return perplexity_of(engine, tokens)


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1]), json.loads(sys.argv[2])))
