"""The core by its effects: exact lists, no world."""

import dataclasses
import random

import pytest

from p2pinfer.dht.config import DhtConfig, QueryConfig
from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.put import Put
from p2pinfer.dht.tokens import HeldTokens
from p2pinfer.effects import Message, Misbehaved, Send
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import DhtPing, DhtPong, FindNodes, FoundNodes, Stored, StoreRecords
from p2pinfer.wire.messages.inference import CloseSession
from tests.dht.peers import contact, done, endpoint, exchange, make_core, peer_id, public_key, record, sent

KEY = key_of("test", "key")
TOKEN = bytes(8)


def joined(count: int) -> list[DhtCore]:
    """Cores that know each other, without a network."""
    cores = [make_core(index, seed=index) for index in range(count)]
    for core in cores[1:]:
        exchange(cores, core.bootstrap([Contact(None, cores[0].contact.endpoint)], 0.0), core, 0.0)
        for _ in range(count):
            for each in cores:
                exchange(cores, each.tick(1.0), each, 1.0)
    return cores


def knowing(*indices: int, config: DhtConfig | None = None) -> DhtCore:
    """Core 0 with contacts that have answered it."""
    core = make_core(0, config=config)
    for index in indices:
        core._table.confirm(contact(index), 0.01, 0.0)
    return core


def found(query: int, *contacts: Contact, page: int = 0, page_count: int = 1) -> FoundNodes:
    return FoundNodes(
        query=query, page=page, page_count=page_count, token=TOKEN, seen=endpoint(0), contacts=contacts
    )


def test_alone_every_lookup_ends_at_once_and_a_put_is_kept_here() -> None:
    core = make_core(0)
    lookup_id, effects = core.put(Put(key=KEY, value=b"v", subkey=b"s", ttl_s=60.0), 0.0)
    (end,) = done(effects)
    assert (end.id, end.stored_at, end.queries, end.nearest) == (lookup_id, 1, 0, ())
    get_id, effects = core.get([KEY], 1.0)
    (end,) = done(effects)
    assert end.id == get_id != lookup_id
    assert [value.value for value in end.values] == [b"v"]
    assert done(core.find_nodes(KEY, 1.0)[1])[0].nearest == ()


def test_a_lookup_asks_alpha_of_the_nearest_with_padding_in_place_of_a_token() -> None:
    core = knowing(*range(1, 11))
    _, effects = core.find_nodes(KEY, 0.0)
    questions = sent(effects, FindNodes)
    assert len(questions) == len(effects) == 3
    nearest = sorted(range(1, 11), key=lambda index: int.from_bytes(peer_id(index)) ^ int.from_bytes(KEY))
    assert [to for to, _ in questions] == [contact(index) for index in nearest[:3]]
    for _, question in questions:
        assert not question.records
        assert 900 < encoded_size(question) <= 1000
    to, question = questions[0]
    core.receive(to, found(question.query), 0.01)
    _, effects = core.get([KEY], 0.02)
    again = dict(sent(effects, FindNodes))[to]
    assert again.records
    assert again.token == TOKEN
    assert encoded_size(again) < 100


def test_a_lost_question_is_asked_again_with_its_number_and_then_given_up() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    assert core.deadline == pytest.approx(0.05)
    assert core.tick(0.04) == []
    assert core.tick(0.051) == [Send(to, question)]
    assert core.tick(0.051) == []
    assert core.tick(0.16) == [Send(to, question)]
    (end,) = done(core.tick(0.6))
    assert end.nearest == ()
    assert core.statistics()["queries_failed"] == 1
    assert peer_id(1) in core._table, "one failed question costs nobody a place"


def test_a_late_answer_counts() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    core.tick(0.051)
    (end,) = done(core.receive(to, found(question.query), 0.07))
    assert end.nearest == (contact(1),)


