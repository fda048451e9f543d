"""The keyring of running peers on the loopback: rotated while they talk, kept on disk, refused to others."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.config import NodeConfig, Profile
from p2pinfer.errors import CertificateError, ConfigError, UnavailableError
from p2pinfer.identity import Verifier
from p2pinfer.ids import Endpoint
from p2pinfer.runtime import keyring as runtime_keyring
from p2pinfer.runtime.client import connect
from p2pinfer.runtime.home import load_keyring, open_home
from p2pinfer.runtime.peer import Peer, open_peer

LOOPBACK = Endpoint("127.0.0.1", 0)
NOW = 1_800_000_000.0


def config_of(directory: Path, *join: str) -> NodeConfig:
    return NodeConfig(listen=LOOPBACK, data_dir=directory, profile=Profile.LOCAL, join=join)


@asynccontextmanager
async def swarm_of(directory: Path, count: int) -> AsyncIterator[list[Peer]]:
    """The founder and those who joined it, once all see all."""
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(open_peer(config_of(directory / "0")))]
            for number in range(1, count):
                assert peers[0].invite is not None
                config = config_of(directory / str(number), peers[0].invite)
                peers.append(await stack.enter_async_context(open_peer(config)))
            await wait_until(lambda: all(alive_count(peer) == count for peer in peers), timeout_s=20)
            yield peers


def alive_count(peer: Peer) -> int:
    return 1 + sum(1 for other in peer.status()["peers"] if other["state"] == "alive")


def refused(peer: Peer) -> dict[str, int]:
    """What a peer dropped because of keys."""
    counts: dict[str, int] = peer.status()["statistics"]["datagrams"]
    kinds = ("UnknownKey", "Unsealed", "SealError")
    return {kind: counts[f"dropped: {kind}"] for kind in kinds if f"dropped: {kind}" in counts}


def version_of(peer: Peer) -> int:
    version: int = peer.status()["statistics"]["keyring"]["version"]
    return version


async def test_keys_are_rotated_while_the_peers_run_and_no_datagram_is_lost(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, 3) as peers:
        founder = peers[0]
        before = await founder.keyring.list()
        assert (before["version"], before["members_behind"]) == (1, 0)
        assert before["keys"] == [before["in_use"]]
        early = [refused(peer) for peer in peers]
        after = await founder.keyring.rotate()
        assert (after["version"], after["members_behind"]) == (4, 0)
        assert after["keys"] == [after["in_use"]] != before["keys"]
        assert [version_of(peer) for peer in peers] == [4, 4, 4]
        received = [peer.status()["statistics"]["datagrams"]["received"] for peer in peers]

        def all_heard_more() -> bool:
            counts = [peer.status()["statistics"]["datagrams"]["received"] for peer in peers]
            return all(now > then + 10 for now, then in zip(counts, received, strict=True))

        await wait_until(all_heard_more, timeout_s=20)
        assert [refused(peer) for peer in peers] == early
        assert all(alive_count(peer) == 3 for peer in peers)
        assert all(peer.status()["statistics"]["swim"]["members_dead"] == 0 for peer in peers)


async def test_a_ring_is_kept_for_its_owner_alone_and_a_restart_needs_nobody(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, 2) as peers:
        rotated = await peers[0].keyring.rotate()
    for number in range(2):
        (path,) = (tmp_path / str(number) / "state").glob("keyring*")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with open_peer(config_of(tmp_path / str(number))) as peer:  # the other is not there
            alone = await peer.keyring.list()
        assert (alone["version"], alone["in_use"]) == (4, rotated["in_use"])


async def test_only_the_owners_node_changes_keys_and_says_who_does(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, 2) as (founder, other):
        with pytest.raises(ConfigError, match="where the swarm was founded"):
            await other.keyring.rotate()
        async with connect(tmp_path / "1", node=founder.endpoint) as client:
            assert (await client.keyring("list"))["version"] == 1
            for action in ("install", "rotate", "use", "remove"):
                with pytest.raises(CertificateError, match="only the swarm's owner"):
                    await client.keyring(action, "00000000")
        async with connect(tmp_path / "1") as client:
            with pytest.raises(ConfigError, match="where the swarm was founded"):
                await client.keyring("install")
        async with connect(tmp_path / "0") as client:
            installed = await client.keyring("install")
            assert len(installed["keys"]) == 2
            with pytest.raises(ConfigError, match="is listed"):
                await client.keyring("forge")
        await wait_until(lambda: version_of(other) == 2, timeout_s=20)


async def test_a_wrong_step_is_refused_with_its_remedy(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, 2) as (founder, _):
        keyring = founder.keyring
        first = (await keyring.list())["in_use"]
        with pytest.raises(ConfigError, match="use another one first"):
            await keyring.remove(first)
        with pytest.raises(ConfigError, match="name one of them"):
            await keyring.use("00000000")
        with pytest.raises(ConfigError, match="is no key's id"):
            await keyring.use("first")
        for _ in range(3):
            made = await keyring.install()
        with pytest.raises(ConfigError, match="remove one first"):
            await keyring.install()
        await keyring.use(made["keys"][2])
        await keyring.remove(first)
        assert (await keyring.rotate())["keys"] == [made["keys"][-1]], "what was installed is not wasted"


async def test_use_waits_for_members_and_is_refused_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_keyring, "SURVEY_S", 0.3)
    async with swarm_of(tmp_path, 2) as (founder, other):
        deaf(other, monkeypatch)
        made = await founder.keyring.install()
        with pytest.raises(UnavailableError, match=r"1 of 1 members \(.*\) do not have version 2") as refusal:
            await founder.keyring.use(made["keys"][-1])
        assert other.id.short in str(refusal.value)
        assert (await founder.keyring.list())["members_behind"] == 1
        monkeypatch.undo()
        used = await founder.keyring.use(made["keys"][-1], force=True)
        assert used["in_use"] == made["keys"][-1]
        await wait_until(lambda: version_of(other) == 3, timeout_s=20)
        assert alive_count(founder) == alive_count(other) == 2


def deaf(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a peer take no notice of keyrings, as one that is overloaded."""

    def ignore(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(type(peer._parts.core.keyring), "receive", ignore)


async def test_a_peer_that_was_away_during_the_whole_rotation_catches_up(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_peer(config_of(tmp_path / "0")) as founder:
            invite = founder.invite
            assert invite is not None
            async with open_peer(config_of(tmp_path / "1", invite)) as away:
                await wait_until(lambda: alive_count(founder) == alive_count(away) == 2, timeout_s=20)
                first = (await founder.keyring.rotate())["keys"]
            await wait_until(lambda: alive_count(founder) == 1, timeout_s=20)
            rotated = await founder.keyring.rotate()
            assert (rotated["version"], first[0] in rotated["keys"]) == (7, False)
            async with open_peer(config_of(tmp_path / "1", str(founder.endpoint))) as back:
                await wait_until(lambda: version_of(back) == 7, timeout_s=20)
                await wait_until(lambda: alive_count(founder) == alive_count(back) == 2, timeout_s=20)


def test_the_first_keyring_follows_from_the_owners_key(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a", [], NOW)
    first = load_keyring(home, None, Verifier())
    assert first is not None
    assert first == load_keyring(home, b"damaged", Verifier())
    assert first.is_sound(home.swarm.id)
    stranger = open_home(tmp_path / "b", [], NOW)
    other = load_keyring(stranger, None, Verifier())
    assert other is not None
    assert other.keys != first.keys
    assert first.keys[0] not in (tmp_path / "a" / "owner.key").read_bytes()
