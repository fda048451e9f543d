"""What others can make a peer do: sizes, tokens, rates."""

import dataclasses
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.answers import Answers
from p2pinfer.dht.config import AnswerConfig, DhtConfig
from p2pinfer.dht.limits import RateLimit
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.dht.news import ForkFound
from p2pinfer.dht.packing import frame_size_bytes, pack, question_padding
from p2pinfer.dht.store import RecordStore
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.tokens import HeldTokens, TokenIssuer
from p2pinfer.effects import Effect, Misbehaved, Notify, Send
from p2pinfer.ids import Contact, Endpoint
from p2pinfer.wire.codec import decode, encode, encoded_size
from p2pinfer.wire.messages.dht import (
    DhtPing,
    DhtPong,
    DhtRecord,
    FindNodes,
    FoundNodes,
    Stored,
    StoreRecords,
)
from tests.dht.peers import contact, endpoint, in_namespace, peer_id, record, sent

OWN, ASKER = peer_id(0), contact(900)
BIG = (1 << 63) - 1
SEEN = Endpoint("2001:db8:1111:2222:3333:4444:5555:6666", 65535)


def answers(contacts: int = 0, records: int = 0, *, host: str | None = None) -> Answers:
    config = DhtConfig()
    table, store, neighbours = RoutingTable(OWN, config), RecordStore(OWN, config), Neighbours(OWN, 99)
    for index in range(1, contacts + 1):
        table.confirm(contact(index, host), 0.01, 0.0)
        neighbours.add(contact(index, host))
    for index in range(1, records + 1):
        filled = record(index, subkey=bytes(64), value=bytes(512), sequence=BIG, expires_s=1000.0)
        store.put(filled, contact(index), 0.0)
    return Answers(table, store, neighbours, config, random.Random(1), 0.0)


def ask(served: Answers, message: FindNodes, *, who: Contact = ASKER, now: float = 0.0) -> list[FoundNodes]:
    assert who.peer is not None
    return [found for _, found in sent(served.receive(who, who.peer, message, now), FoundNodes)]


def question(token: bytes = b"", *, records: bool = True, padded: bool = True) -> FindNodes:
    padding = question_padding(1000, 1) if padded and not token else b""
    return FindNodes(query=BIG, keys=(bytes(32),), records=records, token=token, padding=padding)


def test_every_page_fits_a_datagram_and_nothing_is_lost() -> None:
    served = answers(contacts=60, records=9)
    token = ask(served, question())[0].token
    pages = ask(served, question(token))
    assert [page.page for page in pages] == list(range(len(pages)))
    assert {page.page_count for page in pages} == {len(pages)}
    assert all(encoded_size(page) <= 1000 for page in pages)
    assert all(decode(encode(page)) == page for page in pages)
    assert len({each.peer for page in pages for each in page.contacts}) == 30
    assert len(pages) == 8, "two for the contacts, and then as many of the records as may be sent"
    assert len({each.owner for page in pages for each in page.records}) == 6


def test_many_short_answers_tell_of_more_than_one() -> None:
    """Where one page has no room for all, the nearest are in each, and all k nearest in twenty."""
    served = answers(contacts=60)
    nearest = {each.peer for each in served._table.nearest(bytes(32), 9)}
    pages = [ask(served, question()) for _ in range(20)]
    told = [{each.peer for each in page.contacts} for page, *others in pages if not others]
    assert len(told) == 20
    assert all(nearest <= each and len(each) < 30 for each in told)
    assert {each.peer for each in served._table.nearest(bytes(32), 20)} <= set().union(*told)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.integers(0, 39), max_size=30),
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 512)), max_size=20),
    st.integers(41, 1000),
    st.integers(1, 8),
)
def test_the_counted_size_of_a_page_is_never_below_the_real_one(
    hosts: list[int], records: list[tuple[int, int]], size_bytes_max: int, pages_count_max: int
) -> None:
    contacts = [Contact(peer_id(i), Endpoint("9" * size, 65535)) for i, size in enumerate(hosts)]
    kept = [
        record(i, subkey=bytes(subkey), value=bytes(value), sequence=BIG, expires_s=4e9)
        for i, (subkey, value) in enumerate(records)
    ]
    pages, is_cut = pack(contacts, kept, size_bytes_max, pages_count_max)
    assert 1 <= len(pages) <= pages_count_max
    count = 0
    for page in pages:
        message = FoundNodes(
            query=BIG,
            page=15,
            page_count=16,
            token=bytes(8),
            seen=SEEN,
            again=True,
            contacts=tuple(page.contacts),
            records=tuple(page.records),
        )
        assert encoded_size(message) <= page.size_bytes + frame_size_bytes(SEEN)
        assert page.size_bytes <= size_bytes_max
        count += len(page.contacts) + len(page.records)
    assert is_cut == (count < len(contacts) + len(kept))


