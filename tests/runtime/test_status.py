"""What a status says of a hop's memory and of a swarm's layers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer import open_peer
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.engine.api import Engine
from p2pinfer.errors import ModelNotFound
from p2pinfer.ids import Contact, Endpoint, Span
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.hop_core import HopCore
from p2pinfer.loading import load_engine
from p2pinfer.models.store import ModelStore
from p2pinfer.runtime import serving
from p2pinfer.runtime.client import connect
from p2pinfer.runtime.progress import Progress
from p2pinfer.runtime.status import coverage, hop_status
from p2pinfer.wire.messages.records import Holding
from tests.models.tiny import write_tiny_llama

LOOPBACK = Endpoint("127.0.0.1", 0)


def holding(start: int, end: int, model: str = "m:latest") -> Holding:
    return Holding(
        model=model, digest=model.encode().ljust(32), layer_count=6, start=start, end=end, step_us=0
    )


def test_a_swarm_tells_which_layers_it_lacks_and_how_often_it_has_the_others() -> None:
    (model,) = coverage([holding(0, 3), None, holding(2, 5), holding(0, 1)])
    assert (model["model"], model["layer_count"], model["holders_min"]) == ("m:latest", 6, 0)
    assert model["spans"] == [
        {"span": "0:1", "holders": 2},
        {"span": "1:2", "holders": 1},
        {"span": "2:3", "holders": 2},
        {"span": "3:5", "holders": 1},
        {"span": "5:6", "holders": 0},
    ]


def test_layers_that_are_still_loaded_are_not_held_yet() -> None:
    (model,) = coverage([replace(holding(0, 6), loading=True), holding(0, 2)])
    assert model["spans"] == [{"span": "0:2", "holders": 1}, {"span": "2:6", "holders": 0}]


def test_each_model_is_told_by_itself() -> None:
    models = coverage([holding(0, 6, "b:1"), holding(0, 6, "a:1"), holding(0, 6, "b:1")])
    assert [(each["model"], each["holders_min"]) for each in models] == [("a:1", 1), ("b:1", 2)]
    assert coverage([]) == []


def test_a_hop_says_what_it_keeps_and_what_it_refused() -> None:
    statistics = {"sessions": 2, "waiting_steps": 1, "step_s": 0.0125, "reserved_bytes": 512, "opened": 9}
    told = hop_status({**statistics, "refused_overloaded": 3, "used_bytes": 128, "parked": 4}, 1024)
    assert told["kv_cache"] == {
        "used_bytes": 128,
        "used_percent": 12.5,
        "reserved_bytes": 512,
        "reserved_percent": 50.0,
        "budget_bytes": 1024,
    }
    assert told["refused"] == {"overloaded": 3}
    assert (told["sessions"], told["sessions_parked"], told["step_ms"]) == (2, 4, 12.5)


def test_a_hop_that_counts_less_is_described_all_the_same() -> None:
    hop = HopCore(me=Contact(None, LOOPBACK), config=HopConfig())
    told = hop_status(hop.statistics(), 1024)
    assert (told["sessions"], told["step_ms"], told["refused"]) == (0, None, {})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, hidden=32, heads=2, kv_heads=2, seed=1)
    ModelStore(tmp_path / "cache" / "models").import_file(path, "tiny")
    return tmp_path / "cache"


def config_of(tmp_path: Path, cache: Path, model: str = "tiny") -> NodeConfig:
    return NodeConfig(
        listen=LOOPBACK,
        data_dir=tmp_path / "node",
        cache_dir=cache,
        model=model,
        pull=False,
        profile=Profile.LOCAL,
    )


async def test_a_node_tells_that_it_serves_and_what_it_computed(tmp_path: Path, cache: Path) -> None:
    told: list[Progress] = []
    async with open_peer(config_of(tmp_path, cache), on_progress=told.append) as peer:
        assert [each.done for each in told] == list(range(1, told[-1].total + 1))
        assert {(each.work, each.unit) for each in told} == {("loading layers 0:2 of tiny:latest", "tensors")}
        async for _ in peer.generate("hello", raw=True):
            pass
        status = peer.status()
        assert (status["phase"], status["progress"], status["prompts"]) == ("serving", None, [])
        assert status["models"][0]["spans"] == [{"span": "0:2", "holders": 1}]
        assert status["batches"]["sizes"].keys() == {"1"}
        assert status["speed"]["decode_tokens_per_s"]["last_10_s"] > 0
        assert status["speed"]["prefill_tokens_per_s"]["last_10_s"] > 0


async def test_every_key_is_on_the_page_of_the_command_line(tmp_path: Path, cache: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    async with open_peer(config_of(tmp_path, cache)) as peer:
        status = peer.status()
    parts = [status, status["kv_cache"], status["batches"], status["speed"], status["recoveries"]]
    keys = {key for part in (*parts, *status["models"]) for key in part}
    assert {key for key in keys if f"`{key}`" not in page} == {"used_percent", "reserved_percent"}


async def test_a_node_that_loads_can_be_asked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, cache)
    was_asked = threading.Event()

    def load_when_asked(path: Path, span: Span, *, progress: Callable[[int, int], None], **_: Any) -> Engine:
        progress(34, 100)
        assert was_asked.wait(20)
        return load_engine(path, span)

    async def ask() -> None:
        async with connect(config.data_dir) as client:
            seen.append(await client.status())
        was_asked.set()

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(serving, "load_engine", load_when_asked)
    async with (
        trio.open_nursery() as nursery,
        open_peer(config, on_progress=lambda _: nursery.start_soon(ask)) as peer,
    ):
        assert peer.status()["phase"] == "serving"
    (status,) = seen
    assert (status["phase"], status["span"]) == ("loading", None)
    assert status["progress"]["percent"] == 34.0
    assert {"sessions", "kv_cache", "speed", "models"} <= status.keys()


async def test_no_pull_refuses_and_says_how_to_get_the_model(tmp_path: Path, cache: Path) -> None:
    config = config_of(tmp_path, cache, model="smollm2:135m")
    with pytest.raises(ModelNotFound, match="p2pinfer model pull smollm2:135m"):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(open_peer(config))
    assert not config.node_path.exists()


def test_spans_are_written_as_the_command_line_takes_them() -> None:
    (model,) = coverage([holding(0, 6)])
    assert Span.parse(model["spans"][0]["span"]) == Span(0, 6)