def test_an_answer_nobody_asked_for_changes_nothing() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    before = len(core._table)
    for sender, message in (
        (contact(2), found(question.query, contact(3))),
        (to, found(question.query + 1, contact(3))),
        (to, DhtPong(question.query)),
        (to, Stored(question.query, ("stored",))),
        (to, DhtPong(7)),
        (contact(0), found(question.query)),
        (Contact(None, to.endpoint), found(question.query)),
    ):
        assert core.receive(sender, message, 0.01) == []
    assert len(core._table) == before
    assert core.statistics()["answers_unasked"] == 5
    assert core.receive(to, CloseSession(session=b"x" * 16), 0.01) == []  # type: ignore[arg-type]


def test_answers_are_filtered() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    effects = core.receive(
        to,
        found(
            question.query,
            contact(0),
            to,
            Contact(None, endpoint(5)),
            Contact(peer_id(6), Endpoint("0.0.0.0", 1)),
            Contact(peer_id(7), Endpoint("127.0.0.1", 1)),
            Contact(peer_id(8), Endpoint("10.0.0.1", 0)),
            Contact(peer_id(9), Endpoint("name", 1)),
            contact(2),
            contact(2),
        ),
        0.01,
    )
    assert [each for each, _ in sent(effects, FindNodes)] == [contact(2)]
    assert core.statistics()["contacts_refused"] == 6


def test_more_contacts_than_an_answer_has_are_cut_off() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    many = [contact(index) for index in range(2, 34)]
    core.receive(to, found(question.query, *many, page=1, page_count=2), 0.01)
    core.receive(to, found(question.query, *many, page=1, page_count=2), 0.01)
    core.receive(to, found(question.query, contact(50), contact(51), page=0, page_count=2), 0.01)
    assert core.statistics()["contacts_refused"] == 4


def test_an_impossible_page_is_told_of() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    (effect,) = core.receive(to, found(question.query, page=2, page_count=2), 0.01)
    assert isinstance(effect, Misbehaved)
    assert effect.peer == peer_id(1)


def test_records_of_another_key_expired_or_older_are_not_taken() -> None:
    core = knowing(1)
    _, effects = core.get([KEY], 10.0)
    ((to, question),) = sent(effects, FindNodes)
    records = (
        record(1, key=KEY, value=b"new", sequence=2),
        record(1, key=KEY, value=b"old", sequence=1),
        record(2, key=KEY, expires_s=10.0),
        record(3, key=KEY, expires_s=1e9),
        record(4, key=bytes(32)),
    )
    answer = dataclasses.replace(found(question.query), records=records)
    effects = core.receive(to, answer, 10.01)
    (end,) = done(effects)
    assert [value.value for value in end.values] == [b"new"]
    assert [effect.peer for effect in effects if isinstance(effect, Misbehaved)] == [peer_id(1)]


def test_who_asks_becomes_a_contact_when_it_shows_that_the_answer_reached_it() -> None:
    core = make_core(0)
    question = FindNodes(query=6, keys=(KEY,), padding=bytes(900))
    ((_, answer),) = sent(core.receive(contact(1), question, 0.0), FoundNodes)
    assert len(core._table) == 0, "anybody may write any address on a question"
    assert core.receive(contact(1), DhtPing(7, bytes(8)), 0.01) == []
    assert core.receive(contact(2), DhtPing(7, answer.token), 0.01) == []
    assert len(core._table) == 0, "neither with a token of no one's nor with another's"
    assert core.receive(contact(1), DhtPing(7, answer.token), 0.01) == [], "it is said, not asked"
    ((_, answer),) = sent(core.receive(contact(2), question, 0.08), FoundNodes)
    assert answer.contacts == (contact(1),)


def test_who_is_asked_without_a_token_is_shown_that_its_answer_came_once() -> None:
    core = knowing(1)
    _, effects = core.find_nodes(KEY, 0.0)
    ((to, question),) = sent(effects, FindNodes)
    ((_, shown),) = sent(core.receive(to, found(question.query), 0.01), DhtPing)
    assert shown.token == TOKEN
    _, effects = core.find_nodes(KEY, 1.0)
    ((to, question),) = sent(effects, FindNodes)
    assert question.token == TOKEN
    assert sent(core.receive(to, found(question.query), 1.01), DhtPing) == []


def test_an_address_that_may_be_forged_is_sent_nothing_but_the_answer() -> None:
    core = make_core(0)
    for asked in (DhtPing(5), FindNodes(query=6, keys=(KEY,), padding=bytes(900))):
        assert len(sent(core.receive(contact(1), asked, 0.0), Message)) == 1
    for at in range(1, 100):
        assert not sent(core.tick(float(at)), Message)


