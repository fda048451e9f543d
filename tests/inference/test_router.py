"""Every balancer among equal holders with real cores around it, and who is never asked for help."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.balancing import BALANCERS
from p2pinfer.inference.chain_search import Ways
from p2pinfer.inference.config import EntryConfig
from p2pinfer.inference.generation import Generation, Pace, Request
from p2pinfer.inference.places import Spot, WayMap
from p2pinfer.inference.planner import Holder
from p2pinfer.inference.router import Router
from p2pinfer.inference.standing import StandingConfig
from p2pinfer.wire.messages.inference import Sampling
from tests.inference.swarm import Swarm

DIGEST = b"\x01" * 32
REQUEST = Request(digest=DIGEST, layer_count=4, prompt=(1, 2), sampling=Sampling())


def holder(number: int, *, step_s: float = 0.004, queue: int = 0, draining: bool = False) -> Holder:
    contact = Contact(PeerId(bytes([number]) * 32), Endpoint("10.0.0.1", number))
    return Holder(contact, Span(0, 4), step_s, queue, 0.001, draining)


def router(*holders: Holder, balancer: str = "power_of_two") -> Router:
    made = Router(EntryConfig(standing=StandingConfig(balancer=balancer)), random.Random(1))
    made.set_holders({DIGEST: holders})
    return made


def opened(made: Router, number: int, request: Request = REQUEST) -> int:
    """Plan a session that stays open, and return the number of the only holder in its chain."""
    (hop,) = made.plan(request, 0.0)
    assert hop.contact.peer is not None
    made.standings.asked(SessionId(bytes([number]) * 16), hop.contact.peer, 0.0)
    return hop.contact.peer[0]


def asked(swarm: Swarm) -> tuple[list[SessionId], Counter[str]]:
    """Open sessions of one client after the other, some at once, and count who of a0, a1, a2 took them."""
    taken: Counter[str] = Counter()
    sessions: list[SessionId] = []
    for number in range(36):
        prompt = tuple(range(number + 1, number + 11))
        sessions.append(swarm.ask(prompt=prompt, answer=5, seed=number, key=b"client %d" % number))
        taken[swarm.chain_names(sessions[-1])[0]] += 1
        if number % 4 == 3:
            swarm.world.run_for(0.5)
    return sessions, taken


@pytest.mark.parametrize("balancer", BALANCERS)
def test_every_balancer_gives_every_equal_holder_its_part(balancer: str) -> None:
    swarm = Swarm(1, copies=3, balancer=balancer)
    sessions, taken = asked(swarm)
    for session in sessions:
        assert len(swarm.run(session)) == 5
    assert set(taken) == {"a0", "a1", "a2"}
    assert min(taken.values()) >= 5, taken


@pytest.mark.parametrize("balancer", ["consistent_hash", "client_address"])
def test_what_has_one_key_stays_on_one_holder(balancer: str) -> None:
    swarm = Swarm(1, copies=3, balancer=balancer)
    chains = set()
    for number in range(12):
        is_by_client = balancer == "client_address"
        prompt = tuple(range(number + 1, number + 11)) if is_by_client else 10
        client = b"a client" if is_by_client else b"client %d" % number
        session = swarm.ask(prompt=prompt, answer=5, seed=number, key=client)
        chains.add(tuple(swarm.chain_names(session)))
        assert len(swarm.run(session)) == 5
        other = swarm.ask(prompt=(number + 1, 1, 2), answer=5, key=b"another client %d" % number)
        assert len(swarm.run(other)) == 5
    assert len(chains) == 1


def test_a_client_keeps_its_holder_while_its_own_sessions_run_there() -> None:
    made = router(*map(holder, (1, 2, 3)), balancer="client_address")
    request = replace(REQUEST, key=b"10.0.0.9")
    assert len({opened(made, number, request) for number in range(6)}) == 1
    others = {opened(made, 10 + n, replace(REQUEST, key=b"10.0.1.%d" % n)) for n in range(20)}
    assert others == {1, 2, 3}


def test_who_has_sessions_of_others_or_is_slower_is_no_equal() -> None:
    made = router(holder(1), holder(2, queue=3), holder(3, step_s=0.02), balancer="round_robin")
    assert [opened(made, number) for number in range(2)] == [1, 1]


@pytest.mark.parametrize("draining", [False, True])
def test_who_drains_is_neither_the_second_nor_the_faster(draining: bool) -> None:
    slow, fast = holder(1, step_s=0.4), holder(2, step_s=0.004, draining=draining)
    made = router(slow, fast)
    generation = Generation(id=SessionId(bytes(16)), request=REQUEST, shapes=((0, 2),), pace=Pace(0.0))
    made.set_holders({DIGEST: (slow,)})
    generation.chain = made.plan(REQUEST, 0.0)
    made.set_holders({DIGEST: (slow, fast)})
    assert (made.second_for(generation, 0, 0.0) is None) == draining
    assert made.has_faster(generation, 0, 1.0) == (not draining)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_where_ways_are_known_equals_are_at_the_same_place(is_mapped: bool) -> None:
    """A holder elsewhere costs the hops beside it a longer way, however near it is to the entry peer."""
    halves = [replace(holder(n), span=Span(*span)) for n, span in enumerate([(0, 2), (2, 4)] * 3, start=1)]
    spots = {each.peer: Spot(0 if number < 4 else 1, 0.0) for number, each in enumerate(halves)}
    ways = WayMap(Ways(((0, 50_000_000), (50_000_000, 0)), (0, 1)), 0, spots)
    made = Router(EntryConfig(standing=StandingConfig(balancer="round_robin")), random.Random(1))
    made.set_holders({DIGEST: halves}, (lambda: ways) if is_mapped else None)
    taken = {hop.contact.peer for _ in range(40) for hop in made.plan(REQUEST, 0.0)}
    assert taken == {each.peer for each in (halves[:4] if is_mapped else halves)}
