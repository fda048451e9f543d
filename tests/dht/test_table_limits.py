"""Who keeps a place in the table: under failures, floods, and attacks from one block of addresses."""

import dataclasses
import random

from p2pinfer.dht.config import DhtConfig, TableConfig
from p2pinfer.dht.keyspace import bucket_range, prefix_length
from p2pinfer.dht.table import CHECK_S_MAX, RoutingTable
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.puzzle import zero_bits
from tests.dht.peers import contact, endpoint, peer_id, waiting
from tests.dht.test_table import OWN, in_bucket, table_with


def test_two_contacts_of_one_group_in_a_bucket_and_ten_in_the_table() -> None:
    table = RoutingTable(OWN, DhtConfig())
    rng = random.Random(2)
    for prefix in range(12):
        for index in range(5):
            low, high = bucket_range(OWN, prefix)
            peer = PeerId(rng.randint(low, high).to_bytes(32, "big"))
            table.confirm(Contact(peer, Endpoint(f"8.8.8.{5 * prefix + index}", 7946)), 0.01, 1.0)
    assert len(table) == 10
    by_prefix = [prefix_length(OWN, found.peer or b"") for found in table.nearest(OWN, 100)]
    assert max(by_prefix.count(prefix) for prefix in set(by_prefix)) == 2
    for found in table.nearest(OWN, 100):
        assert found.peer is not None
        table.forget(found.peer)
    table.confirm(contact(1, "8.8.8.8"), 0.01, 2.0)
    assert len(table) == 1, "the count of a group goes down again"


def test_private_addresses_are_exempt_unless_the_setting_says_no() -> None:
    assert len(table_with(30)) + waiting(table_with(30)) == 30
    strict = dataclasses.replace(DhtConfig(), table=TableConfig(private_exempt=False))
    table = RoutingTable(OWN, strict)
    for index in range(1, 31):
        table.confirm(contact(index), 0.01, 1.0)
    assert len(table) + waiting(table) <= 10


def test_an_answering_contact_replaces_a_doubtful_one_of_its_group() -> None:
    table = RoutingTable(OWN, DhtConfig())
    peers = [each.peer for each in in_bucket(0, 3)]
    contacts = [Contact(peer, Endpoint(f"8.8.8.{index}", 1)) for index, peer in enumerate(peers)]
    assert table.offer(contacts[0], 1.0)
    assert table.offer(contacts[1], 1.0)
    assert not table.offer(contacts[2], 1.0)
    table.confirm(contacts[2], 0.01, 2.0)
    assert contacts[2] in table.nearest(OWN, 20)
    assert len(table) == 2


def test_questions_that_fail_together_are_one_failure() -> None:
    table = table_with(3)
    for _ in range(20):  # twenty lookups had asked the same dead peer
        table.fail(contact(1), 7.0)
    assert peer_id(1) in table
    known = table[peer_id(1)]
    assert known is not None
    assert known.failures == 1
    table.fail(contact(1), 12.0)
    assert known.failures == 2, "after its back-off a failure counts again"


def test_a_contact_that_is_being_checked_is_not_checked_again_meanwhile() -> None:
    table = RoutingTable(OWN, DhtConfig())
    table.offer(contact(1), 1.0)
    table.offer(contact(2), 1.0)
    assert {table.next_to_check(1.0), table.next_to_check(1.1)} == {contact(1), contact(2)}
    assert table.next_to_check(1.2) is None, "both answers are on their way"
    assert table.check_at == 1.0 + CHECK_S_MAX
    table.fail(contact(1), 8.0)
    assert table.check_at == 13.0
    table.confirm(contact(2), 0.01, 8.0)
    assert table.next_to_check(12.9) is None
    assert table.next_to_check(13.0) == contact(1)


def test_who_was_never_asked_goes_before_who_was_silent_for_longest() -> None:
    table = RoutingTable(OWN, DhtConfig())
    for index in (1, 2, 3):
        table.confirm(contact(index), 0.01, float(index))
    table.offer(contact(4), 5.0)
    order = [table.next_to_check(2000.0) for _ in range(5)]
    assert order == [contact(4), contact(1), contact(2), contact(3), None]