def test_put_stores_at_the_nearest_and_tells_how_many_hold_it() -> None:
    core = knowing(1, 2)
    lookup_id, effects = core.put(Put(key=KEY, value=b"v", subkey=b"s", ttl_s=60.0), 0.0)
    stores = []
    for to, question in sent(effects, FindNodes):
        stores += sent(core.receive(to, found(question.query), 0.01), StoreRecords)
    assert {to for to, _ in stores} == {contact(1), contact(2)}
    kept = stores[0][1].records[0]
    assert (kept.key, kept.subkey, kept.value, kept.public_key) == (KEY, b"s", b"v", public_key(0))
    assert kept.expires_ms == 60_000
    assert core.receive(stores[0][0], Stored(stores[0][1].query, ("stored",)), 0.02) == []
    (end,) = done(core.receive(stores[1][0], Stored(stores[1][1].query, ("full",)), 0.02))
    assert (end.id, end.stored_at, end.queries) == (lookup_id, 2, 2), "this peer and one more"


def test_the_owner_republishes_with_a_higher_sequence_until_unput() -> None:
    core = make_core(0)
    core.put(Put(key=KEY, value=b"v", subkey=b"s", ttl_s=60.0), 100.0)
    first = core._store.get(KEY, 100.0)[0]
    deadline = core._publisher.deadline
    assert deadline == 110.0, "sooner than by its share while nobody else keeps it"
    assert done(core.tick(deadline)) == [], "a refresh is not told of"
    second = core._store.get(KEY, deadline)[0]
    assert second.sequence > first.sequence
    assert second.expires_ms > first.expires_ms
    core.unput(KEY, b"s", deadline)
    core.unput(KEY, b"unknown", deadline)
    assert core._publisher.deadline is None
    for at in range(1, 100):
        core.tick(deadline + at)
    assert core.statistics()["records"] == 0


def test_a_restarted_owner_without_memory_still_replaces_its_record() -> None:
    before, after = make_core(0), make_core(0, now=50.0)
    before.put(Put(key=KEY, value=b"old", subkey=b"s", ttl_s=600.0), 40.0)
    (old,) = before._store.get(KEY, 50.0)
    after.put(Put(key=KEY, value=b"new", subkey=b"s", ttl_s=600.0), 50.0)
    (new,) = after._store.get(KEY, 50.0)
    assert new.sequence > old.sequence


def test_a_dead_peer_is_not_waited_for() -> None:
    core = knowing(1)
    core.find_nodes(KEY, 0.0)
    (end,) = done(core.forget(peer_id(1), 0.01))
    assert end.nearest == ()
    assert peer_id(1) not in core._table


def test_a_lookup_ends_in_time_whatever_happens() -> None:
    core = make_core(0, config=DhtConfig())
    core.heard(contact(1), 0.0)
    _, effects = core.find_nodes(KEY, 0.0)
    now, fresh = 0.0, 2
    while not done(effects):
        waiting = sent(effects, FindNodes)
        now = min(now + 0.9, core.deadline or now + 0.9)
        effects = []
        for to, question in waiting:
            fresh += 1
            effects += core.receive(to, found(question.query, contact(fresh)), now)
        effects += core.tick(now)
        assert now < 31.0
    assert done(effects)[0].queries <= 200


def test_too_many_lookups_are_refused_as_overload_and_bad_keys_by_name() -> None:
    query = QueryConfig(lookups_count_max=4)
    core = make_core(0, config=DhtConfig(query=query))
    core.heard(contact(1), 0.0)
    for _ in range(3):
        core.find_nodes(KEY, 0.0)
    with pytest.raises(Overloaded, match="3 lookups"):
        core.get([KEY], 0.0)
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        core.get([b"short"], 0.0)
    with pytest.raises(LocalProtocolError, match="512 bytes"):
        core.put(Put(key=KEY, value=bytes(513), subkey=b"", ttl_s=1.0), 0.0)


