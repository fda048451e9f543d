"""What is kept, for how long, and what a put is answered."""

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.config import DhtConfig, RecordConfig
from p2pinfer.dht.records import Fork, digest_of
from p2pinfer.dht.store import RecordStore
from p2pinfer.wire.messages.dht import DhtRecord
from tests.dht.peers import contact, peer_id, record

KEY = bytes(32)
OWN = peer_id(0)
SENDER = contact(77)


def store(k: int = 20, **changed: float) -> RecordStore:
    limits = dataclasses.replace(RecordConfig(), **changed)  # type: ignore[arg-type]
    return RecordStore(OWN, DhtConfig(k=k, alpha=min(k, 3), record=limits))


def put(kept: RecordStore, each: DhtRecord, now: float, expected: int = -1, nearer: int = 0) -> str:
    return kept.put(each, SENDER, now, expected=expected, nearer_count=nearer).code


def values(kept: RecordStore, now: float) -> list[bytes]:
    return sorted(each.value for each in kept.get(KEY, now))


def test_many_owners_and_subkeys_share_a_key() -> None:
    kept = store()
    for owner in (1, 2, 3):
        for subkey in (b"a", b"b"):
            assert put(kept, record(owner, subkey=subkey), 0.0) == "stored"
    assert len(kept.get(KEY, 0.0)) == len(kept) == len(list(kept)) == 6
    assert kept.get(bytes([1]) * 32, 0.0) == []
    assert kept.keys == (KEY,)


def test_the_higher_sequence_wins_and_an_old_one_is_refused_and_shown_what_is_newer() -> None:
    """BEP-44: error 302, the sequence number is less than the current one."""
    kept = store()
    five, six = record(sequence=5, value=b"five"), record(sequence=6, value=b"six")
    assert put(kept, five, 0.0) == "stored"
    placed = kept.put(record(sequence=4, value=b"four"), SENDER, 0.0)
    assert (placed.code, placed.held, placed.fork) == ("old", five, None)
    assert put(kept, six, 0.0) == "stored"
    assert kept.get(KEY, 0.0) == [six]
    assert len(kept) == 1


def test_compare_and_swap_replaces_only_what_it_expects() -> None:
    """BEP-44, "CAS": error 301, the CAS mismatched."""
    kept = store()
    placed = kept.put(record(sequence=5), SENDER, 0.0, expected=4)
    assert (placed.code, placed.held) == ("cas", None), "nothing is held, and that is no conflict"
    first, second = record(sequence=5), record(sequence=7)
    assert put(kept, first, 0.0, expected=0) == "stored"
    for expected in (0, 4, 6):
        placed = kept.put(second, SENDER, 0.0, expected=expected)
        assert (placed.code, placed.held) == ("cas", first)
    assert put(kept, second, 0.0, expected=5) == "stored"
    assert kept.put(record(sequence=6), SENDER, 0.0, expected=7).code == "old"
    assert kept.get(KEY, 0.0) == [second]


def test_a_compare_and_swap_that_is_repeated_is_answered_as_the_first_time() -> None:
    kept = store()
    put(kept, record(sequence=5), 0.0)
    swap = record(sequence=6, value=b"w")
    assert [put(kept, swap, 0.0, expected=5) for _ in range(3)] == ["stored"] * 3
    assert put(kept, record(sequence=6, value=b"x"), 0.0, expected=5) == "cas"


def test_an_expired_record_does_not_count_for_compare_and_swap() -> None:
    kept = store()
    put(kept, record(sequence=5, expires_s=10.0), 0.0)
    assert put(kept, record(sequence=7), 10.0, expected=5) == "cas"
    assert put(kept, record(sequence=7), 10.0, expected=0) == "stored"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_holders_of_a_fork_agree_whichever_record_they_saw_first(order: tuple[int, ...]) -> None:
    forked = sorted((record(value=b"%d" % index) for index in range(3)), key=digest_of)
    kept = store()
    placed = [kept.put(forked[index], SENDER, 0.0) for index in order]
    assert [each.code for each in placed] == ["stored", "fork", "fork"]
    assert placed[1].held == forked[order[0]]
    news = [each.fork for each in placed if each.fork is not None]
    assert len(news) == 1, "reported once"
    assert {news[0].first, news[0].second} == {forked[order[0]], forked[order[1]]}
    assert kept.forks == (Fork(forked[0], forked[1]),)
    assert list(kept) == [forked[0]]
    assert kept.get(KEY, 0.0) == forked[:2], "readers see the evidence, the preferred one first"
    assert put(kept, forked[0], 0.0) == "stored"
    assert put(kept, forked[1], 0.0) == "fork", "again, but no news"
    assert len(kept) == 1


def test_a_higher_sequence_ends_a_fork_and_the_evidence_stays_until_it_expires() -> None:
    kept = store()
    put(kept, record(value=b"a", expires_s=30.0), 0.0)
    put(kept, record(value=b"b", expires_s=50.0), 0.0)
    assert put(kept, record(sequence=2, value=b"c", expires_s=60.0), 0.0) == "stored"
    assert values(kept, 0.0) == [b"c"]
    kept.sweep(49.0)
    assert len(list(kept.forks)) == 1
    kept.sweep(50.0)
    assert list(kept.forks) == []


