"""A member that lies as much as its own key lets it: nobody healthy dies of it, and nobody's memory grows.

What is forged never reaches a core (`wire/envelope.py`), so a liar here speaks in its own name, replays what
others once signed, makes up members with keys of its own and sends too much of everything. It plays by the
rules besides: it answers probes, so it is believed as far as any member.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from p2pinfer.effects import Effect, Message, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.news import MemberDead
from p2pinfer.testing import Host, World, run_seeds
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import (
    Accusation,
    Ack,
    Gossip,
    IndirectAck,
    Ping,
    PingRequest,
    StateReply,
    StateRest,
)
from tests.swim.swarm import FAST, Swarm, contact, endpoint, key, peer_id, record, run_until, sign

HERE = "tests.simulation.test_swim_liars"
COUNT = 9
LIAR = 8
HONEST = range(8)
LIES_EVERY_S = 0.2
TIME_S = 60.0
ROOM = dataclasses.replace(FAST, member_count_max=200)

Lie = Callable[["Liar", float], list[Effect]]


class Liar:
    """An honest core, and on top of it what the lie sends, five times a second.

    Attributes:
        core: What makes it a member.
        seen: Every record that came by, for replays.
    """

    def __init__(self, core: SwimCore, lie: Lie, rng: random.Random) -> None:
        self.core = core
        self.rng = rng
        self.seen: dict[tuple[PeerId, int], PeerRecord] = {}
        self._lie = lie
        self._lies_at = 3.0

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        for each in getattr(message, "records", ()) or getattr(
            getattr(message, "gossip", None), "records", ()
        ):
            self.seen[each.owner, each.incarnation] = each
        effects = self.core.receive(sender, message, now)
        if self._lie is lie_as_helper and isinstance(message, PingRequest):
            effects.append(Send(sender, IndirectAck(sequence=message.sequence)))
        return effects

    def tick(self, now: float) -> list[Effect]:
        effects = self.core.tick(now)
        if now >= self._lies_at:
            self._lies_at = now + LIES_EVERY_S
            effects += self._lie(self, now)
        return effects

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        return self.core.disconnected(contact, now)

    @property
    def deadline(self) -> float:
        return min(self._lies_at, self.core.deadline or self._lies_at)

    def statistics(self) -> Mapping[str, Any]:
        return self.core.statistics()

    def members(self) -> Any:
        return self.core.members()

    def others(self) -> list[PeerRecord]:
        return [each for each in self.core.alive() if each.owner != self.core.record.owner]

    def tell(self, message: Message) -> list[Effect]:
        return [Send(each.contact, message) for each in self.others()]

    def accuses(self, accused: PeerId, incarnation: int, *, dead: bool) -> Accusation:
        own = self.core.record.public_key
        return sign(Accusation(public_key=own, accused=accused, incarnation=incarnation, dead=dead))


def in_parts(accusations: Iterable[Accusation]) -> list[Gossip]:
    every = list(accusations)
    return [Gossip(accusations=tuple(every[start : start + 8])) for start in range(0, len(every), 8)]


def lie_of_all(liar: Liar, now: float) -> list[Effect]:
    """Accuse everybody to everybody, as silent and as dead."""
    every = [
        liar.accuses(each.owner, each.incarnation, dead=dead)
        for each in liar.others()
        for dead in (False, True)
    ]
    return [effect for gossip in in_parts(every) for effect in liar.tell(gossip)]


def lie_of_one(liar: Liar, now: float) -> list[Effect]:
    """Accuse one member to all others, but never to itself, again and again."""
    victim = min(liar.others(), key=lambda each: each.owner)
    words = [liar.accuses(victim.owner, victim.incarnation, dead=dead) for dead in (False, True, False, True)]
    return [
        each
        for each in liar.tell(in_parts(words)[0])
        if isinstance(each, Send) and each.to.peer != victim.owner
    ]


def lie_of_the_future(liar: Liar, now: float) -> list[Effect]:
    """Accuse in incarnations that have not been yet."""
    ahead = liar.rng.choice([1, 2, 1000, 1 << 40])
    every = [liar.accuses(each.owner, each.incarnation + ahead, dead=True) for each in liar.others()]
    return [effect for gossip in in_parts(every) for effect in liar.tell(gossip)]


def lie_with_old_words(liar: Liar, now: float) -> list[Effect]:
    """Replay records that others once signed, and accuse what they say of."""
    old = liar.rng.sample(sorted(liar.seen), min(5, len(liar.seen)))
    records = tuple(liar.seen[each] for each in old)
    words = tuple(liar.accuses(owner, incarnation, dead=True) for owner, incarnation in old)
    return liar.tell(Gossip(records=records, accusations=words))


def lie_with_made_up_members(liar: Liar, now: float) -> list[Effect]:
    """Send states full of members that do not exist, by keys of its own, which accuse everybody."""
    first = 1000 + liar.rng.randrange(10_000)
    records = tuple(record(first + n, int(now * 1000), expires_s=now + 60) for n in range(100))
    words = tuple(
        sign(Accusation(public_key=each.public_key, accused=other.owner, incarnation=other.incarnation))
        for each in records[:3]
        for other in liar.others()[:20]
    )
    to = contact(liar.rng.choice(HONEST))
    kind = liar.rng.choice([StateReply, StateRest])
    return [Send(to, kind(records=records, accusations=words))]


def lie_with_floods(liar: Liar, now: float) -> list[Effect]:
    """Send pings and errands by the score, and answers to what nobody asked."""
    effects: list[Effect] = []
    for _ in range(20):
        number = liar.rng.getrandbits(32)
        target = peer_id(liar.rng.choice(HONEST))
        effects += liar.tell(PingRequest(sequence=number, target=target))
        effects += liar.tell(Ping(sequence=number, gossip=Gossip()))
        effects += liar.tell(Ack(sequence=number, gossip=Gossip()))
        effects += liar.tell(IndirectAck(sequence=number))
    return effects


def lie_of_itself(liar: Liar, now: float) -> list[Effect]:
    """Claim incarnations far ahead of the clock, other addresses, an end of time, all at once."""
    own = liar.core.record
    claims = [
        dataclasses.replace(own, incarnation=own.incarnation + (1 << 50)),
        dataclasses.replace(
            own, incarnation=own.incarnation + liar.rng.randrange(1000), endpoint=endpoint(0)
        ),
        dataclasses.replace(own, incarnation=own.incarnation + 1, expires_ms=1 << 60),
    ]
    return liar.tell(Gossip(records=tuple(sign(each) for each in claims)))


def lie_as_helper(liar: Liar, now: float) -> list[Effect]:
    """Nothing of its own; as a helper it says of everybody that it answered."""
    return []


LIES: tuple[Lie, ...] = (
    lie_of_all,
    lie_of_one,
    lie_of_the_future,
    lie_with_old_words,
    lie_with_made_up_members,
    lie_with_floods,
    lie_of_itself,
    lie_as_helper,
)


class LyingSwarm(Swarm):
    """The last host lies."""

    def __init__(self, world: World, lie: Lie, config: SwimConfig = ROOM) -> None:
        self._lie = lie
        super().__init__(world, COUNT, config)

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        honest = super()._factory(index)

        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            core, effects = honest(disk, rng, now)
            return Liar(core, self._lie, random.Random(rng.getrandbits(32))), effects

        return make if index == LIAR else honest

    def honest_see_each_other(self) -> bool:
        wanted = {key(index) for index in HONEST}
        return all(wanted <= {each.public_key for each in self.hosts[n].core.alive()} for n in HONEST)


def bear(world: World, lie: Lie) -> LyingSwarm:
    """Let a swarm bear one lie for a minute, and hold it to what is promised."""
    swarm = LyingSwarm(world, lie)
    assert run_until(world, swarm.honest_see_each_other, 10.0)
    end = world.now + TIME_S
    while world.now < end:
        world.run_for(1.0)
        for host in swarm.hosts[:LIAR]:
            assert_bounded(host)
    honest = {peer_id(index) for index in HONEST}
    dead = [each for each in swarm.news_of(MemberDead) if each[1] != f"p{LIAR}" and each[2].peer in honest]
    assert dead == []
    assert swarm.honest_see_each_other()
    return swarm


def assert_bounded(host: Host) -> None:
    """No honest core holds more than its settings allow, whatever comes."""
    figures = host.core.statistics()
    members = sum(figures[f"members_{state}"] for state in ("alive", "suspect", "dead", "left"))
    assert members <= ROOM.member_count_max
    assert figures["errand_count"] <= 256
    # A record, a death and as many accusations as confirm a suspicion, for each member.
    assert figures["queue_count"] <= (members + 1) * (ROOM.suspicion_factor + 1)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_no_lie_of_a_member_kills(lie: Lie, sim_seed: int) -> None:
    if sim_seed >= 1 and lie in (lie_with_floods, lie_with_made_up_members):
        pytest.skip("takes seconds for each seed")
    bear(World(sim_seed), lie)


def covered_up(world: World) -> None:
    """A helper that vouches for a dead member delays the word of its death and does not prevent it."""
    swarm = LyingSwarm(world, lie_as_helper)
    assert run_until(world, swarm.honest_see_each_other, 10.0)
    swarm.hosts[2].pause()
    rest = [index for index in HONEST if index != 2]

    def is_known() -> bool:
        return all(
            key(2) not in {each.public_key for each in swarm.hosts[index].core.alive()} for index in rest
        )

    assert run_until(world, is_known, 60.0)


def test_a_false_helper_does_not_keep_the_dead_alive() -> None:
    run_seeds(covered_up, range(10), f"{HERE}:covered_up")


def left_and_replayed(world: World) -> None:
    """A farewell that is said again after its owner came back sends nobody away."""
    swarm = LyingSwarm(world, lie_with_old_words)
    assert run_until(world, swarm.honest_see_each_other, 10.0)
    swarm.hosts[3].call(lambda core, now: core.leave(now))
    world.run_for(3.0)
    liar = swarm.hosts[LIAR].core
    assert any(each.leaving for each in liar.seen.values()), "the farewell has to be there to be replayed"
    swarm.hosts[3].restart()
    assert run_until(world, swarm.honest_see_each_other, 5.0)
    world.run_for(30.0)
    assert swarm.honest_see_each_other()


def test_a_farewell_cannot_be_replayed() -> None:
    run_seeds(left_and_replayed, range(5), f"{HERE}:left_and_replayed")


def test_a_swarm_that_believed_one_word_of_death_would_die_of_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lies are strong enough: with SWIM's own rule (4.2), by which a word of death kills, they kill."""
    from p2pinfer.swim import membership

    honest = membership.Membership.merge_accusation

    def believes(self: Any, accusation: Accusation, now: float, *, hearsay: bool = False) -> list[Effect]:
        member = self.table.active(accusation.accused)
        if accusation.dead and member is not None and accusation.incarnation == member.record.incarnation:
            return list(self._become_dead(accusation.accused, member, accusation, now))
        return honest(self, accusation, now, hearsay=hearsay)

    monkeypatch.setattr(membership.Membership, "merge_accusation", believes)
    with pytest.raises(AssertionError):
        bear(World(1), lie_of_one)
