"""Holders in the DHT: found where SWIM's word is missing, and gone when they say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pinfer.dht.news import LookupDone
from p2pinfer.effects import Effect
from p2pinfer.errors import NoChain
from p2pinfer.holdings import HOLDERS, TTL_S, HoldersFound, held_span, holders_key
from p2pinfer.ids import Span
from p2pinfer.peer_core import PeerCore
from p2pinfer.testing import World, run_seeds
from p2pinfer.testing.host import Host
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.dht import DhtRecord, FindNodes
from p2pinfer.wire.messages.dht_use import HeldSpan
from tests.inference.swarm import DIGEST, unbroken
from tests.simulation.peer_swarm import CONFIG, PeerSwarm

HERE = "tests.simulation.test_holdings"
SILENT = replace(CONFIG, swim=replace(CONFIG.swim, announce_interval_s=3600.0, sync_interval_s=3600.0))
"""SWIM does not look for the dead: whoever was cut off is found in another way, or not within an hour."""


def records_at(swarm: PeerSwarm, host: Host) -> list[DhtRecord]:
    """What a lookup of the model's holders gives at a peer, after the whole of it."""
    key = holders_key(DIGEST)
    before = len(host.delivered)
    host.call(lambda core, now: core.use_dht(lambda dht: dht.get([key], now), now))

    def done() -> list[LookupDone]:
        return [item for item in host.delivered[before:] if isinstance(item, LookupDone)]

    assert swarm.world.run_until_true(lambda: bool(done()), 10.0)
    return list(done()[-1].values)


def spans_at(swarm: PeerSwarm, host: Host) -> list[str]:
    held = [held_span(record) for record in records_at(swarm, host)]
    return sorted(f"{each.start}:{each.end}" for each in held if each is not None)


def test_every_holder_has_one_record_with_its_span_and_address() -> None:
    swarm = PeerSwarm(8)
    assert swarm.settle()
    swarm.world.run_for(10.0)
    records = records_at(swarm, swarm.me)
    by_owner = {record.owner: held_span(record) for record in records}
    for name in ("a0", "b0", "c0", "a1", "b1", "c1"):
        contact = swarm.world.hosts[name].contact
        assert contact.peer is not None
        held = by_owner[contact.peer]
        assert held is not None
        assert (held.endpoint, held.model, held.layer_count) == (contact.endpoint, "hash:12", 12)
    assert len(records) == 6
    assert {record.namespace for record in records} == {HOLDERS}


def the_dht_fills_in(world: World) -> None:
    """A holder that SWIM took for dead is asked for again as soon as somebody needs its layers."""
    swarm = PeerSwarm(world, copies=1, config=SILENT)
    assert swarm.settle()
    world.run_for(5.0)
    lost = swarm.world.hosts["c0"]
    cut = world.network.isolate("c0")
    assert world.run_until_true(lambda: bool(swarm.me.core.unheld(DIGEST, 12)), 60.0)
    world.run_for(60.0)
    world.network.heal(cut)
    with pytest.raises(NoChain, match=r"\[8,12\)"):
        swarm.ask()
    assert world.run_until_true(lambda: not swarm.me.core.unheld(DIGEST, 12), 3.0), "within seconds"
    (found,) = [item for item in swarm.me.notices if isinstance(item, HoldersFound)]
    assert (found.digests, found.holder_count) == ((DIGEST,), 1)
    session = swarm.ask()
    assert swarm.run(session) == unbroken()
    assert lost.core.swim.alive()


def test_the_dht_fills_in_where_swim_lost_a_holder(sim_seed: int) -> None:
    run_seeds(the_dht_fills_in, [sim_seed], f"{HERE}:the_dht_fills_in")


