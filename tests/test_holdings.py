"""A peer's layers in the DHT, and its questions about others', by effects alone."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.effects import Deliver, Effect, Notify
from p2pinfer.errors import Overloaded
from p2pinfer.holdings import (
    FOUND_COUNT_MAX,
    HINT_INTERVAL_S,
    HOLDERS,
    MODELS_COUNT_MAX,
    RETRY_S,
    SEEK_INTERVAL_S,
    HoldersFound,
    Holdings,
    held_span,
    holders_key,
)
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.codec import encode
from p2pinfer.wire.messages.dht import DhtRecord
from p2pinfer.wire.messages.dht_use import HeldSpan
from p2pinfer.wire.messages.records import Holding

NOW = 1000.0
DIGEST = b"\x01" * 32
HERE = Endpoint("10.0.0.1", 7946)
KEY = b"\x05" * 32
HELD = HeldSpan(endpoint=HERE, model="m:1", layer_count=12, start=0, end=4)
HOLDING = Holding(model="m:1", digest=DIGEST, layer_count=12, start=0, end=4, step_us=0)


def sign(statement: DhtRecord) -> DhtRecord:
    return replace(statement, signature=hashlib.blake2b(repr(statement).encode()).digest())


def make(*serving: PeerId) -> tuple[Holdings, DhtCore]:
    """A peer that is alone, and those whom SWIM says to serve."""
    dht = DhtCore(
        public_key=KEY,
        endpoint=HERE,
        config=DhtConfig.for_tests(),
        rng=random.Random(1),
        sign=sign,  # type: ignore[arg-type]
        now=NOW,
    )
    me = Contact(PeerId.from_public_key(KEY), HERE)
    return Holdings(dht, me, lambda digest, peer: digest == DIGEST and peer in serving), dht


def record_of(number: int, held: HeldSpan = HELD, digest: bytes = DIGEST) -> DhtRecord:
    return DhtRecord(
        public_key=bytes([number]) * 32,
        namespace=HOLDERS,
        key=holders_key(digest),
        subkey=held.subkey,
        value=encode(held),
        sequence=1,
        expires_ms=1 << 60,
    )


def done(effects: list[Effect]) -> LookupDone:
    (item,) = (effect.item for effect in effects if isinstance(effect, Deliver))
    assert isinstance(item, LookupDone)
    return item


def ask(holdings: Holdings, now: float = NOW) -> LookupDone:
    """Seek, and the end of the question as a peer that is alone has it: with nothing found."""
    holdings.seek(DIGEST, now)
    return done(holdings.tick(now))


def places_of(dht: DhtCore, now: float = NOW) -> dict[bytes, HeldSpan | None]:
    """What is kept under the model's key: a peer that is alone keeps its own."""
    _, effects = dht.get([holders_key(DIGEST)], now)
    return {record.subkey: held_span(record) for record in done(effects).values}


def test_what_is_served_is_told_once_and_speed_is_no_news() -> None:
    holdings, dht = make()
    assert holdings.tell(HOLDING, NOW)
    assert places_of(dht) == {b"0:4": HELD}
    assert holdings.tell(replace(HOLDING, step_us=5, queue=3, movable=True), NOW) == []


@pytest.mark.parametrize(
    "now_holding",
    [None, replace(HOLDING, draining=True), replace(HOLDING, loading=True, start=4, end=8)],
)
def test_who_stops_puts_nothing_in_its_place(now_holding: Holding | None) -> None:
    holdings, dht = make()
    holdings.tell(HOLDING, NOW)
    holdings.tell(now_holding, NOW + 1.0)
    assert places_of(dht, NOW + 1.0) == {b"0:4": None}
    holdings.tell(HOLDING, NOW + 1.0)
    assert places_of(dht, NOW + 1.0) == {b"0:4": HELD}, "the later word counts, however soon it came"


def test_another_span_takes_the_old_one_back() -> None:
    holdings, dht = make()
    holdings.tell(HOLDING, NOW)
    holdings.tell(replace(HOLDING, start=4, end=8), NOW + 1.0)
    assert places_of(dht, NOW + 1.0) == {b"0:4": None, b"4:8": replace(HELD, start=4, end=8)}


def test_a_peer_that_moves_says_where_it_is_now() -> None:
    holdings, dht = make()
    there = Endpoint("10.0.0.9", 7946)
    assert holdings.set_endpoint(HERE, NOW) == [], "it serves nothing"
    holdings.tell(HOLDING, NOW)
    holdings.set_endpoint(there, NOW + 1.0)
    assert places_of(dht, NOW + 1.0) == {b"0:4": replace(HELD, endpoint=there)}
    assert holdings.tell(HOLDING, NOW + 2.0) == [], "which is known"