def test_when_the_preferred_of_a_fork_expires_the_other_is_served_as_by_those_who_saw_it_alone() -> None:
    later = record(value=b"later", expires_s=40.0)
    tries = (record(value=b"%d" % index, expires_s=20.0) for index in range(100))
    preferred = next(each for each in tries if digest_of(each) < digest_of(later))
    both, alone = store(), store()
    put(both, preferred, 0.0)
    put(both, later, 0.0)
    put(alone, later, 0.0)
    assert list(both) == [preferred]
    for kept in (both, alone):
        kept.sweep(20.0)
        assert kept.get(KEY, 20.0) == [later]
        assert kept.get(KEY, 40.0) == []


def test_evidence_is_bounded_in_all_and_of_each_owner() -> None:
    kept = store(forks_count_max=5, forks_per_owner_count_max=2)
    news = 0
    for owner, index in itertools.product(range(1, 8), range(4)):
        put(kept, record(owner, subkey=bytes([index]), value=b"a"), 0.0)
        news += kept.put(record(owner, subkey=bytes([index]), value=b"b"), SENDER, 0.0).fork is not None
    assert news == 14
    assert len(list(kept.forks)) == 5
    assert {fork.owner for fork in kept.forks} == {peer_id(5), peer_id(6), peer_id(7)}
    kept.sweep(100.0)
    assert list(kept.forks) == []
    assert not kept._evidence._counts


def test_nothing_is_served_or_kept_past_its_owners_expiry() -> None:
    kept = store()
    put(kept, record(expires_s=10.0), 0.0)
    assert kept.get(KEY, 9.999)
    assert kept.get(KEY, 10.0) == []
    assert put(kept, record(2, expires_s=10.0), 10.0) == "void"
    assert kept.sweep(10.0) == 1
    assert len(kept) == kept.size_bytes == 0


def test_a_clock_that_goes_back_revives_nothing() -> None:
    kept = store()
    short, long = record(1, expires_s=10.0), record(2, value=b"long", expires_s=90.0)
    put(kept, short, 0.0)
    put(kept, long, 0.0)
    assert kept.get(KEY, 20.0) == [long]
    assert kept.get(KEY, 5.0) == [long], "not swept yet, and dead all the same"
    assert kept.kept_at(KEY, (b"", peer_id(1)), 5.0) is None
    assert put(kept, short, 5.0) == "void"
    assert kept.sweep(5.0) == 1, "time does not go back here"
    assert list(kept) == [long]


def test_a_shorter_life_under_a_higher_sequence_counts_and_the_longer_one_is_not_brought_back() -> None:
    kept = store()
    long, short = record(sequence=1, expires_s=100.0), record(sequence=2, expires_s=10.0)
    put(kept, long, 0.0)
    put(kept, short, 0.0)
    assert kept.sweep(10.0) == 1
    assert kept.sweep(99.0) == 0
    placed = kept.put(long, SENDER, 99.0)
    assert (placed.code, placed.held) == ("old", None)
    assert put(kept, record(sequence=3, expires_s=120.0), 99.0) == "stored"
    kept.sweep(101.0)
    assert len(kept) == 1
    assert len(kept._floors) == 0


def test_what_is_remembered_of_shortened_lives_is_bounded() -> None:
    kept = store(per_owner_count_max=8192, per_key_count_max=8192)
    for index in range(1100):
        subkey = index.to_bytes(2, "big")
        put(kept, record(sequence=1, subkey=subkey, expires_s=100.0), 0.0)
        put(kept, record(sequence=2, subkey=subkey, expires_s=10.0), 0.0)
    assert len(kept._floors) == 1024


def test_an_expired_record_does_not_block_a_lower_sequence() -> None:
    """An owner whose clock was ahead is not shut out for ever."""
    kept = store()
    put(kept, record(sequence=9, expires_s=10.0), 0.0)
    assert put(kept, record(sequence=3, expires_s=60.0), 20.0) == "stored"
    assert len(kept) == 1


def test_a_life_longer_than_anything_may_live_is_refused() -> None:
    kept = store(ttl_s_max=100.0)
    assert put(kept, record(expires_s=103.0), 0.0) == "stored", "the clocks may differ a little"
    assert put(kept, record(2, expires_s=104.0), 0.0) == "void"