def test_without_the_question_the_holder_stays_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario above depends on what it says it depends on."""
    monkeypatch.setattr(PeerCore, "_seek", lambda *_: None)
    with pytest.raises(AssertionError, match="within seconds"):
        the_dht_fills_in(World(1))


def test_a_model_is_asked_about_once_in_a_while_and_not_for_each_request() -> None:
    swarm = PeerSwarm(3, copies=1)
    assert swarm.settle()
    swarm.world.hosts["c0"].crash()
    assert swarm.world.run_until_true(lambda: bool(swarm.me.core.unheld(DIGEST, 12)), 60.0)
    for _ in range(50):
        with pytest.raises(NoChain):
            swarm.ask()
        swarm.world.run_for(0.1)
    assert swarm.me.core.holdings.statistics()["questions"] == 1
    swarm.world.run_for(10.0)
    with pytest.raises(NoChain):
        swarm.ask()
    swarm.world.run_for(1.0)
    assert swarm.me.core.holdings.statistics()["questions"] == 2


def test_a_question_is_one_walk_for_all_models() -> None:
    swarm = PeerSwarm(3, copies=1)
    assert swarm.settle()
    swarm.world.run_for(5.0)
    asked: list[FindNodes] = []
    digests = [bytes([number]) * 32 for number in range(5)]

    def seek(core: PeerCore, now: float) -> tuple[None, list[Effect]]:
        for digest in digests:
            core._seek(digest, now)
        return None, []

    swarm.world.network.add_rule(
        lambda packet: asked.append(packet.message) if isinstance(packet.message, FindNodes) else None
    )
    swarm.me.call(seek)
    swarm.world.run_for(2.0)
    assert swarm.me.core.holdings.statistics()["questions"] == 1
    wanted = {holders_key(digest) for digest in digests}
    assert any(wanted <= set(question.keys) for question in asked)


@pytest.mark.parametrize("how", ["drains", "leaves", "moves"])
def test_a_record_goes_at_once(how: str) -> None:
    swarm = PeerSwarm(4)
    assert swarm.settle()
    swarm.world.run_for(5.0)
    host = swarm.world.hosts["b0"]
    assert spans_at(swarm, swarm.me).count("4:8") == 2
    if how == "moves":
        served = replace(host.core.hop._served, span=Span(0, 4))
        host.call(lambda core, now: core.serve(served, "hash:12", now))
    else:
        host.call(lambda core, now: core.drain(now) if how == "drains" else core.leave(now))
    swarm.world.run_for(2.0)
    spans = spans_at(swarm, swarm.me)
    assert spans.count("4:8") == 1
    assert spans.count("0:4") == (3 if how == "moves" else 2)
    if how == "drains":
        host.call(lambda core, now: core.resume(now))
        swarm.world.run_for(2.0)
        assert spans_at(swarm, swarm.me).count("4:8") == 2


def test_a_withdrawn_record_does_not_come_back_from_a_peer_that_missed_it() -> None:
    swarm = PeerSwarm(5)
    assert swarm.settle()
    swarm.world.run_for(5.0)
    cut = swarm.world.network.isolate("a1")
    swarm.world.hosts["b0"].call(lambda core, now: core.drain(now))
    swarm.world.run_for(2.0)
    swarm.world.network.heal(cut)
    deadline = swarm.world.now + TTL_S
    while swarm.world.now < deadline:
        swarm.world.run_for(60.0)
        assert spans_at(swarm, swarm.me).count("4:8") == 1


def test_a_record_of_a_crashed_holder_goes_when_it_expires() -> None:
    swarm = PeerSwarm(6)
    assert swarm.settle()
    swarm.world.run_for(5.0)
    swarm.world.hosts["b0"].crash()
    swarm.world.run_for(TTL_S / 3)
    assert spans_at(swarm, swarm.me).count("4:8") == 2, "its owner's word holds until then"
    swarm.world.run_for(TTL_S)
    assert spans_at(swarm, swarm.me).count("4:8") == 1


def test_what_a_liar_writes_is_ignored_or_costs_a_few_questions() -> None:
    """Owners that made themselves up name one address, and spans that cannot be."""
    swarm = PeerSwarm(7, copies=1)
    assert swarm.settle()
    swarm.world.run_for(2.0)
    holdings = swarm.me.core.holdings
    victim = swarm.world.hosts["a0"].contact.endpoint
    sound = HeldSpan(endpoint=victim, model="m", layer_count=12, start=8, end=12)
    values = [sound, replace(sound, start=9, end=4), replace(sound, layer_count=10)]
    records = [
        DhtRecord(
            public_key=bytes([number]) * 32,
            namespace=HOLDERS,
            key=holders_key(DIGEST),
            subkey=value.subkey,
            value=encode(value),
            sequence=1,
            expires_ms=1 << 60,
        )
        for number in range(200)
        for value in values
    ]
    records += [replace(records[0], value=b"\xc1"), replace(records[0], namespace="value")]
    assert len(holdings._chosen(records, (DIGEST,))) == 2
