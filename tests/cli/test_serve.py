"""Running a node in the foreground: what it says and how signals end it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2pinfer.cli.serve import chosen_settings, greeting, make_parser, serve
from p2pinfer.config import NodeConfig, load_config
from p2pinfer.ids import Endpoint
from p2pinfer.runtime.progress import OnProgress, Progress

STATUS = {"peer": "aa" * 32, "endpoint": "10.0.0.1:7946", "model": "smollm2:135m", "span": "0:15"}


class Served:
    """A peer that writes down what happens to it."""

    invite = "p2pinfer:secret"

    def __init__(self, signals: int, *, leaves_quickly: bool = True) -> None:
        self.told: list[str] = []
        self._signals = signals
        self._leaves_quickly = leaves_quickly

    def status(self) -> dict[str, Any]:
        return dict(STATUS)

    async def wait_closed(self) -> None:
        if not self._signals:
            return
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    @asynccontextmanager
    async def open(self, config: NodeConfig, *, on_progress: OnProgress) -> AsyncIterator[Served]:
        on_progress(Progress("loading layers", 1, 2, "tensors"))
        self.told.append(f"opened {config.name}")
        try:
            yield self
            self.told.append("leaving")
            if not self._leaves_quickly:
                signal.raise_signal(signal.SIGTERM)
                await trio.sleep_forever()
            self.told.append("left")
        finally:
            self.told.append("closed")


async def test_a_node_runs_until_its_peer_ends(capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(0)
    await serve(served.open, NodeConfig(name="cellar"))
    assert served.told == ["opened cellar", "leaving", "left", "closed"]
    out, err = capsys.readouterr()
    assert "--join p2pinfer:secret" in out
    assert err == "loading layers: 50 %, 1 of 2 tensors\n"


async def test_the_first_signal_lets_the_peer_leave() -> None:
    served = Served(1)
    await serve(served.open, NodeConfig())
    assert served.told[1:] == ["leaving", "left", "closed"]


async def test_the_second_signal_does_not_wait() -> None:
    served = Served(2, leaves_quickly=False)
    await serve(served.open, NodeConfig())
    assert served.told[1:] == ["leaving", "closed"]


async def test_a_signal_while_the_peer_starts_ends_it() -> None:
    @asynccontextmanager
    async def slow_start(config: NodeConfig, *, on_progress: OnProgress) -> AsyncIterator[Served]:
        signal.raise_signal(signal.SIGTERM)
        await trio.Event().wait()
        yield Served(0)

    await serve(slow_start, NodeConfig())


def test_the_greeting_says_where_and_what_and_how_to_join() -> None:
    assert greeting(STATUS, None) == [
        "node aaaaaaaa listens at 10.0.0.1:7946 and serves layers 0:15 of smollm2:135m"
    ]
    assert greeting({**STATUS, "name": "cel\x1blar", "span": None}, "p2pinfer:x")[0] == (
        "node cellar listens at 10.0.0.1:7946 and holds no layers"
    )


def test_flags_become_settings_and_only_those_given() -> None:
    line = ["--listen", "127.0.0.1:0", "--join", "p2pinfer:a", "--join", "b:1", "--cache-size", "2GiB"]
    chosen = chosen_settings(make_parser().parse_args(line))
    assert set(chosen) == {"listen", "join", "cache_size_bytes_max"}
    assert load_config(None, chosen_settings(make_parser().parse_args(["--no-pull"]))).pull is False
    config = load_config(None, chosen)
    assert config.listen == Endpoint("127.0.0.1", 0)
    assert config.join == ("p2pinfer:a", "b:1")
    assert config.cache_size_bytes_max == 2 << 30
