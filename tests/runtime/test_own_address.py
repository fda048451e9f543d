"""A machine whose address changes while its node runs: the swarm is told, unless somebody set it by hand."""

from __future__ import annotations

import logging

import pytest
import trio

from p2pinfer.addresses import is_own_host
from p2pinfer.config import NodeConfig
from p2pinfer.ids import Endpoint
from p2pinfer.runtime import own_address
from p2pinfer.runtime.own_address import LOOK_INTERVAL_S, OwnAddress

TOLD = Endpoint("192.0.2.5", 7946)
MOVED = Endpoint("192.0.2.9", 7946)
BY_HAND = [NodeConfig(advertise=TOLD), NodeConfig(listen=Endpoint("127.0.0.1", 7946))]


class Machine:
    """A node on a machine with these addresses; the first is the one towards the internet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: NodeConfig, *hosts: str) -> None:
        self.hosts = list(hosts)
        self.moves: list[Endpoint] = []
        self.node = OwnAddress(config, TOLD, self.moves.append)
        self._changes: list[list[str]] = []
        monkeypatch.setattr(own_address, "outbound_host", lambda _: self._look())
        monkeypatch.setattr(own_address, "is_own_host", lambda host: host in self.hosts)

    async def live(self, *changes: list[str]) -> None:
        """Look at the machine as it is, and after each change."""
        self._changes = [self.hosts, *changes]
        with trio.move_on_after(LOOK_INTERVAL_S * (len(changes) + 2.5)):
            await self.node.run()

    def _look(self) -> str | None:
        if self._changes:
            self.hosts = self._changes.pop(0)
        return self.hosts[0] if self.hosts else None


async def test_a_machine_that_moved_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine(monkeypatch, NodeConfig(), TOLD.host)
    with caplog.at_level(logging.WARNING):
        await machine.live([], [MOVED.host], [MOVED.host])
    assert machine.moves == [MOVED]
    assert machine.node.told == MOVED
    assert len(caplog.records) == 1
    assert "moved from 192.0.2.5:7946 to 192.0.2.9:7946" in caplog.text


async def test_there_and_back_are_two_moves(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine(monkeypatch, NodeConfig(), TOLD.host)
    await machine.live([MOVED.host], [TOLD.host])
    assert machine.moves == [MOVED, TOLD]


async def test_a_vpn_beside_the_old_address_is_no_move(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine(monkeypatch, NodeConfig(), TOLD.host)
    await machine.live(["10.8.0.2", TOLD.host], [TOLD.host], [])
    machine.hosts = ["10.8.0.2", TOLD.host]
    machine.node.seen(Endpoint("10.8.0.2", 7946))
    assert machine.moves == []


@pytest.mark.parametrize("config", BY_HAND)
async def test_an_address_set_by_hand_is_its_owners_business(
    config: NodeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine(monkeypatch, config, MOVED.host)
    await machine.live([MOVED.host])
    assert caplog.records == []
    machine.node.seen(Endpoint("198.51.100.7", 7946))
    assert machine.moves == []
    assert "others see this node at 198.51.100.7:7946" in caplog.text


def test_what_others_see_is_told_if_this_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, NodeConfig(), MOVED.host)
    machine.node.seen(MOVED)
    assert machine.moves == [MOVED]


@pytest.mark.parametrize("seen", [Endpoint("198.51.100.7", 7946), Endpoint(MOVED.host, 40_000)])
def test_what_others_see_of_a_nat_is_said_to_its_owner_once_with_the_remedy(
    seen: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(monkeypatch, NodeConfig(), MOVED.host)
    for _ in range(3):
        machine.node.seen(seen)
    assert machine.moves == []
    assert len(caplog.records) == 1
    assert f"--advertise {seen.host}:7946" in caplog.text
    assert "pass UDP and TCP port 7946" in caplog.text


def test_this_machine_has_the_loopback_and_no_address_for_documents() -> None:
    assert is_own_host("127.0.0.1")
    assert not is_own_host("192.0.2.5")
    assert not is_own_host("2001:db8::5")
    assert not is_own_host("no address")