def test_an_unproved_address_gets_no_more_bytes_than_it_sent() -> None:
    served = answers(contacts=60, records=20)
    for padding in (0, 1, 50, 100, 400, 700, 920, 1024):
        message = FindNodes(query=BIG, keys=(bytes(32),), records=True, padding=bytes(padding))
        found = ask(served, message)
        assert len(found) == 1
        assert encoded_size(found[0]) <= encoded_size(message)
        assert found[0].again
    assert encoded_size(DhtPong(BIG)) <= encoded_size(DhtPing(BIG))
    no_token = StoreRecords(query=BIG, token=bytes(8), records=(record(),))
    (effect,) = served.receive(ASKER, peer_id(900), no_token, 0.0)
    assert isinstance(effect, Send)
    assert effect.message == Stored(BIG, ("token",))
    assert encoded_size(effect.message) < encoded_size(no_token)


def test_a_question_too_small_for_any_answer_gets_none() -> None:
    far = Contact(ASKER.peer, SEEN)
    assert ask(answers(contacts=60), question(padded=False), who=far) == []
    assert len(ask(answers(contacts=60), question(), who=far)) == 1


def test_a_padded_question_gets_most_of_the_contacts_at_once() -> None:
    (found,) = ask(answers(contacts=30), question(records=False))
    assert len(found.contacts) >= 17
    assert not found.again, "fewer contacts do no harm: others tell of the rest"


def test_a_token_is_good_for_one_peer_at_one_endpoint() -> None:
    issuer = TokenIssuer(300.0, random.Random(1), 0.0)
    token = issuer.issue(ASKER, 0.0)
    assert issuer.is_good(token, ASKER, 0.0)
    assert not issuer.is_good(token, Contact(peer_id(901), ASKER.endpoint), 0.0)
    assert not issuer.is_good(token, Contact(ASKER.peer, endpoint(901)), 0.0)
    assert not issuer.is_good(b"", ASKER, 0.0)
    assert not issuer.is_good(bytes(8), ASKER, 0.0)


def test_a_token_lives_one_interval_at_least_and_two_at_most() -> None:
    for issued_at in (0.0, 299.0, 301.0):
        issuer = TokenIssuer(300.0, random.Random(1), 0.0)
        token = issuer.issue(ASKER, issued_at)
        assert issuer.is_good(token, ASKER, issued_at + 300.0 - 1.0)
        assert not issuer.is_good(token, ASKER, issued_at + 600.0)
    issuer = TokenIssuer(300.0, random.Random(1), 0.0)
    token = issuer.issue(ASKER, 0.0)
    assert not issuer.is_good(token, ASKER, 1e9), "a long silence ends at once"
    held = HeldTokens(300.0)
    held.keep(peer_id(1), token, 0.0)
    assert held.token_for(peer_id(1), 299.0) == token
    assert held.token_for(peer_id(1), 300.0) == b""
    assert held.token_for(None, 0.0) == b""


def test_held_tokens_are_bounded() -> None:
    held = HeldTokens(300.0)
    for index in range(4200):
        held.keep(peer_id(index), bytes(8), 0.0)
    assert held.token_for(peer_id(0), 0.0) == b""
    assert held.token_for(peer_id(4199), 0.0) == bytes(8)


def test_a_bad_token_is_answered_with_a_good_one() -> None:
    served = answers(contacts=30)
    (found,) = ask(served, question(bytes(8)))
    assert found.again
    assert len(ask(served, question(found.token))[0].contacts) > 10


def test_a_record_is_kept_for_a_proved_address_alone() -> None:
    served = answers()
    token = ask(served, question())[0].token
    good = StoreRecords(query=1, token=token, records=(record(expires_s=9.0),))
    assert sent(served.receive(ASKER, peer_id(900), good, 0.0), Stored) == [(ASKER, Stored(1, ("stored",)))]
    other = contact(901)
    assert sent(served.receive(other, peer_id(901), good, 0.0), Stored) == [(other, Stored(1, ("token",)))]
    assert ask(served, question(token))[0].records == good.records
    assert ask(served, question(token, records=False))[0].records == ()


def stored(served: Answers, *records: DhtRecord, expected: int = -1, now: float = 0.0) -> list[Effect]:
    token = ask(served, question(records=False))[0].token
    message = StoreRecords(query=1, token=token, records=records, expected=expected)
    return served.receive(ASKER, peer_id(900), message, now)


