"""Members in the DHT: said by a few, found by all, believed by nobody."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from p2pinfer.cli.local_swarm import wait_until
from p2pinfer.errors import Overloaded
from p2pinfer.ids import Contact, Endpoint, PeerId, SwarmId
from p2pinfer.runtime.client import connect
from p2pinfer.runtime.discovery import rendezvous
from p2pinfer.runtime.discovery.rendezvous import Rendezvous, find_members
from p2pinfer.runtime.peer import open_peer
from tests.runtime.discovery.ways import contact_of, rng
from tests.runtime.swarm import let_mock_time_pass
from tests.runtime.test_dht import SETTINGS, peers_of

SWARM = SwarmId(b"\x07" * 32)
OWN = contact_of("own", 1)


@dataclass(frozen=True)
class Kept:
    owner: PeerId
    value: bytes


@dataclass
class Keeping:
    """A DHT that holds what it is told to, and notes what it is asked."""

    values: list[Kept] = field(default_factory=list)
    told: list[tuple[str, bytes]] = field(default_factory=list)
    is_full: bool = False

    async def wait_for_others(self) -> None:
        await trio.lowlevel.checkpoint()

    async def get(self, key: tuple[str, bytes]) -> Sequence[Kept]:
        assert key == ("swarm", SWARM)
        await trio.lowlevel.checkpoint()
        if self.is_full:
            raise Overloaded("too much")
        return self.values

    async def put(self, key: tuple[str, bytes], value: bytes, *, ttl_s: float) -> int:
        await trio.lowlevel.checkpoint()
        assert (key, ttl_s) == (("swarm", SWARM), rendezvous.MEMBER_TTL_S)
        self.told.append(("put", value))
        return 1

    async def remove(self, key: tuple[str, bytes]) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(("remove", b""))


def kept(contact: Contact) -> Kept:
    assert contact.peer is not None
    return Kept(contact.peer, str(contact.endpoint).encode())


async def found_by(strategy: Rendezvous, duration_s: float) -> list[list[Contact]]:
    """What a strategy finds in a time that passes at once."""
    found: list[list[Contact]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strategy.run, lambda contacts: found.append(list(contacts)))
        await let_mock_time_pass(duration_s)
        nursery.cancel_scope.cancel()
    return found


async def test_what_is_no_address_is_passed_over() -> None:
    one = contact_of("one", 2)
    lies = [Kept(PeerId(bytes(32)), value) for value in (b"", b"\xff", b"nowhere", b"10.0.0.1:0")]
    assert await find_members(Keeping([*lies, kept(one)]), SWARM) == (one,)


async def test_a_member_says_where_it_listens_and_looks_again_and_again(
    autojump_clock: trio.abc.Clock,
) -> None:
    one = contact_of("one", 2)
    dht = Keeping([kept(one)])
    strategy = Rendezvous(dht, SWARM, lambda: OWN.endpoint, live=lambda: [], rng=rng())
    found = await found_by(strategy, 4 * rendezvous.ALONE_INTERVAL_S)
    assert found[0] == [one]
    assert 3 <= len(found) <= 6
    assert dht.told == [("put", str(OWN.endpoint).encode())], "once: the DHT keeps it alive"


async def test_a_busy_dht_is_asked_later(autojump_clock: trio.abc.Clock) -> None:
    dht = Keeping([], is_full=True)
    strategy = Rendezvous(dht, SWARM, lambda: OWN.endpoint, live=lambda: [], rng=rng())
    assert await found_by(strategy, 4 * rendezvous.ALONE_INTERVAL_S) == []


async def test_in_a_large_swarm_few_say_it(autojump_clock: trio.abc.Clock) -> None:
    """About 32 of a thousand, whatever the draw: the peers near the key keep no more than some hundreds."""
    others = [contact_of(f"member {number}", 2 + number) for number in range(999)]
    saying = 0
    for seed in range(200):
        dht = Keeping()
        await found_by(
            Rendezvous(dht, SWARM, lambda: OWN.endpoint, live=lambda: others, rng=random.Random(seed)), 1.0
        )
        saying += len(dht.told)
    assert 1 <= saying <= 20, "6.4 are expected"


async def test_who_is_not_drawn_any_more_stops(autojump_clock: trio.abc.Clock) -> None:
    others: list[Contact] = []
    dht = Keeping()
    strategy = Rendezvous(dht, SWARM, lambda: OWN.endpoint, live=lambda: others, rng=rng())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strategy.run, lambda _: None)
        await let_mock_time_pass(1.0)
        others += [contact_of(f"member {number}", 2 + number % 60000) for number in range(100_000)]
        await let_mock_time_pass(4 * rendezvous.LOOK_INTERVAL_S)
        nursery.cancel_scope.cancel()
    assert [what for what, _ in dht.told] == ["put", "remove"]


async def test_a_host_name_is_not_told(autojump_clock: trio.abc.Clock) -> None:
    dht = Keeping()
    own = Endpoint("node.example.org", 7946)
    await found_by(Rendezvous(dht, SWARM, lambda: own, live=lambda: [], rng=rng()), 1.0)
    assert dht.told == []


async def test_who_moves_says_where_it_is_now(autojump_clock: trio.abc.Clock) -> None:
    dht = Keeping()
    places = iter([Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 1)])
    strategy = Rendezvous(dht, SWARM, lambda: next(places), live=lambda: [], rng=rng())
    await found_by(strategy, 2.4 * rendezvous.ALONE_INTERVAL_S)
    assert dht.told == [("put", b"10.0.0.1:1"), ("put", b"10.0.0.2:1")]


async def test_members_of_a_running_swarm_are_found_by_its_address(tmp_path: Path) -> None:
    async with peers_of(tmp_path, 3) as peers:
        one, two, three = peers
        swarm = one._parts.home.swarm.id
        seen: set[PeerId | None] = set()
        with trio.fail_after(20):
            while len(seen) < 3:
                seen = {contact.peer for contact in await find_members(three.dht, swarm)}
        address = two.address
        assert str(swarm) in address
    # The one that was invited comes back by the address alone, although the founder has moved.
    async with open_peer(**SETTINGS | {"data_dir": tmp_path / "0"}) as founder:
        back = SETTINGS | {"data_dir": tmp_path / "1", "join": [founder.address]}
        async with open_peer(**back) as again:
            await wait_until(lambda: len(again._parts.core.swim.alive()) == 2, timeout_s=20)
        async with connect(tmp_path / "2", join=f"p2pinfer://{str(swarm)[:8]}@{founder.endpoint}") as client:
            assert (await client.status())["peer"] == str(founder.id)
        async with connect(tmp_path / "0", join=f"p2pinfer://{str(swarm)[:8]}") as client:
            answer = await client.dht("members")
            assert answer["swarm"] == str(swarm)


@pytest.mark.parametrize("text", ["p2pinfer://00000000", "p2pinfer://nonsense"])
async def test_a_client_refuses_a_wrong_address(text: str, tmp_path: Path) -> None:
    async with peers_of(tmp_path, 1):
        with pytest.raises(ValueError, match="swarm"):
            async with connect(tmp_path / "0", join=text):
                pass
