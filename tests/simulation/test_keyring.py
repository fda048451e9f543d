"""Rotation of a whole swarm's keys under faults, with real signatures and seals."""

from __future__ import annotations

from typing import Any

import pytest

from p2pinfer.effects import Send
from p2pinfer.errors import SealError
from p2pinfer.identity import unseal
from p2pinfer.ids import Contact
from p2pinfer.swim.news import MemberDead, MemberSuspected
from p2pinfer.swim.rotation import install_key
from p2pinfer.testing import Link, World, run_seeds
from p2pinfer.testing.rules import Packet
from p2pinfer.wire.envelope import _nonce, _read
from p2pinfer.wire.messages.keyring import KeyringReply, KeyringRequest
from p2pinfer.wire.messages.swim import Gossip, Ping
from tests.simulation.sealed_swarm import (
    NEW,
    OLD,
    OWNER,
    SWARM,
    V1,
    V2,
    V3,
    V4,
    Datagram,
    SealedSwarm,
    contact,
    envelopes_of,
)
from tests.swim.swarm import run_until

HERE = "tests.simulation.test_keyring"
STEPS = (V2, V3, V4)
PING = Ping(sequence=1, gossip=Gossip())


def formed(world: World, count: int, *, within_s: float = 30.0) -> SealedSwarm:
    swarm = SealedSwarm(world, count)
    assert run_until(world, lambda: swarm.all_alive(range(count)), within_s, 0.5), "the swarm did not form"
    assert swarm.versions() == {1}
    return swarm


def news_of(swarm: SealedSwarm, kind: type, since: float) -> list[Any]:
    return [
        item
        for host in swarm.hosts
        for at, item in host.log.notices
        if isinstance(item, kind) and at >= since
    ]


def lossy(world: World) -> None:
    world.network.link = Link(loss=0.1, duplicate=0.02, reorder=0.1)
    swarm = formed(world, 30)
    began = world.now
    for keyring in STEPS:
        before = swarm.refused("UnknownKey"), swarm.refused("Unsealed"), swarm.refused("SealError")
        swarm.publish(keyring)
        assert swarm.wait_acknowledged() < 10.0
        assert swarm.versions() == {keyring.version}
        world.run_for(5.0)
        after = swarm.refused("UnknownKey"), swarm.refused("Unsealed"), swarm.refused("SealError")
        assert after == before, "a step that waits for all loses not one datagram"
    assert news_of(swarm, MemberDead, began) == []
    assert swarm.all_alive(range(30)) or run_until(world, lambda: swarm.all_alive(range(30)), 30.0, 0.5)


def test_thirty_peers_rotate_under_loss_and_no_datagram_stays_closed() -> None:
    run_seeds(lossy, range(1), f"{HERE}:lossy")


def forced(world: World) -> None:
    """An owner that waits for nobody: each member catches up by itself, within seconds."""
    swarm = formed(world, 12)
    for keyring in STEPS:
        swarm.publish(keyring)
    assert run_until(world, lambda: swarm.versions() == {4}, 5.0)
    assert run_until(world, lambda: swarm.all_alive(range(12)), 20.0, 0.5)
    refused = swarm.refused("UnknownKey")
    world.run_for(10.0)
    assert swarm.refused("UnknownKey") == refused


def test_three_versions_at_once_cost_seconds() -> None:
    run_seeds(forced, range(4), f"{HERE}:forced")


def parted(world: World) -> None:
    """A third of the swarm is cut off through the whole rotation."""
    swarm = formed(world, 12)
    far, near = range(8, 12), range(8)
    cut = world.network.partition([f"p{i}" for i in far], [f"p{i}" for i in near])
    world.run_for(30.0)
    for keyring in STEPS:
        swarm.publish(keyring)
        assert run_until(world, lambda: swarm.versions(near) == {keyring.version}, 20.0)  # noqa: B023
        world.run_for(5.0)
    assert swarm.versions(far) == {1}
    assert swarm.all_alive(far), "among themselves they go on with what they have"
    world.network.heal(cut)
    assert run_until(world, lambda: swarm.versions() == {4}, 20.0)
    assert run_until(world, lambda: swarm.all_alive(range(12)), 60.0, 0.5)


def test_those_behind_a_partition_catch_up_when_it_heals() -> None:
    run_seeds(parted, range(2), f"{HERE}:parted")


def asleep(world: World) -> None:
    swarm = formed(world, 8)
    rest = [0, 1, 2, 3, 4, 6, 7]
    swarm.hosts[5].pause()
    assert run_until(world, lambda: swarm.all_alive(rest), 120.0, 0.5)
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    world.run_for(world.rng("sleep").uniform(0, 60))
    assert swarm.versions([5]) == {1}
    swarm.hosts[5].resume()
    assert run_until(world, lambda: swarm.versions() == {4}, 20.0)
    assert run_until(world, lambda: swarm.all_alive(range(8)), 60.0, 0.5)


def test_one_that_slept_through_it_all_comes_back() -> None:
    run_seeds(asleep, range(4), f"{HERE}:asleep")


