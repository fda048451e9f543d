"""Six real processes with the real model say, token by token, what an independent implementation says."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from p2pinfer.cli.local_swarm import LocalSwarm, open_swarm
from p2pinfer.ids import Span
from p2pinfer.inference.generation import Request
from p2pinfer.models.store import ModelStore
from p2pinfer.wire.messages.inference import Sampling

pytestmark = pytest.mark.e2e

MODEL = "smollm2:135m"
GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2_135m_q4_1.npz"
NAMES = ("short", "code", "unicode", "long", "chat")
KILLED_AT = 20
"""The token of the second answer at which the middle hop is killed."""


async def test_the_swarm_says_what_the_oracle_says_also_while_a_peer_dies() -> None:
    store = ModelStore()
    store.pull(MODEL)
    digest = store.manifest_of(MODEL).digest
    spans = [Span(0, 10), Span(10, 20), Span(20, 30)] * 2
    exact = {"accuracy": "float32"}  # the oracle does not round activations to eight bits
    async with open_swarm(spans, model=MODEL, cache_dir=store.directory.parent, settings=exact) as swarm:
        with np.load(GOLDEN) as golden:
            for number, name in enumerate(NAMES):
                prompt = tuple(golden[f"{name}.prompt"].tolist())
                expected = golden[f"{name}.tokens"].tolist()
                request = Request(
                    digest=digest,
                    layer_count=30,
                    prompt=prompt,
                    sampling=Sampling(token_count_max=len(expected)),
                )
                assert await _tokens(swarm, request, kills=number == 1) == expected, name
        assert sum(not node.is_running for node in swarm.nodes) == 1


async def _tokens(swarm: LocalSwarm, request: Request, *, kills: bool) -> list[int]:
    tokens: list[int] = []
    async with aclosing(swarm.peer.sample(request)) as sampled:
        async for item in sampled:
            tokens.append(item.token)
            if kills and len(tokens) == KILLED_AT:
                _kill_the_middle_hop(swarm)
    return tokens


def _kill_the_middle_hop(swarm: LocalSwarm) -> None:
    """Kill who computes layers 10 to 20: of its two holders, the one with the session."""
    generations = swarm.peer._parts.core.entry._generations
    (generation,) = generations.values()
    node = swarm.node_of(str(generation.chain[1].contact.peer))
    assert node is not None
    node.kill()