def test_bootstrap_is_tried_until_somebody_answers() -> None:
    core = make_core(0)
    address = Contact(None, endpoint(1))
    assert [to for to, _ in sent(core.bootstrap([address, contact(0)], 0.0), FindNodes)] == [address]
    asked = 0
    now = 0.0
    while now < 20.0:
        assert core.deadline is not None
        now = max(now, core.deadline)
        asked += len(sent(core.tick(now), FindNodes))
    assert asked >= 8
    ((_, question),) = sent(core.bootstrap([address], now), FindNodes)
    core.receive(contact(1), found(question.query), now)
    ((to, own_lookup),) = sent(core.tick(now), FindNodes)
    assert (to, own_lookup.keys) == (contact(1), (peer_id(0),))
    core.receive(to, found(own_lookup.query), now)
    assert core.statistics()["is_joined"]


def test_a_holder_that_has_more_is_asked_again_with_its_token() -> None:
    cores = joined(6)
    for index in range(5):
        _, effects = cores[1].put(Put(key=KEY, value=bytes(500), subkey=b"%d" % index, ttl_s=60.0), 2.0)
        exchange(cores, effects, cores[1], 2.0)
    stranger = make_core(77)
    cores.append(stranger)
    exchange(cores, stranger.bootstrap([cores[0].contact], 2.0), stranger, 2.0)
    stranger._asker._tokens = HeldTokens(300.0)  # as if it had never spoken to anybody
    _, effects = stranger.get([KEY], 3.0)
    (end,) = done(exchange(cores, effects, stranger, 3.0))
    assert len(end.values) == 5
    assert stranger.statistics()["queries_renewed"] >= 1


def test_garbage_from_anybody_never_raises() -> None:
    rng = random.Random(9)
    core = knowing(1, 2, 3)
    core.bootstrap([contact(4)], 0.0)
    queries = [0]
    for step in range(400):
        now = step * 0.01
        sender = rng.choice([contact(rng.randrange(9)), Contact(None, endpoint(3))])
        query = rng.choice(queries[-6:])
        message = rng.choice(
            [
                DhtPing(query),
                DhtPong(query),
                found(query, *[contact(rng.randrange(30)) for _ in range(rng.randrange(9))]),
                dataclasses.replace(found(query, page=rng.randrange(4), page_count=3), again=True),
                dataclasses.replace(found(query), records=(record(rng.randrange(5), key=KEY),)),
                Stored(query, (rng.choice(["stored", "token", "?"]),)),
                StoreRecords(query=query, token=TOKEN, records=(record(),)),
                FindNodes(query=query, keys=(KEY,), records=True),
            ]
        )
        effects = core.receive(sender, message, now)
        if step % 20 == 0:
            effects += core.get([KEY], now)[1]
            effects += core.put(Put(key=KEY, value=b"v", subkey=b"", ttl_s=9.0), now)[1]
        effects += core.tick(now)
        queries += [each.query for _, each in sent(effects, FindNodes)]
        queries += [each.query for _, each in sent(effects, StoreRecords)]
    for step in range(60):
        core.tick(5.0 + step)
    assert core.statistics()["lookups_running"] <= 2, "one of upkeep and one that republishes"


def test_alone_a_swap_is_checked_against_what_is_kept_here_and_kept_alive_when_it_has_won() -> None:
    core = make_core(0)
    (end,) = done(core.put(Put(key=KEY, value=b"one", ttl_s=60.0, expected=7), 1.0)[1])
    assert (end.stored_at, end.conflict) == (0, None)
    assert core.statistics()["own_puts"] == 0
    (end,) = done(core.put(Put(key=KEY, value=b"one", ttl_s=60.0, expected=0), 2.0)[1])
    assert (end.stored_at, core.statistics()["own_puts"]) == (1, 1)
    (kept,) = core._store.get(KEY, 2.0)
    (end,) = done(core.put(Put(key=KEY, value=b"two", ttl_s=60.0, expected=5), 3.0)[1])
    assert (end.stored_at, end.conflict) == (0, kept)
    (end,) = done(core.put(Put(key=KEY, value=b"two", ttl_s=60.0, expected=kept.sequence), 4.0)[1])
    assert end.stored_at == 1
    assert [each.value for each in core._store.get(KEY, 50.0)] == [b"two"]