def test_plans_do_not_pile_up() -> None:
    table = table_with(20)
    now = 0.0
    for _ in range(2000):
        now += 10_000.0
        for index in range(1, 4):
            table.fail(contact(index), now)
            table.confirm(contact(index), 0.01, now)
            table.next_to_check(now)
    assert len(table._checks) <= 4 * 28 + 1


def test_who_waits_and_is_silent_is_told_to_nobody_after_a_while() -> None:
    table = RoutingTable(OWN, DhtConfig(k=2, alpha=1))
    *placed, waiting = in_bucket(0, 3)
    table.confirm(waiting, 0.01, 1.0)
    for each in placed:
        table.confirm(each, 0.01, 1.0)
    late = [each for each in (*placed, waiting) if each.peer not in table._buckets[0].nodes]
    assert len(late) == 1
    assert late[0] in table.nearest(OWN, 20)
    checked = [table.next_to_check(901.0), table.next_to_check(901.0)]
    for found in checked:
        assert found is not None
        table.confirm(found, 0.01, 901.0)
    assert table.next_to_check(901.0) is None
    assert late[0] not in table.nearest(OWN, 20)
    table.confirm(late[0], 0.01, 902.0)
    assert late[0] in table.nearest(OWN, 20)


def test_a_place_goes_to_who_answered_last_before_who_never_did() -> None:
    """Kademlia, section 4.1: the most recently seen entry of the replacement cache, if it is alive."""
    table = RoutingTable(OWN, DhtConfig(k=1, alpha=1))
    first, good, stranger = in_bucket(0, 3)
    table.confirm(first, 0.01, 1.0)
    table.confirm(good, 0.01, 2.0)
    assert not table.offer(stranger, 3.0)
    assert first.peer is not None
    table.forget(first.peer)
    assert list(table._buckets[0].nodes) == [good.peer]


def test_a_flood_of_strangers_pushes_no_good_contact_out_of_the_replacement_cache() -> None:
    table = RoutingTable(OWN, DhtConfig(k=2, alpha=1))
    crowd = in_bucket(0, 400)
    good, strangers = crowd[:12], crowd[12:]
    for each in good:
        table.confirm(each, 0.01, 1.0)
    assert (len(table), waiting(table)) == (2, 10)
    for each in strangers:
        assert not table.offer(each, 2.0)
    assert (len(table), waiting(table)) == (2, 10)
    assert {each.peer for each in table.nearest(OWN, 100)} == {each.peer for each in good}


def test_a_stranger_fills_the_cache_only_up_to_its_size_and_gives_way_to_the_good() -> None:
    table = RoutingTable(OWN, DhtConfig(k=2, alpha=1))
    crowd = in_bucket(0, 300)
    for each in crowd[:200]:
        table.offer(each, 1.0)
    assert (len(table), waiting(table)) == (2, 10)
    for each in crowd[200:212]:
        table.confirm(each, 0.01, 2.0)
    assert (len(table), waiting(table), table.good_count) == (2, 10, 12)


def test_a_contact_that_failed_once_keeps_its_place_while_others_answer() -> None:
    table = RoutingTable(OWN, DhtConfig(k=3, alpha=1))
    *members, newcomer = in_bucket(0, 4)
    for each in members:
        table.confirm(each, 0.01, 1.0)
    assert members[0].peer is not None
    table.fail(members[0], 2.0)
    table.confirm(newcomer, 0.01, 3.0)
    assert members[0].peer in table._buckets[0].nodes
    table.fail(members[0], 10.0)
    assert members[0].peer not in table
    assert newcomer.peer in table._buckets[0].nodes


