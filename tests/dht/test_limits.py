"""Who may ask how much: by peer, by block of addresses, and with bounded memory."""

import dataclasses

from p2pinfer.dht.config import AnswerConfig
from p2pinfer.dht.limits import RateLimit
from p2pinfer.ids import Contact, Endpoint
from tests.dht.peers import contact, peer_id

CONFIG = AnswerConfig(rate_per_s=1.0, rate_burst_count=3, rate_group_per_s=2.0, rate_group_burst_count=10)


def at(index: int, host: str) -> Contact:
    return Contact(peer_id(index), Endpoint(host, 7946))


def taken(limit: RateLimit, sender: Contact, now: float, questions: int = 20) -> int:
    return sum(limit.allows(sender, now) for _ in range(questions))


def test_a_peer_has_a_burst_and_then_its_rate() -> None:
    limit = RateLimit(CONFIG)
    assert taken(limit, contact(1), 0.0) == 3
    assert taken(limit, contact(1), 0.5) == 0
    assert taken(limit, contact(1), 1.0) == 1
    assert taken(limit, contact(1), 1000.0) == 3
    assert taken(limit, contact(1), 999.0) == 0, "a clock that stands still gives nothing"
    assert not limit.allows(Contact(None, Endpoint("10.0.0.1", 1)), 0.0)


def test_a_thousand_ids_of_one_block_get_no_more_than_the_block() -> None:
    limit = RateLimit(CONFIG)
    assert sum(limit.allows(at(index, f"8.8.8.{index % 256}"), 0.0) for index in range(1000)) == 10
    assert sum(limit.allows(at(index, f"8.8.8.{index % 256}"), 5.0) for index in range(1000)) == 10
    assert sum(limit.allows(at(index, f"2001:db9:0:{index:x}::1"), 0.0) for index in range(1000)) == 10
    assert limit.allows(at(5000, "8.8.9.1"), 5.0), "the next block is another"
    assert len(limit._peers._left) <= 31, "their ids are not even remembered"


def test_one_peer_does_not_use_up_what_its_block_may_ask() -> None:
    limit = RateLimit(CONFIG)
    assert taken(limit, at(1, "8.8.8.1"), 0.0, questions=500) == 3
    assert taken(limit, at(2, "8.8.8.2"), 0.0) == 3


def test_private_addresses_are_one_swarm_unless_the_setting_says_no() -> None:
    senders = [at(index, f"10.0.0.{index}") for index in range(50)]
    assert all(RateLimit(CONFIG).allows(sender, 0.0) for sender in senders)
    limit = RateLimit(CONFIG)
    assert sum(limit.allows(sender, 0.0) for sender in senders) == 50
    strict = RateLimit(dataclasses.replace(CONFIG, rate_private_exempt=False))
    assert sum(strict.allows(sender, 0.0) for sender in senders) == 10


def test_memory_is_bounded_and_the_longest_silent_is_forgotten_first() -> None:
    limit = RateLimit(dataclasses.replace(CONFIG, rate_peers_count_max=8))
    for index in range(100):
        limit.allows(at(index, f"9.{index}.0.1"), float(index) / 1000)
    assert len(limit._peers._left) == len(limit._groups._left) == 8
    assert list(limit._peers._left) == [peer_id(index) for index in range(92, 100)]
