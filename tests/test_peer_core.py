"""What the whole peer does that none of its cores does alone."""

from __future__ import annotations

import random
from dataclasses import replace

from p2pinfer.effects import Compute, Effect, Send
from p2pinfer.identity import Identity
from p2pinfer.ids import Contact, Endpoint, PeerId, SessionId, Span
from p2pinfer.inference.hop_core import ServedSpan
from p2pinfer.peer_core import PeerConfig, PeerCore
from p2pinfer.wire.messages.inference import ChainHop, OpenSession, Sampling, Step, Tensor
from p2pinfer.wire.messages.swim import Ping, StateRequest
from p2pinfer.work import EngineOutput

NOW = 1000.0
DIGEST = b"\x01" * 32
SESSIONS = tuple(SessionId(bytes([number]) * 16) for number in range(3))
ENTRY, FIRST = (Contact(PeerId(bytes([n]) * 32), Endpoint("10.0.0.1", 7000 + n)) for n in range(2))
HIDDEN = Tensor("f4", (1, 1), b"abcd")


def hop() -> PeerCore:
    """The second hop of three sessions' chains of two."""
    identity = Identity.generate()
    peer = PeerCore(
        public_key=identity.public_key,
        endpoint=Endpoint("10.0.0.1", 7009),
        config=PeerConfig(),
        rng=random.Random(1),
        sign=identity.sign_statement,
        now=NOW,
    )
    served = ServedSpan(
        digest=DIGEST, span=Span(1, 2), layer_count=2, position_size_bytes=8, positions_max=100
    )
    peer.serve(served, "model", NOW)
    for session in SESSIONS:
        place = OpenSession(
            session=session,
            epoch=0,
            digest=DIGEST,
            chain=(ChainHop(FIRST, 0, 1), ChainHop(peer.contact, 1, 2)),
            index=1,
            entry=ENTRY,
            positions_max=20,
            sampling=Sampling(),
            prompt_count=1,
            sample_from=1,
        )
        peer.receive(ENTRY, place, NOW)
    return peer


def batches(effects: list[Effect]) -> list[list[SessionId]]:
    return [[each.session for each in effect.batch] for effect in effects if isinstance(effect, Compute)]


def steps() -> list[Step]:
    return [Step(session=session, step=0, base=0, hidden=HIDDEN) for session in SESSIONS]


def test_steps_that_came_together_are_computed_together() -> None:
    peer = hop()
    assert batches(peer.receive_all(FIRST, steps(), NOW)) == [list(SESSIONS)]
    outputs = tuple(EngineOutput(token=7) for _ in SESSIONS)
    assert batches(peer.computed(outputs, NOW)) == []


def test_a_step_that_comes_alone_does_not_wait_for_others() -> None:
    peer = hop()
    computed = [batches(peer.receive(FIRST, step, NOW)) for step in steps()]
    assert computed == [[[SESSIONS[0]]], [], []]
    assert batches(peer.computed((EngineOutput(token=7),), NOW)) == [list(SESSIONS[1:])]


def test_a_hint_asks_a_stranger_and_nobody_else() -> None:
    """By name with a ping, by address alone with a state exchange; this peer itself is no stranger."""
    peer = hop()
    named, nameless = FIRST, Contact(None, Endpoint("10.0.0.2", 7946))
    (ping,) = [each for each in peer.hint([named], NOW) if isinstance(each, Send) and each.to == named]
    assert isinstance(ping.message, Ping)
    (asked,) = [each for each in peer.hint([nameless], NOW) if isinstance(each, Send) and each.to == nameless]
    assert isinstance(asked.message, StateRequest)
    assert peer.hint([peer.contact, replace(peer.contact, peer=None)], NOW) == []


def test_a_holder_that_the_dht_names_is_asked_as_a_stranger_or_for_its_newer_record() -> None:
    """By name with a ping; a member of whom an older record is known, with a state exchange."""
    peer = hop()
    stranger, member = FIRST, ENTRY
    peer.holdings._found.append((b"\x02" * 32, stranger))
    (ping,) = [each for each in peer.tick(NOW) if isinstance(each, Send) and each.to == stranger]
    assert isinstance(ping.message, Ping)
    record = replace(peer.swim.record, public_key=b"\x07" * 32, endpoint=member.endpoint, holding=None)
    peer.swim.alive = lambda: (record,)  # type: ignore[method-assign]
    peer.holdings._found.append((b"\x02" * 32, Contact(record.owner, member.endpoint)))
    sent = [each for each in peer.tick(NOW + 1.0) if isinstance(each, Send)]
    assert [each.to for each in sent if isinstance(each.message, StateRequest)] == [
        Contact(None, member.endpoint)
    ]
