"""A machine whose address changes while its node runs: its owner hears of it, once."""

from __future__ import annotations

import logging

import pytest
import trio

from p2pinfer.config import NodeConfig
from p2pinfer.ids import Endpoint
from p2pinfer.runtime import own_address
from p2pinfer.runtime.own_address import LOOK_INTERVAL_S, watch_own_address

TOLD = Endpoint("192.0.2.5", 7946)


async def warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: NodeConfig, *hosts: str | None
) -> list[str]:
    """What is said while the machine has these addresses, one after the other."""
    left = list(hosts)
    monkeypatch.setattr(own_address, "outbound_host", lambda _: left.pop(0) if len(left) > 1 else left[0])
    with caplog.at_level(logging.WARNING), trio.move_on_after(LOOK_INTERVAL_S * (len(hosts) + 3)):
        await watch_own_address(config, TOLD)
    return [record.getMessage() for record in caplog.records]


async def test_another_address_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    told = await warnings(monkeypatch, caplog, NodeConfig(), TOLD.host, None, TOLD.host, "192.0.2.9")
    assert len(told) == 1
    assert "192.0.2.9" in told[0]
    assert "restart the node" in told[0]


async def test_the_old_address_is_welcome_and_no_route_is_no_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    hosts = ("192.0.2.9", TOLD.host, None)
    assert len(await warnings(monkeypatch, caplog, NodeConfig(), *hosts)) == 1


@pytest.mark.parametrize(
    "config", [NodeConfig(advertise=TOLD), NodeConfig(listen=Endpoint("127.0.0.1", 7946))]
)
async def test_an_address_set_by_hand_is_its_owners_business(
    config: NodeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await warnings(monkeypatch, caplog, config, "192.0.2.9") == []
