"""A span cut between the ranks of a group gives what one engine gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from p2pinfer.engine.api import EngineInput
from p2pinfer.engine.layers import swiglu
from p2pinfer.engine.numpy_engine import NumpyEngine
from p2pinfer.engine.tensor_engine import GroupBroken
from p2pinfer.engine.tensor_shard import ShardCut, check_cuts, cut_layer, even_cuts
from p2pinfer.engine.weights import EngineConfig, LayerWeights, SpanWeights
from p2pinfer.errors import ConfigError
from p2pinfer.ids import SessionId, Span
from p2pinfer.testing import engine_conformance as suite
from p2pinfer.testing.engine_probe import numbers_of
from tests.engine.local_group import LocalGroup
from tests.engine.tiny import SESSION, tiny_config, tiny_engine, tiny_tensors

PROMPT = tuple(range(3, 60, 4))
OTHER = SessionId(bytes(15) + b"\x01")
THREE_HEADS = tiny_config(head_count=9, kv_head_count=3, head_size=8)
UNEVEN = (ShardCut(range(0, 2), range(0, 7)), ShardCut(range(2, 3), range(7, 40)))


def weights_of(config: EngineConfig, span: Span) -> SpanWeights:
    tensors = tiny_tensors(config)
    layers = [LayerWeights.from_tensors(config, tensors, layer) for layer in range(span.start, span.end)]
    return SpanWeights.assemble(config, span, layers, tensors)


def group(
    cuts: Sequence[ShardCut], *, config: EngineConfig = THREE_HEADS, span: Span | None = None
) -> LocalGroup:
    return LocalGroup(config, weights_of(config, span or Span(0, config.layer_count)), cuts)


def hidden_of(engine: NumpyEngine, tokens: Sequence[int], base: int = 0) -> np.ndarray:
    output = engine.run([EngineInput(SESSION, base, tokens=tuple(tokens), layers=Span(0, 3))])[0]
    assert output.error is None, output.error
    return numbers_of(output.hidden)


CUTS = {
    "two of two heads": (tiny_config(), even_cuts(tiny_config(), 2)),
    "three of three heads": (THREE_HEADS, even_cuts(THREE_HEADS, 3)),
    "two of three heads": (THREE_HEADS, even_cuts(THREE_HEADS, 2)),
    "uneven": (THREE_HEADS, UNEVEN),
    "one": (THREE_HEADS, even_cuts(THREE_HEADS, 1)),
}


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CUTS)
def test_a_group_conforms(check: Callable[[suite.EngineSubject], None], name: str) -> None:
    config, cuts = CUTS[name]
    check(
        suite.EngineSubject(
            make=lambda span: group(cuts, config=config, span=span),
            layer_count=config.layer_count,
            vocabulary_size=config.vocabulary_size,
        )
    )


@pytest.mark.parametrize("name", CUTS)
def test_a_group_computes_what_one_engine_computes(name: str) -> None:
    config, cuts = CUTS[name]
    one, many = tiny_engine(config=config), group(cuts, config=config)
    for engine in (one, many):
        engine.open_cache(SESSION, 40)
    for base, tokens in ((0, PROMPT), (15, (5,)), (16, (7,)), (12, (1, 2))):
        np.testing.assert_allclose(
            hidden_of(many, tokens, base), hidden_of(one, tokens, base), rtol=1e-4, atol=1e-5
        )
    many.close()


def test_the_shards_of_a_layer_are_all_of_it_once() -> None:
    config = THREE_HEADS
    layer = weights_of(config, Span(0, 1)).layers[0]
    shards = [cut_layer(config, layer, cut) for cut in UNEVEN]
    matrices = ("qkv", "output", "gate_up", "down")
    for name in matrices:
        assert sum(getattr(each, name).size for each in shards) == getattr(layer, name).size
        assert not any(np.shares_memory(getattr(each, name), getattr(layer, name)) for each in shards)
    rows = np.random.default_rng(1).standard_normal((3, config.hidden_size)).astype(np.float32)
    parts = [swiglu(rows @ each.gate_up) @ each.down for each in shards]
    np.testing.assert_allclose(sum(parts), swiglu(rows @ layer.gate_up) @ layer.down, atol=1e-5)


@pytest.mark.parametrize(
    ("cuts", "rule"),
    [
        ((), "0 heads together"),
        ((ShardCut(range(0, 2), range(0, 40)),), "2 heads together; the model has 3"),
        ((ShardCut(range(0, 3), range(0, 39)),), "39 columns together"),
        ((UNEVEN[0], ShardCut(range(1, 3), range(7, 40))), "rank 1 has heads 1:3"),
        ((UNEVEN[0], ShardCut(range(2, 3), range(7, 7))), "rank 1 has columns 7:7"),
        ((ShardCut(range(0, 3, 2), range(0, 40)),), "rank 0 has heads"),
        ((ShardCut(range(0, 4), range(0, 40)),), "4 heads together"),
    ],
)
def test_a_cut_that_leaves_something_out_or_holds_it_twice_is_refused(
    cuts: tuple[ShardCut, ...], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        check_cuts(THREE_HEADS, cuts)


def test_more_ranks_than_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        even_cuts(THREE_HEADS, 4)
    with pytest.raises(ConfigError, match="not 0"):
        even_cuts(THREE_HEADS, 0)


def test_a_batch_is_added_up_in_one_round_for_each_half_of_a_layer() -> None:
    many = group(UNEVEN)
    for session in (SESSION, OTHER):
        many.open_cache(session, 40)
    many.run([EngineInput(SESSION, 0, tokens=PROMPT), EngineInput(OTHER, 0, tokens=(1, 2))])
    assert many.exchange.round_count == 2 * THREE_HEADS.layer_count
    many.close()


def test_a_member_without_room_fails_that_session_alone_and_the_ranks_stay_in_step() -> None:
    config, span = THREE_HEADS, Span(0, 4)
    one = tiny_engine(config=config)
    size = 2 * 4 * 1 * 20 * 8 * 4  # keys and values of 20 positions of the second rank's single head
    many = LocalGroup(config, weights_of(config, span), UNEVEN, member_size_bytes_max=size)
    one.open_cache(SESSION, 20)
    many.open_cache(SESSION, 20)
    many.open_cache(OTHER, 20)
    refused, fine = many.run(
        [
            EngineInput(OTHER, 0, tokens=PROMPT, layers=Span(0, 3)),
            EngineInput(SESSION, 0, tokens=PROMPT, layers=Span(0, 3)),
        ]
    )
    assert "not finite" in str(refused.error)
    assert fine.error is None
    np.testing.assert_allclose(numbers_of(fine.hidden), hidden_of(one, PROMPT), rtol=1e-4, atol=1e-5)
    assert "no cache here" in str(many.exchange.outputs[-1][0].error)
    np.testing.assert_allclose(
        hidden_of(many, (4,), len(PROMPT)), hidden_of(one, (4,), len(PROMPT)), rtol=1e-4, atol=1e-5
    )
    many.close()


def test_a_group_that_lost_a_rank_refuses_its_steps_and_keeps_no_position() -> None:
    many = group(UNEVEN)
    many.open_cache(SESSION, 40)

    def lost(part: object) -> np.ndarray:
        raise GroupBroken("peer abc is gone")

    many.exchange.add_up = lost  # type: ignore[method-assign]
    many.exchange.announce = lambda steps: None  # type: ignore[method-assign]
    output = many.run([EngineInput(SESSION, 0, tokens=PROMPT)])[0]
    assert output.error == "peer abc is gone"
    assert "beyond the 0 positions kept" in str(many.run([EngineInput(SESSION, 1, tokens=(1,))])[0].error)
    many.close()
