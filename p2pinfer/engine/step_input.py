"""What of a step is checked before anything is computed, the same for every engine.

A step that cannot be computed is refused with one line and leaves its cache and the rest of its batch as they
were. What comes from another peer is judged here: its shapes, its type, and whether its numbers are numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import EngineInput
from p2pinfer.errors import P2PInferError
from p2pinfer.ids import Span
from p2pinfer.wire.messages.inference import Tensor

__all__ = ["BadInput", "StepRefused", "StepRules", "hidden_from_tensor", "tensor_from_hidden"]

_DTYPE = "f4"
_LITTLE_FLOAT = np.dtype("<f4")


class StepRefused(P2PInferError):
    """One step of a batch cannot be computed; its sender's fault or a full cache.

    It never leaves an engine: it becomes the `error` of the step's output.
    """


class BadInput(StepRefused):
    """The hidden states themselves are nonsense, which only whoever sent them can have done."""


def tensor_from_hidden(hidden: NDArray[np.float32]) -> Tensor:
    """Return hidden states as the wire carries them.

    Shapes:
        hidden: (T, D) float32.
    """
    return Tensor(_DTYPE, tuple(hidden.shape), hidden.astype(_LITTLE_FLOAT, copy=False).tobytes())


def hidden_from_tensor(tensor: Tensor, hidden_size: int) -> NDArray[np.float32]:
    """Return the hidden states in a tensor as an array of their own.

    Shapes:
        result: (T, D) float32.

    Raises:
        BadInput: Not float32, not (T, D), not as many bytes as that, or not all finite.
    """
    if tensor.dtype != _DTYPE:
        raise BadInput(f"hidden states are {_DTYPE}, not {tensor.dtype[:8]!r}")
    if len(tensor.shape) != 2 or tensor.shape[0] < 1 or tensor.shape[1] != hidden_size:
        raise BadInput(f"hidden states are (T, {hidden_size}), not {tensor.shape[:4]}")
    count = tensor.shape[0] * hidden_size
    if len(tensor.data) != count * _LITTLE_FLOAT.itemsize:
        raise BadInput(f"hidden states of shape {tensor.shape} have {len(tensor.data)} bytes")
    hidden = np.frombuffer(tensor.data, _LITTLE_FLOAT).reshape(tensor.shape).astype(np.float32)  # (T, D)
    if not np.isfinite(hidden).all():
        raise BadInput("a hidden state is not finite: the hop before computed nonsense")
    return hidden


@dataclass(frozen=True, slots=True)
class StepRules:
    """What the steps of a span must look like."""

    span: Span
    layer_count: int
    hidden_size: int
    vocabulary_size: int

    def layers(self, step: EngineInput) -> Span:
        """Return the layers that the step runs through.

        Raises:
            StepRefused: They are not all held here, or a token is asked of a hop that is not the last.
        """
        layers = step.layers or self.span
        if not self.span.covers(layers):
            raise StepRefused(f"layers {layers} are not held here, only {self.span}")
        if step.sample is not None and layers.end != self.layer_count:
            raise StepRefused(
                f"only layer {self.layer_count - 1} gives tokens, and the step ends at {layers}"
            )
        return layers

    def tokens(self, step: EngineInput) -> NDArray[np.int64]:
        """Return the token ids of a step that starts at layer 0: (T,).

        Raises:
            StepRefused: There are none, there are hidden states too, or an id is out of range.
        """
        if step.hidden is not None or not step.tokens:
            raise StepRefused("a step that starts at layer 0 has token ids and no hidden states")
        low, high = min(step.tokens), max(step.tokens)
        if low < 0 or high >= self.vocabulary_size:
            wrong = low if low < 0 else high
            raise StepRefused(f"token id {wrong} is outside the vocabulary of {self.vocabulary_size}")
        return np.array(step.tokens, np.int64)

    def hidden(self, step: EngineInput) -> NDArray[np.float32]:
        """Return the hidden states of a step that starts above layer 0: (T, D).

        Raises:
            StepRefused: There are none, there are token ids too, or they are malformed.
        """
        if step.hidden is None or step.tokens:
            raise StepRefused("a step that starts above layer 0 has hidden states and no token ids")
        return hidden_from_tensor(step.hidden, self.hidden_size)