def test_every_record_has_its_code_in_order_and_the_first_in_the_way_is_shown() -> None:
    served = answers()
    here = [record(owner, sequence=5) for owner in (1, 2, 3)]
    assert sent(stored(served, *here), Stored)[0][1] == Stored(1, ("stored",) * 3)
    invalid = in_namespace("provider", record(4, value=b"junk"))
    more = (
        record(1, sequence=6),
        invalid,
        record(2, sequence=4),
        record(3, sequence=4),
        record(5, expires_s=1e9),
    )
    ((_, answer),) = sent(stored(served, *more), Stored)
    assert answer.codes == ("stored", "invalid", "old", "old", "void")
    assert answer.held == (here[1],)
    assert decode(encode(answer)) == answer
    assert sent(stored(served), Stored)[0][1] == Stored(1, ())


def test_a_condition_is_that_of_the_first_record() -> None:
    served = answers()
    first, second = record(1, sequence=5), record(2, sequence=5)
    ((_, answer),) = sent(stored(served, first, second, expected=4), Stored)
    assert (answer.codes, answer.held) == (("cas", "stored"), ())
    ((_, answer),) = sent(stored(served, record(2, sequence=6), expected=4), Stored)
    assert (answer.codes, answer.held) == (("cas",), (second,))
    ((_, answer),) = sent(stored(served, record(2, sequence=6), expected=5), Stored)
    assert answer.codes == ("stored",)


def test_a_fork_is_reported_once_with_both_records_and_its_owner_misbehaved() -> None:
    served = answers()
    one, other = record(1, value=b"one"), record(1, value=b"other")
    assert len(stored(served, one)) == 1
    effects = stored(served, other)
    ((_, answer),) = sent(effects, Stored)
    assert (answer.codes, answer.held) == (("fork",), (one,))
    assert [type(effect) for effect in effects] == [Send, Notify, Misbehaved]
    assert isinstance(effects[1], Notify)
    assert isinstance(effects[1].news, ForkFound)
    assert {effects[1].news.first, effects[1].news.second} == {one, other}
    assert effects[2] == Misbehaved(peer_id(1), "signed two values under one sequence")
    assert len(stored(served, other)) == 1, "no news"
    assert set(ask(served, question(ask(served, question())[0].token))[0].records) == {one, other}


def test_far_from_a_key_a_record_is_kept_as_a_copy_on_the_path_for_a_shorter_time() -> None:
    served = answers(contacts=200)
    near, far = bytearray(OWN), bytearray(OWN)
    far[0] ^= 128
    kept = [record(1, key=bytes(near), expires_s=60.0), record(2, key=bytes(far), expires_s=60.0)]
    token = ask(served, question(records=False))[0].token
    served.receive(ASKER, peer_id(900), StoreRecords(query=1, token=token, records=(kept[0],)), 0.0)
    served.receive(ASKER, peer_id(900), StoreRecords(query=1, token=token, records=(kept[1],)), 0.0)
    assert served._neighbours.nearer_count(bytes(near)) == 0
    assert served._neighbours.nearer_count(bytes(far)) > 20
    assert served._store.get(bytes(near), 59.0) == [kept[0]]
    assert served._store.get(bytes(far), 59.0) == []


def test_questions_of_one_peer_are_limited_and_others_are_not_hurt() -> None:
    limit = RateLimit(AnswerConfig(rate_per_s=10.0, rate_burst_count=5, rate_peers_count_max=3))
    assert [limit.allows(contact(1), 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert limit.allows(contact(2), 0.0)
    assert [limit.allows(contact(1), 0.1), limit.allows(contact(1), 0.1)] == [True, False]
    for index in range(10):
        limit.allows(contact(index), 0.0)
    assert len(limit._peers._left) == 3


def test_a_flood_is_dropped_unanswered() -> None:
    served = answers()
    got = [served.receive(ASKER, peer_id(900), DhtPing(n), 0.0) for n in range(300)]
    assert sum(bool(effects) for effects in got) == 100
    assert served.counters["questions_over_rate"] == 200


def test_a_brief_answer_has_the_k_nearest_on_one_page() -> None:
    served = answers(contacts=60)
    token = ask(served, question())[0].token
    (page,) = ask(served, dataclasses.replace(question(token), brief=True))
    whole = ask(served, question(token))
    assert page.contacts == tuple(each for part in whole for each in part.contacts)[:20]
    assert not page.again
    assert encoded_size(page) <= 1000


def test_a_brief_answer_has_records_before_a_few_contacts() -> None:
    served = answers(contacts=60, records=1)
    token = ask(served, question())[0].token
    (page,) = ask(served, dataclasses.replace(question(token), brief=True))
    assert len(page.records) == page.records_count == 1
    assert len(page.contacts) == 2 * DhtConfig().alpha
    assert not page.again


def test_a_brief_answer_that_lacks_records_says_so() -> None:
    served = answers(contacts=60, records=9)
    token = ask(served, question())[0].token
    (page,) = ask(served, dataclasses.replace(question(token), brief=True))
    assert 1 <= len(page.records) < page.records_count == 9
    assert page.again
    assert encoded_size(page) <= 1000