def test_what_nobody_else_kept_is_told_again_with_growing_waits() -> None:
    holdings, _ = make()
    effects = holdings.tell(HOLDING, NOW)
    waits = []
    now = NOW
    for _ in range(8):
        assert not holdings.is_settled
        assert holdings.finished(done(effects), now) == []
        deadline = holdings.deadline
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        effects = holdings.tick(now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_where_the_dht_has_no_room_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    holdings, dht = make()

    def refuse(*_: object, **__: object) -> None:
        raise Overloaded("later")

    with monkeypatch.context() as full:
        full.setattr(dht, "put", refuse)
        full.setattr(dht, "get", refuse)
        assert holdings.tell(HOLDING, NOW) == []
        holdings.seek(DIGEST, NOW)
        assert holdings.tick(NOW) == []
        assert not holdings.is_settled
    assert holdings.deadline == NOW + RETRY_S
    assert holdings.tick(NOW + RETRY_S)
    assert places_of(dht, NOW + RETRY_S) == {b"0:4": HELD}
    assert holdings.statistics()["questions"] == 1


def test_holders_of_different_spans_take_turns_and_each_is_asked_once() -> None:
    known = record_of(9)
    holdings, _ = make(known.owner)
    spans = [replace(HELD, start=start, end=start + 4) for start in (0, 4, 8)]
    records = [
        record_of(
            3 * number + index + 10, replace(span, endpoint=Endpoint("10.0.0.2", 100 + 3 * number + index))
        )
        for number in range(2)
        for index, span in enumerate(spans)
    ]
    own = replace(records[0], public_key=KEY)
    answer = replace(ask(holdings), values=(*records, own, known, replace(records[1], value=b"")))
    assert holdings.is_seeking(DIGEST, NOW)
    assert holdings.finished(answer, NOW) == [Notify(HoldersFound((DIGEST,), 6))]
    taken = []
    now = NOW
    while holdings.deadline is not None:
        now = max(now, holdings.deadline)
        contact = holdings.take_found(now)
        assert contact is not None
        taken.append(contact.peer)
        assert holdings.take_found(now) is None, "one after another"
    assert taken == [record.owner for record in records]
    assert now == pytest.approx(NOW + 5 * HINT_INTERVAL_S)
    assert holdings.is_seeking(DIGEST, NOW + 1.0)
    assert not holdings.is_seeking(DIGEST, NOW + 10.0)


def test_no_answer_makes_many_questions() -> None:
    """More owners than are asked, at as many addresses; and more models than are remembered."""
    holdings, _ = make()
    records = [
        replace(
            record_of(1, replace(HELD, endpoint=Endpoint("10.0.0.2", 1 + number))),
            public_key=number.to_bytes(32, "big"),
        )
        for number in range(500)
    ]
    holdings.finished(replace(ask(holdings), values=tuple(records)), NOW)
    assert holdings.statistics()["waiting"] == FOUND_COUNT_MAX
    holdings.finished(replace(ask(holdings, NOW + SEEK_INTERVAL_S), values=tuple(records)), NOW)
    assert holdings.statistics()["waiting"] == FOUND_COUNT_MAX
    for number in range(500):
        holdings.seek(number.to_bytes(32, "big"), NOW)
    assert len(holdings._sought) == MODELS_COUNT_MAX


def test_the_end_of_somebody_elses_lookup_is_not_taken() -> None:
    holdings, _ = make()
    stranger = LookupDone(
        id=LookupId(77),
        keys=(holders_key(DIGEST),),
        values=(record_of(2),),
        nearest=(),
        stored_at=0,
        queries=0,
    )
    assert holdings.finished(stranger, NOW) is None
    assert holdings.statistics()["waiting"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"value": b""},
        {"value": b"\xc1"},
        {"value": b"\x90"},
        {"namespace": "value"},
        {"subkey": b"0:5"},
        {"value": encode(replace(HELD, start=4, end=4)), "subkey": b"4:4"},
        {"value": encode(replace(HELD, end=13)), "subkey": b"0:13"},
        {"value": encode(replace(HELD, endpoint=Endpoint("10.0.0.1", 0)))},
        {"value": encode(HOLDING)},
    ],
)
def test_a_record_that_is_not_in_order_says_nothing(change: dict[str, object]) -> None:
    assert held_span(record_of(2)) == HELD
    assert held_span(replace(record_of(2), **change)) is None  # type: ignore[arg-type]