def test_a_copy_on_the_path_lives_half_as_long_for_each_peer_between() -> None:
    """Kademlia, section 2.3: exponentially inversely proportional to the nodes between it and the key."""
    for beyond, lives_s in ((0, 32.0), (1, 16.0), (4, 2.0), (5, 1.0)):
        kept = store(k=4)
        assert put(kept, record(expires_s=64.0), 0.0, nearer=4 + beyond) == "stored"
        assert kept.get(KEY, lives_s - 0.001)
        assert not kept.get(KEY, lives_s)
        assert kept.sweep(lives_s) == 1
    assert put(store(k=4), record(expires_s=64.0), 0.0, nearer=10) == "full", "not worth keeping"
    assert put(store(k=4), record(expires_s=64.0), 0.0, nearer=10_000) == "full"
    kept = store(k=4)
    put(kept, record(expires_s=100_000.0), 0.0, nearer=4)
    assert kept.cached_count == 1
    assert kept.get(KEY, 3599.0)
    assert not kept.get(KEY, 3600.0)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.floats(0.001, 200_000.0), st.integers(0, 200), st.floats(0.0, 1e6))
def test_a_copy_on_the_path_never_outlives_its_owners_word(life_s: float, nearer: int, now: float) -> None:
    kept = store(k=20)
    each = record(expires_s=now + life_s)
    put(kept, each, now, nearer=nearer)
    assert kept.get(KEY, each.expires_ms / 1000 + 1e-6) == []


def test_a_copy_on_the_path_becomes_a_record_when_this_peer_is_among_the_nearest() -> None:
    kept = store(k=4)
    each = record(expires_s=64.0)
    put(kept, each, 0.0, nearer=4)
    assert kept.kept_under(KEY, 0.0) == []
    assert kept.kept_at(KEY, (b"", peer_id(1)), 0.0) is None
    assert put(kept, each, 1.0, nearer=3) == "stored"
    assert kept.cached_count == 0
    assert [known.record for known in kept.kept_under(KEY, 1.0)] == [each]
    newer = record(sequence=2, expires_s=64.0)
    put(kept, newer, 1.0, nearer=4)
    assert kept.cached_count == 0, "what this peer answered for before it goes on answering for"
    assert kept.get(KEY, 63.0) == [newer]


def test_what_its_owner_brings_is_kept_in_full_wherever_that_is() -> None:
    """Around a key that is surrounded by ground ids the owner stores in the whole region."""
    kept = store(k=4)
    each = record(1, expires_s=64.0)
    assert kept.put(each, contact(1), 0.0, nearer_count=50).code == "stored"
    assert kept.cached_count == 0
    assert kept.get(KEY, 63.0) == [each]


def test_a_popular_copy_on_the_path_is_kept_by_being_stored_again() -> None:
    kept = store(k=4)
    each = record(expires_s=64.0)
    for now in (0.0, 16.0, 32.0):
        assert put(kept, each, now, nearer=4) == "stored"
    assert kept.get(KEY, 47.0)
    assert not kept.get(KEY, 48.0)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(0, 3), st.integers(0, 2), st.integers(1, 3), st.integers(1, 40)
        ),
        max_size=80,
    )
)
def test_the_store_agrees_with_a_dumb_twin(steps: list[tuple[int, int, int, int, int]]) -> None:
    """Without full quotas the store is a dictionary of the highest sequences, less the expired."""
    kept = store()
    twin: dict[tuple[bytes, bytes, bytes], DhtRecord] = {}
    for at, (owner, key, subkey, sequence, life_s) in enumerate(steps):
        now = float(at)
        each = record(
            owner,
            key=bytes([key]) * 32,
            subkey=bytes([subkey]),
            sequence=100 * at + sequence if sequence < 3 else 1,  # 1 is old wherever something stands
            value=b"%d" % at,
            expires_s=now + life_s,
        )
        where = (each.key, each.subkey, bytes(each.owner))
        known = twin.get(where)
        is_blocked = known is not None and known.expires_ms > now * 1000 and known.sequence > each.sequence
        is_fork = known is not None and known.expires_ms > now * 1000 and known.sequence == each.sequence
        code = put(kept, each, now)
        if code == "stored" or (is_fork and digest_of(each) < digest_of(known or each)):
            twin[where] = each
        assert (code == "fork") == is_fork
        assert code == "old" or not is_blocked
        if at % 7 == 0:
            kept.sweep(now)
        alive = {place: found for place, found in twin.items() if found.expires_ms > now * 1000}
        found = {(r.key, r.subkey, bytes(r.owner)): r for r in kept if r.expires_ms > now * 1000}
        assert found == alive
    kept.sweep(1000.0)
    assert len(kept) == kept.size_bytes == 0
    assert not kept._quotas._by_owner
    assert not kept._quotas.by_key


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_holders_converge_whatever_the_order_of_arrival(data: st.DataObject) -> None:
    """A fork, an old and a new record, in two orders, some twice: both holders prefer the same."""
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    records = [
        record(sequence=sequence, value=b"%d" % value, expires_s=60.0)
        for sequence in (1, 2)
        for value in range(3)
    ]
    preferred = []
    for _ in range(2):
        kept = store()
        order = rng.sample(records, len(records)) + rng.choices(records, k=4)
        for each in order:
            put(kept, each, 0.0)
        preferred.append(list(kept))
    assert preferred[0] == preferred[1] == [min(records[3:], key=digest_of)]
