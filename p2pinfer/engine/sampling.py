"""From logits to a token, the same on whichever peer computes it.

Rules:

1. The order is llama.cpp's default (`common_params_sampling::samplers`), which Ollama's llama runner uses:
   repeat penalty, top_k, top_p, min_p, temperature. top_p and min_p thus see the untempered distribution.
   (Ollama's own engine applies the temperature before top_p.)
2. Randomness is one number in [0, 1) from a hash of the seed and the token's position: a replay draws the
   same token. Tokens are ordered by (logit descending, id ascending) and the number is looked up in their
   cumulative distribution, in float64, so that equal logits give equal tokens on every platform; libraries
   differ in the last bit of exp, which moves a boundary by 1e-16.
3. Logits that are no numbers give an error, never a token. -infinity is a number here: a masked token.

The hash is blake2b over 16 bytes, seed and position each 8 bytes little-endian.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from p2pinfer.engine.api import SampleRequest
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.wire.messages.inference import Sampling

__all__ = ["choose_token", "uniform"]

_PERSON = b"p2pinfer token"
_FRACTION_BITS = 53


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) that belongs to a seed and a position, both below 2**63."""
    key = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(key, digest_size=8, person=_PERSON).digest()
    return float((int.from_bytes(digest, "little") >> (64 - _FRACTION_BITS)) * 2.0**-_FRACTION_BITS)


def choose_token(logits: NDArray[np.float32], request: SampleRequest) -> int:
    """Choose the token for a position from the logits of the position before.

    Shapes:
        logits: (V,) float32; left as they are.

    Raises:
        StepRefused: A logit is NaN or +infinity, all are -infinity, or a recent token is out of range.
    """
    sampling = request.sampling
    _check_logits(logits)
    scores = _penalised(logits.astype(np.float64), request)  # (V,)
    if sampling.temperature == 0.0:
        return int(np.argmax(scores))  # the lowest id of equal ones
    ids = _most_likely(scores, sampling.top_k)  # (k,), best first
    kept = scores[ids]  # (k,)
    kept = kept[: _nucleus_count(kept, sampling)]
    weights = np.exp((kept - kept[0]) / sampling.temperature)
    cumulative = np.cumsum(weights)
    drawn = uniform(sampling.seed, request.position) * cumulative[-1]
    index = int(np.searchsorted(cumulative, drawn, side="right"))
    return int(ids[min(index, len(kept) - 1)])


def _check_logits(logits: NDArray[np.float32]) -> None:
    # One NaN makes the greatest NaN too.
    if not (logits.size and np.isfinite(logits.max())):
        raise StepRefused("the logits are no numbers: the model or a hop computed nonsense")


def _penalised(scores: NDArray[np.float64], request: SampleRequest) -> NDArray[np.float64]:
    """Divide positive and multiply negative scores of recent tokens, each once."""
    penalty, last = request.sampling.repeat_penalty, request.sampling.repeat_last_n
    recent = sorted(set(request.recent[-last:])) if last else []
    if penalty == 1.0 or not recent:
        return scores
    if recent[0] < 0 or recent[-1] >= scores.size:
        raise StepRefused(f"a recent token is outside the vocabulary of {scores.size}")
    chosen = scores[recent]
    scores[recent] = np.where(chosen > 0.0, chosen / penalty, chosen * penalty)
    return scores


def _most_likely(scores: NDArray[np.float64], top_k: int) -> NDArray[np.intp]:
    """Return the ids of the k best scores (all for 0), best first, equal ones by id."""
    ids = np.arange(scores.size)
    if 0 < top_k < scores.size:
        threshold = np.partition(scores, scores.size - top_k)[scores.size - top_k]
        ids = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[ids], kind="stable")
    return ids[order][: top_k or None]


def _nucleus_count(kept: NDArray[np.float64], sampling: Sampling) -> int:
    """How many of the sorted scores top_p and then min_p leave; at least one."""
    count = len(kept)
    weights = np.exp(kept - kept[0])
    if sampling.top_p < 1.0:
        cumulative = np.cumsum(weights)
        count = min(count, int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1)
    if sampling.min_p > 0.0:
        count = min(count, int(np.count_nonzero(weights >= sampling.min_p)))
    return max(count, 1)
