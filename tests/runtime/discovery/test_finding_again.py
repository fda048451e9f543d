"""Whole peers on the loopback that lost each other: the addresses they knew are dead."""

from __future__ import annotations

import functools
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer import open_peer
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.errors import PeerUnreachable
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime.discovery import setup
from p2pinfer.runtime.discovery.links import Links
from p2pinfer.runtime.peer import Peer
from tests.runtime.discovery.ways import LOOPBACK, free_port, skip_without_multicast

FREE = Endpoint("127.0.0.1", 0)


def config_of(directory: Path, listen: Endpoint = FREE, **changes: Any) -> NodeConfig:
    settings = {"listen": listen, "data_dir": directory, "profile": Profile.LOCAL, "multicast": False}
    return NodeConfig(**{**settings, **changes})


async def wait_until_met(peer: Peer, other: Peer) -> None:
    """Until a peer has another among the living, at the address where it is now."""
    with trio.fail_after(10):
        while True:
            told = peer.status()["peers"]
            if [str(other.endpoint)] == [each["endpoint"] for each in told if each["state"] == "alive"]:
                return
            await trio.lowlevel.checkpoint()


async def meet_and_part(tmp_path: Path) -> tuple[str, Endpoint, Endpoint]:
    """Let b join a, and both end; returns the invite and where they were."""
    async with open_peer(config_of(tmp_path / "a")) as a:
        assert a.invite is not None
        async with open_peer(config_of(tmp_path / "b", join=(a.invite,))) as b:
            await wait_until_met(a, b)
            return a.invite, a.endpoint, b.endpoint


async def test_a_peer_that_moved_finds_back_by_whom_it_remembers(tmp_path: Path) -> None:
    _, was_at, b_at = await meet_and_part(tmp_path)
    async with (
        open_peer(config_of(tmp_path / "b", b_at)) as b,
        open_peer(config_of(tmp_path / "a")) as a,
    ):
        assert a.endpoint != was_at
        await wait_until_met(a, b)
        await wait_until_met(b, a)


async def test_whom_it_remembers_is_tried_beside_the_addresses_given(tmp_path: Path) -> None:
    """The invite's address is dead, and the cache knows where the swarm is now."""
    invite, _, _ = await meet_and_part(tmp_path)
    async with open_peer(config_of(tmp_path / "a")) as a:
        cache = tmp_path / "b" / "peers.json"
        content = json.loads(cache.read_text())
        (entry,) = content["peers"]
        entry["endpoint"] = str(a.endpoint)
        cache.write_text(json.dumps(content))
        async with open_peer(config_of(tmp_path / "b", join=(invite,))) as b:
            await wait_until_met(b, a)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of this test's own, where multicast works."""
    port = free_port()
    skip_without_multicast(LOOPBACK, port)
    monkeypatch.setattr(setup, "Links", functools.partial(Links, port=port))


@pytest.mark.usefixtures("group")
async def test_both_moved_and_meet_on_the_local_network(tmp_path: Path) -> None:
    invite, _, _ = await meet_and_part(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "peers.json").unlink()
    async with (
        open_peer(config_of(tmp_path / "a", multicast=True)) as a,
        open_peer(config_of(tmp_path / "b", multicast=True, join=(invite,))) as b,
    ):
        await wait_until_met(b, a)
        await wait_until_met(a, b)
        searches = [peer.status()["statistics"]["search"] for peer in (a, b)]
        assert any(search.get("asked") for search in searches), "whichever heard the other first"


async def test_who_is_found_by_another_has_joined_as_well(tmp_path: Path) -> None:
    """A peer that has been there for long hears a newcomer first, whose own questions lead nowhere.

    With the profile wan no regular state exchange comes in time to help.
    """
    invite, was_at, _ = await meet_and_part(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "peers.json").unlink()
    config = config_of(tmp_path / "b", join=(invite,), bootstrap=(was_at,), profile=Profile.WAN)

    async def find_b(a: Peer) -> None:
        while not config.node_path.exists():
            await trio.lowlevel.checkpoint()
        node = json.loads(config.node_path.read_text())
        b = Contact(PeerId(bytes.fromhex(node["peer_id"])), Endpoint.parse(node["endpoint"]))
        await a._parts.driver.call(lambda core, now: (None, core.hint([b], now)))

    async with open_peer(config_of(tmp_path / "a")) as a, trio.open_nursery() as nursery:
        nursery.start_soon(find_b, a)
        async with open_peer(config) as b:
            await wait_until_met(b, a)


@pytest.mark.usefixtures("group")
async def test_multicast_gives_no_right_to_join(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who starts without an invite founds a swarm of its own, and is told what to do instead."""
    with caplog.at_level(logging.INFO):
        async with (
            open_peer(config_of(tmp_path / "a", multicast=True)) as a,
            open_peer(config_of(tmp_path / "stranger", multicast=True)) as stranger,
        ):
            swarm = a.status()["swarm"][:8]

            def said() -> list[str]:
                lines = [record.getMessage() for record in caplog.records]
                return [line for line in lines if f"swarm {swarm} announces itself" in line]

            with trio.fail_after(10):
                while not said():
                    await trio.lowlevel.checkpoint()
            assert stranger.status()["peers"] == []
    assert len(said()) == 1
    assert "invite" in said()[0]


async def test_without_any_other_way_who_was_told_to_join_hears_why_not(tmp_path: Path) -> None:
    invite, was_at, _ = await meet_and_part(tmp_path)
    async with open_peer(config_of(tmp_path / "a")):
        with pytest.raises(PeerUnreachable, match=f"no peer answers at {was_at}: check"):
            async with open_peer(config_of(tmp_path / "b", join=(invite,))):
                pass


class Names:
    """The system's resolver, for a name with a dead address and a good one."""

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> list[Any]:
        hosts = ["127.0.0.99", "127.0.0.1"] if host == b"peers.swarm.svc" else [host]
        return [
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", (each, int(port or 0))) for each in map(_text, hosts)
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise OSError("nobody asks for names")


def _text(host: Any) -> str:
    return host.decode() if isinstance(host, bytes) else str(host)


async def test_a_name_leads_to_the_swarm_although_no_address_is_right(tmp_path: Path) -> None:
    invite, _, _ = await meet_and_part(tmp_path)
    async with open_peer(config_of(tmp_path / "a")) as a:
        trio.socket.set_custom_hostname_resolver(Names())  # type: ignore[arg-type]
        name = Endpoint("peers.swarm.svc", a.endpoint.port)
        async with open_peer(config_of(tmp_path / "b", join=(invite,), bootstrap=(name,))) as b:
            await wait_until_met(b, a)


async def test_two_members_that_are_alone_meet_by_one_address(tmp_path: Path) -> None:
    """Nothing is remembered, and the invite's address is dead; the address need not be in an invite."""
    _, _, b_at = await meet_and_part(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "peers.json").unlink()
    async with (
        open_peer(config_of(tmp_path / "b", b_at)) as b,
        open_peer(config_of(tmp_path / "a", bootstrap=(b_at,))) as a,
    ):
        await wait_until_met(a, b)
        await wait_until_met(b, a)
