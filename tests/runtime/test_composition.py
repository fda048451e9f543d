"""How a node's settings become those of its cores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pinfer.config import NodeConfig, Profile
from p2pinfer.dht.news import AddressSeen
from p2pinfer.dht.remembered import CONTACTS_KEY
from p2pinfer.effects import Notify, Persist, Send
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.runtime import own_address
from p2pinfer.runtime.client_service import write_node_file
from p2pinfer.runtime.clock import Clock
from p2pinfer.runtime.composition import Parts, _core_config, compose
from p2pinfer.runtime.disk import Disk
from p2pinfer.runtime.home import open_home
from p2pinfer.runtime.sockets import open_sockets
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.dht import SavedContacts


def test_around_the_world_every_wait_is_longer() -> None:
    lan, wan = (_core_config(NodeConfig(profile=profile)) for profile in (Profile.LAN, Profile.WAN))
    assert wan.swim.probe_timeout_s > lan.swim.probe_timeout_s
    assert wan.entry.open_timeout_s >= 2 * lan.entry.open_timeout_s
    assert wan.entry.probe_timeout_s >= 2 * lan.entry.probe_timeout_s
    assert wan.entry.standing == lan.entry.standing


def test_without_reuse_nothing_is_remembered() -> None:
    assert _core_config(NodeConfig(reuse="off")).entry.parked_count_max == 0
    assert not _core_config(NodeConfig(reuse="prompts")).entry.reuse_answers


@contextmanager
def composed(directory: Path, **settings: Any) -> Iterator[Parts]:
    """A node that was put together and does not run."""
    config = NodeConfig(data_dir=directory, multicast=False, **settings)
    clock = Clock()
    home = open_home(directory, (), clock.now(), config.id_difficulty)
    with closing(Disk(directory / "state")) as disk, closing(open_sockets(config.listen)) as sockets:
        yield compose(config, home, clock, disk, sockets)


async def test_the_contacts_on_disk_are_candidates_after_a_restart(tmp_path: Path) -> None:
    known = Contact(PeerId(bytes(31) + b"1"), Endpoint("10.0.0.7", 7946))
    (tmp_path / "state").mkdir()
    with closing(Disk(tmp_path / "state")) as disk:
        await disk.write([Persist(CONTACTS_KEY, encode(SavedContacts((known,))))])
    with composed(tmp_path, listen=Endpoint("127.0.0.1", 0)) as parts:
        assert parts.core.dht.statistics()["contacts"] == 1
        asked = [effect.to for effect in parts.core.tick(parts.clock.now()) if isinstance(effect, Send)]
        assert known in asked
    with closing(Disk(tmp_path / "state")) as disk:
        await disk.write([Persist(CONTACTS_KEY, b"damaged")])
    with composed(tmp_path, listen=Endpoint("127.0.0.1", 0)) as parts:
        assert parts.core.dht.statistics()["saved_contacts_damaged"] == 1


def test_the_swarms_puzzle_reaches_the_table(tmp_path: Path) -> None:
    with composed(tmp_path, listen=Endpoint("127.0.0.1", 0), id_difficulty=6) as parts:
        assert parts.core.dht._config.id_difficulty == 6
        for number in range(200):
            peer = PeerId(bytes(30) + number.to_bytes(2, "big"))
            parts.core.dht.heard(Contact(peer, Endpoint("10.0.0.7", 1 + number)), parts.clock.now())
        assert parts.core.dht.statistics()["contacts"] < 20


def test_a_move_reaches_every_part_that_tells_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with composed(tmp_path, listen=Endpoint("0.0.0.0", 0)) as parts:
        told = parts.own_address.told
        write_node_file(parts.config.node_path, told, parts.home)
        moved = Endpoint("192.0.2.77", told.port)
        monkeypatch.setattr(own_address, "is_own_host", lambda host: host == moved.host)
        parts.planes.handle(Notify(AddressSeen(moved)))
        assert parts.own_address.told == moved
        assert parts.streams._doors._greeter._endpoint == moved
        assert parts.search.finder._own.endpoint == moved
        assert json.loads(parts.config.node_path.read_text())["endpoint"] == str(moved)
        (given,) = parts.driver._inbox
        given(parts.core, parts.clock.now())
        assert parts.core.contact.endpoint == parts.core.dht.contact.endpoint == moved
        parts.core.tick(parts.clock.now() + 60.0)
        assert parts.core.swim.record.endpoint == moved
