"""What is found becomes hints: each stranger once, one at a time, and never more than a bounded number."""

from __future__ import annotations

import itertools

import trio

from p2pinfer.ids import Contact
from p2pinfer.runtime.discovery.api import Discovery, OnFound
from p2pinfer.runtime.discovery.bootstrap import Bootstrap
from p2pinfer.runtime.discovery.finder import REPEAT_S, WAIT_S_MAX, WAITING_COUNT_MAX, Finder
from tests.runtime.discovery.ways import Found, contact_of, nameless, rng
from tests.runtime.swarm import let_mock_time_pass

OWN = contact_of("own", 1)
MOVE_S = 1.0


class Swarm:
    """The members that live, and who was asked when."""

    def __init__(self, *strategies: Discovery) -> None:
        self.live: list[Contact] = []
        self.asked: list[tuple[float, Contact]] = []
        self.finder = Finder(
            strategies, own=OWN, live=lambda: self.live, ask=self._ask, rng=rng(), move_s=MOVE_S
        )

    def _ask(self, contact: Contact) -> None:
        self.asked.append((trio.current_time(), contact))

    @property
    def names(self) -> list[Contact]:
        return [contact for _, contact in self.asked]


class Says:
    """A strategy that finds the same again and again."""

    def __init__(self, *contacts: Contact, every_s: float = 1000.0) -> None:
        self._contacts = contacts
        self._every_s = every_s

    async def run(self, found: OnFound) -> None:
        while True:
            found(self._contacts)
            await let_mock_time_pass(self._every_s)


async def run_for(swarm: Swarm, duration_s: float) -> None:
    with trio.move_on_after(duration_s):
        await swarm.finder.run()


async def test_every_stranger_is_asked_one_after_the_other(autojump_clock: trio.testing.MockClock) -> None:
    strangers = [contact_of(f"peer {index}", 100 + index) for index in range(5)]
    swarm = Swarm(Says(*strangers[:3]), Says(*strangers[2:]))
    await run_for(swarm, 10.0)
    assert sorted(swarm.names, key=str) == sorted(strangers, key=str)
    assert len({at for at, _ in swarm.asked}) == 5


async def test_who_lives_is_not_asked_nor_is_this_peer(autojump_clock: trio.testing.MockClock) -> None:
    """A member is known by its id where the contact has one, by its address where it has none."""
    swarm = Swarm(
        Says(
            OWN,
            contact_of("own", 5),
            nameless("127.0.0.1", 1),
            contact_of("friend", 77),
            nameless("127.0.0.1", 2),
            contact_of("new", 2),
        )
    )
    swarm.live = [contact_of("friend", 2)]
    await run_for(swarm, 10.0)
    assert swarm.names == [contact_of("new", 2)], "another member at a known address may have taken it over"


async def test_who_came_to_live_while_it_waited_is_not_asked(autojump_clock: trio.testing.MockClock) -> None:
    """Of many peers that hear one announcement the first few ask; the others hear of it by gossip."""
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.finder.run)
        await trio.testing.wait_all_tasks_blocked()
        swarm.finder.found([contact_of("new")])
        swarm.live = [contact_of("new")]
        await let_mock_time_pass(2 * WAIT_S_MAX)
        nursery.cancel_scope.cancel()
    assert swarm.asked == []


async def test_the_same_contact_is_asked_again_only_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    swarm = Swarm(Says(contact_of("dead"), every_s=0.1))
    await run_for(swarm, 60.0)
    times = [at for at, _ in swarm.asked]
    assert 4 <= len(times) <= 7
    assert min(after - before for before, after in itertools.pairwise(times)) >= REPEAT_S


async def test_a_peer_said_to_be_elsewhere_waits_until_its_old_address_was_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The cache names the old one, an announcement the new one, while the core still waits for the old."""
    old, new = contact_of("a", 11), contact_of("a", 12)
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.finder.run)
        swarm.finder.found([old])
        await let_mock_time_pass(WAIT_S_MAX)
        swarm.finder.found([new])
        await let_mock_time_pass(MOVE_S + 2 * WAIT_S_MAX)
        nursery.cancel_scope.cancel()
    (first, _), (second, _) = swarm.asked
    assert swarm.names == [old, new]
    assert MOVE_S <= second - first <= MOVE_S + 2 * WAIT_S_MAX


async def test_a_member_that_makes_addresses_up_has_few_of_them_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.finder.run)
        for port in range(1, 1001):
            swarm.finder.found([contact_of("liar", port)])
            await let_mock_time_pass(0.01)
        nursery.cancel_scope.cancel()
    assert 1 < len(swarm.asked) <= 10 / MOVE_S + 1


async def test_a_flood_costs_a_few_questions_a_second(autojump_clock: trio.testing.MockClock) -> None:
    swarm = Swarm(*(Says(*(contact_of(f"{i} {j}") for j in range(1000))) for i in range(3)))
    await run_for(swarm, 10.0)
    assert len(swarm.asked) <= WAITING_COUNT_MAX
    assert swarm.finder.statistics() == {
        "asked": len(swarm.asked),
        "dropped": 3000 - WAITING_COUNT_MAX,
    }


async def test_given_addresses_are_named_at_once_and_again(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = contact_of("a").endpoint
    found = Found()
    with trio.move_on_after(25.0):
        await Bootstrap([endpoint], interval_s=10.0).run(found)
    assert found.calls == [(found.calls[0][0] + wait, (Contact(None, endpoint),)) for wait in (0, 10, 20)]
