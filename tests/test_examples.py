"""Every example runs, and does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import events_and_queries, keep_and_find, one_peer, simulate_gossip, tensor_parallel, two_peers
from tests.e2e.conftest import TINY, tiny_cache

__all__ = ["tiny_cache"]

MODULES = (events_and_queries, keep_and_find, one_peer, simulate_gossip, tensor_parallel, two_peers)


@pytest.mark.e2e
async def test_one_peer(tiny_cache: Path) -> None:
    assert await one_peer.main("hello", TINY, cache_dir=str(tiny_cache))


@pytest.mark.e2e
async def test_two_peers(tiny_cache: Path) -> None:
    chain = await two_peers.main(TINY, 3, 6, cache_dir=str(tiny_cache))
    assert [hop["span"] for hop in chain] == ["0:3", "3:6"]


@pytest.mark.e2e
async def test_tensor_parallel(tiny_cache: Path) -> None:
    together = await tensor_parallel.main(TINY, 6, cache_dir=str(tiny_cache))
    assert together


async def test_events_and_queries() -> None:
    assert await events_and_queries.main() == ["door open", "21.5 degrees"]


async def test_keep_and_find() -> None:
    assert sorted(await keep_and_find.main()) == [
        "good day is its own",
        "held is hello again",
        "hello is the other's",
        "weather from the other",
    ]


def test_simulate_gossip() -> None:
    known = simulate_gossip.main()
    assert len(known) == 29
    assert known[-1] < 10.0


def test_no_example_is_forgotten() -> None:
    tested = {Path(module.__file__ or "").stem for module in MODULES}
    there = {path.stem for path in Path(one_peer.__file__ or "").parent.glob("*.py")} - {"__init__"}
    assert tested == there