def crashed(world: World) -> None:
    """Peers crash at any time of a rotation, in the middle of a write too, and the owner's node with them."""
    swarm = formed(world, 6)
    rng = world.rng("crashes")
    for keyring in STEPS:
        swarm.publish(keyring)
        for index in rng.sample(range(6), 3):
            world.run_for(rng.uniform(0.0, 0.05))
            swarm.hosts[index].crash(torn=rng.random() < 0.5)
        for host in swarm.hosts:
            if not host.up:
                host.start()
        if keyring.version not in swarm.versions():  # it crashed before it was on disk: nobody had it
            swarm.publish(keyring)
        assert run_until(world, lambda: swarm.versions() == {keyring.version}, 60.0)  # noqa: B023
    assert run_until(world, lambda: swarm.all_alive(range(6)), 120.0, 0.5)
    world.network.isolate("p3")
    swarm.hosts[3].restart()
    assert swarm.versions([3]) == {4}, "a restart needs nobody"


def test_crashes_in_a_rotation_lose_no_version() -> None:
    run_seeds(crashed, range(6), f"{HERE}:crashed")


def test_who_joins_after_a_rotation_gets_the_keys_with_its_first_state_exchange() -> None:
    world = World(5)
    swarm = formed(world, 5)
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    swarm.add(5)
    assert run_until(world, lambda: swarm.versions() == {4}, 1.0)
    assert run_until(world, lambda: swarm.all_alive(range(6)), 10.0, 0.5)
    assert swarm.refused("SealError") == 0


def open_bodies(captured: list[bytes], key: bytes) -> int:
    """How many of these datagrams somebody with this key can read."""
    count = 0
    for data in captured:
        body = _read(data)[4]
        header = data[: len(data) - len(body) - (2 if len(body) < 256 else 3) - 66]
        try:
            unseal(key, _nonce(header), body[4:], b"p2pinfer datagram v1\x00" + SWARM.id + header)
        except SealError:
            continue
        count += 1
    return count


def test_whoever_has_the_removed_key_reads_nothing_more() -> None:
    world = World(6)
    captured: list[bytes] = []

    def listen(packet: Packet) -> None:
        if isinstance(packet.message, Datagram):
            captured.append(packet.message.data)

    swarm = formed(world, 6)
    world.network.add_rule(listen)
    world.run_for(5.0)
    assert len(captured) > 20
    assert open_bodies(captured, OLD) == len(captured), "with the key it is easy"
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    world.run_for(1.0)
    captured.clear()
    world.run_for(20.0)
    assert len(captured) > 100
    assert open_bodies(captured, OLD) == 0
    assert open_bodies(captured, NEW) == len(captured)


def test_whoever_has_the_removed_key_is_not_heard_even_with_a_stolen_membership() -> None:
    world = World(7)
    swarm = formed(world, 4)
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    thief = envelopes_of(3, V2)
    peer, somewhere = swarm.hosts[1].core, contact(200).endpoint
    received_before = dict(peer.core.statistics()["swim"])
    for _ in range(20):
        stolen = Datagram(thief.seal(PING, world.now + 30.0))
        effects = peer.receive(Contact(None, somewhere), stolen, world.now)
        sends = [each for each in effects if isinstance(each, Send)]
        assert all(each.to == contact(3) for each in sends), "whoever it claims to be is asked, at its place"
        assert all(isinstance(each.message, KeyringRequest) for each in sends)
    assert peer.refused["UnknownKey"] >= 20
    assert dict(peer.core.statistics()["swim"]) == received_before
    unsealed = Datagram(envelopes_of(3).seal(PING, world.now + 31.0))
    peer.receive(Contact(None, somewhere), unsealed, world.now)
    assert peer.refused["Unsealed"] == 1
    world.run_for(5.0)
    assert swarm.all_alive(range(4)), "and nobody is harmed"


@pytest.mark.parametrize("seed", range(2))
def test_old_versions_that_are_played_back_change_nothing(seed: int) -> None:
    world = World(seed)
    swarm = formed(world, 5)
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    for host in swarm.hosts:
        for old in (V1, V2, V3):
            host.hear(contact(4), KeyringReply(notice=old.notice, keyring=old))
            host.hear(contact(4), KeyringRequest(notice=old.notice))
            world.run_for(0.1)
    assert swarm.versions() == {4}
    world.run_for(10.0)
    assert swarm.versions() == {4}
    assert swarm.all_alive(range(5))


def test_a_fork_is_reported_and_ended_by_the_next_version() -> None:
    """Two copies of the owner's data directory each make a version 2."""
    world = World(9)
    swarm = formed(world, 6)
    other = install_key(V1, b"x" * 32, OWNER.sign_statement)
    cut = world.network.partition([f"p{i}" for i in range(3)], [f"p{i}" for i in range(3, 6)])
    swarm.publish(V2)
    swarm.hosts[3].call(lambda peer, now: peer.publish(other, now))
    assert run_until(world, lambda: swarm.versions() == {2}, 10.0)
    world.network.heal(cut)
    world.run_for(60.0)
    reports = [each for host in swarm.hosts for each in host.log.misbehaved]
    assert reports
    assert {peer for _, peer, _ in reports} == {OWNER.peer_id}
    assert swarm.all_alive(range(6)), "both can open what the first key seals"
    swarm.publish(V3)
    swarm.wait_acknowledged()
    assert {host.core.core.keyring.keyring for host in swarm.hosts} == {V3}


def test_nobody_is_suspected_for_a_rotation_that_waits() -> None:
    world = World(11)
    swarm = formed(world, 10)
    world.run_for(20.0)
    began = world.now
    for keyring in STEPS:
        swarm.publish(keyring)
        swarm.wait_acknowledged()
    world.run_for(20.0)
    assert news_of(swarm, MemberSuspected, began) == []