def test_answers_are_brief_where_the_nearest_alone_are_wanted_or_a_count_of_holders() -> None:
    core = knowing(*range(1, 60))
    starts = {
        "find": core.find_nodes(KEY, 1.0)[1],
        "get all": core.get([KEY], 1.0)[1],
        "get one": core.get([KEY], 1.0, quorum=1)[1],
        "get two keys": core.get([KEY, peer_id(7)], 1.0, quorum=1)[1],
    }
    brief = {name: {asked.brief for _, asked in sent(effects, FindNodes)} for name, effects in starts.items()}
    assert brief == {"find": {True}, "get all": {False}, "get one": {True}, "get two keys": {False}}


def test_a_get_asks_no_more_than_it_wants_where_who_is_next_holds_it_by_all_likelihood() -> None:
    core = knowing(*range(1, 60))
    for index in range(20):  # the size of the network is known
        core._searches.size.found(peer_id(1000 + index), core._table.nearest(peer_id(1000 + index), 20))
    counts = {
        quorum: len(sent(core.get([KEY], 1.0, quorum=quorum)[1], FindNodes)) for quorum in (None, 0, 1, 2, 3)
    }
    assert counts == {None: 3, 0: 3, 1: 1, 2: 2, 3: 3}
    _, effects = core.get([KEY], 1.0, quorum=1)
    ((first, question),) = sent(effects, FindNodes)
    fresh = sent(core.receive(first, found(question.query), 1.01), FindNodes)
    assert len(fresh) == 3, "it had nothing: the likelihood was wrong, and time is worth more"


def test_answers_are_whole_again_once_somebody_has_failed() -> None:
    core = knowing(*range(1, 60))
    _, effects = core.find_nodes(KEY, 1.0)
    (failing, *_), now = [to.peer for to, _ in sent(effects, FindNodes)], 1.0
    assert failing is not None
    fresh = sent(core.forget(failing, now), FindNodes)
    assert [asked.brief for _, asked in fresh] == [False]


def test_a_brief_answer_that_lacks_records_is_asked_for_whole() -> None:
    cores = joined(6)
    for index in range(5):
        _, effects = cores[1].put(Put(key=KEY, value=bytes(500), subkey=b"%d" % index, ttl_s=60.0), 2.0)
        exchange(cores, effects, cores[1], 2.0)
    asker = make_core(77)
    cores.append(asker)
    exchange(cores, asker.bootstrap([cores[0].contact], 2.0), asker, 2.0)
    _, effects = asker.get([KEY], 3.0, quorum=1)
    (end,) = done(exchange(cores, effects, asker, 3.0))
    assert len(end.values) == 5
    assert asker.statistics()["queries_renewed"] >= 1


def test_a_search_ends_at_its_time_with_what_it_has() -> None:
    query = QueryConfig(timeout_initial_s=1.0, timeout_s_max=1.0, lookup_s_max=1.5)
    core = knowing(1, 2, config=DhtConfig(query=query))
    _, effects = core.find_nodes(KEY, 0.0)
    (first, question), _ = sent(effects, FindNodes)
    core.receive(first, found(question.query), 0.1)
    assert not done(core.tick(1.4))
    (end,) = done(core.tick(1.5))
    assert end.nearest == (first,), "the other may be asked twice more, for seven seconds"


def test_where_others_must_be_hidden_the_search_begins_again_with_those_not_asked() -> None:
    core = knowing(*range(1, 60))
    for index in range(10):  # a network of some million, by its lookups
        key = peer_id(2000 + index)
        near = [PeerId(key[:2] + bytes([rank]) * 30) for rank in range(20)]
        core._searches.size.found(key, [Contact(peer, endpoint(1)) for peer in near])
    _, effects = core.find_nodes(KEY, 1.0)
    asked: set[Contact] = set()
    while questions := sent(effects, FindNodes):
        asked |= {to for to, _ in questions}
        effects = []
        for to, question in questions:
            effects += core.receive(to, found(question.query), 1.1)
    assert len(asked) > 20
    assert core.statistics()["restarts"] >= 1