def test_thousands_of_ids_of_one_group_take_ten_places_and_no_good_one() -> None:
    """discv5: two of one /24 in a bucket and ten in the table."""
    table = RoutingTable(OWN, DhtConfig())
    rng = random.Random(5)
    honest = [Contact(PeerId(rng.randbytes(32)), Endpoint(f"9.{index}.1.1", 7946)) for index in range(60)]
    for each in honest:
        table.confirm(each, 0.01, 1.0)
    before = table.nearest(OWN, 100)
    for index in range(5000):
        evil = Contact(PeerId(rng.randbytes(32)), Endpoint(f"8.8.8.{index % 256}", 1 + index))
        table.offer(evil, 2.0)
        if index % 3 == 0:
            table.confirm(evil, 0.01, 2.0)
    told = table.nearest(OWN, 200)
    assert [each for each in told if each.endpoint.host.startswith("9.")] == before
    assert len(told) - len(before) <= 10
    assert table._groups["8.8.8.0/24"] <= 10
    for bucket in table._buckets.values():
        assert bucket.groups["8.8.8.0/24"] <= 2


def test_a_moved_contact_stays_where_it_answers_if_its_new_group_is_full() -> None:
    table = RoutingTable(OWN, DhtConfig())
    one, two, three = in_bucket(0, 3)
    table.confirm(Contact(one.peer, Endpoint("8.8.8.1", 1)), 0.01, 1.0)
    table.confirm(Contact(two.peer, Endpoint("8.8.8.2", 1)), 0.01, 1.0)
    home = Contact(three.peer, Endpoint("9.9.9.9", 1))
    table.confirm(home, 0.01, 1.0)
    table.confirm(Contact(three.peer, Endpoint("8.8.8.3", 1)), 0.01, 2.0)
    assert home in table.nearest(OWN, 3)
    assert table._groups == {"8.8.8.0/24": 2, "9.9.9.0/24": 1}


def test_a_good_contact_heard_from_elsewhere_is_asked_there_before_it_is_believed() -> None:
    table = table_with(1)
    moved = Contact(peer_id(1), endpoint(77))
    assert table.offer(moved, 2.0)
    assert table.next_to_check(2.0) == moved
    assert table.offer(moved, 2.1)
    assert table.next_to_check(2.1) is None, "one check at a time, however often it speaks"
    table.fail(moved, 9.0)
    assert table.nearest(OWN, 1) == [contact(1)], "it is where it answers"
    assert table.next_to_check(2.0 + CHECK_S_MAX) == moved
    table.confirm(moved, 0.01, 63.0)
    assert table.nearest(OWN, 1) == [moved]


def test_who_lies_about_a_good_contacts_address_does_not_push_it_out() -> None:
    table = table_with(3)
    lie = Contact(peer_id(1), endpoint(666))
    assert table.good_contact(peer_id(1)) == contact(1)
    for step in range(50):
        table.fail(lie, 10.0 * step)
    assert contact(1) in table.nearest(OWN, 3)
    table.fail(contact(1), 1000.0)
    assert table.good_contact(peer_id(1)) is None, "once it fails there, what others say is tried"
    assert table.good_contact(peer_id(9)) is None
    assert table.good_contact(None) is None


def test_an_id_without_the_swarms_work_in_it_never_enters() -> None:
    """S/Kademlia, section 4.1: the static puzzle is checked before anybody is believed."""
    table = RoutingTable(OWN, DhtConfig(id_difficulty=4))
    for index in range(1, 200):
        table.offer(contact(index), 1.0)
        table.confirm(contact(index), 0.01, 1.0)
    assert 0 < len(table) < 40
    assert all(zero_bits(each.peer) >= 4 for each in table.nearest(OWN, 200) if each.peer)


def test_one_peer_far_too_near_does_not_make_every_refresh_longer_before_it_answers() -> None:
    table = table_with(30)
    low, _ = bucket_range(OWN, 200)
    table.offer(Contact(PeerId(low.to_bytes(32, "big")), endpoint(900)), 1.0)
    assert len(table.choose_refresh_keys(5.0, random.Random(1), 10.0)) < 20
