"""A machine whose address changes while its peer runs: it stays a member, and what it does goes on."""

from __future__ import annotations

import pytest

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.swim.news import IdentityConflict, MemberDead
from p2pinfer.testing import Host
from tests.simulation.peer_swarm import PeerSwarm

ELSEWHERE = Endpoint("10.0.9.9", 7946)


def move(swarm: PeerSwarm, host: Host, endpoint: Endpoint, notices_after_s: float) -> None:
    """Give the machine another address; its peer notices after a while, as the runtime does."""
    del swarm.world.network.listeners[host.contact.endpoint]
    host.contact = Contact(host.contact.peer, endpoint)
    swarm.world.network.listeners[endpoint] = host
    swarm.world.run_for(notices_after_s)
    host.call(lambda core, now: core.set_endpoint(endpoint, now))


def known_endpoint(viewer: Host, host: Host) -> Endpoint | None:
    found = [each.endpoint for each in viewer.core.swim.alive() if each.owner == host.contact.peer]
    return found[0] if found else None


@pytest.mark.parametrize(("seed", "notices_after_s"), [(1, 0.0), (2, 0.3), (3, 2.0)])
def test_a_peer_that_moved_is_a_member_there_and_nobody_takes_it_for_dead_for_long(
    seed: int, notices_after_s: float
) -> None:
    print(f"seed {seed}")
    swarm = PeerSwarm(seed)
    assert swarm.settle()
    mover = swarm.world.hosts["b0"]
    others = [host for host in swarm.world.hosts.values() if host is not mover]
    before = mover.core.swim.record.incarnation
    move(swarm, mover, ELSEWHERE, notices_after_s)
    assert swarm.world.run_until_true(
        lambda: all(known_endpoint(host, mover) == ELSEWHERE for host in others), timeout_s=20.0
    )
    assert mover.core.swim.record.incarnation > before
    assert mover.core.contact.endpoint == ELSEWHERE
    swarm.world.run_for(30.0)
    assert all(known_endpoint(host, mover) == ELSEWHERE for host in others)
    news = [item for host in others for item in host.notices]
    assert not [item for item in news if isinstance(item, IdentityConflict)]
    if not notices_after_s:
        assert not [item for item in news if isinstance(item, MemberDead)]
    for host in others:
        known = host.core.dht._table[mover.contact.peer]
        assert known is not None
        assert known.contact.endpoint == ELSEWHERE
        assert known.is_good


@pytest.mark.parametrize("who", ["me", "hop"])
def test_a_session_goes_on_while_one_of_its_peers_moves_and_has_the_same_tokens(who: str) -> None:
    print("seed 4")
    calm = PeerSwarm(4)
    assert calm.settle()
    expected = calm.run(calm.ask())
    swarm = PeerSwarm(4)
    assert swarm.settle()
    session = swarm.ask()
    assert swarm.world.run_until_true(lambda: len(swarm.tokens(session)) >= 5, timeout_s=20.0)
    move(swarm, swarm.me if who == "me" else swarm.chain(session)[1], ELSEWHERE, 0.1)
    assert swarm.run(session) == expected
    assert swarm.run(swarm.ask()) == expected, "and so does the next one"
