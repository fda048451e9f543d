"""Our own address in the eyes of others: who counts, how many it takes, and what liars can do."""

import random

import pytest

from p2pinfer.dht.config import ObservedConfig
from p2pinfer.dht.observed import ObservedAddress
from p2pinfer.ids import Contact, Endpoint
from tests.dht.peers import peer_id

TOLD = Endpoint("9.9.9.9", 7946)
MOVED = Endpoint("8.1.2.3", 7946)
LIE = Endpoint("66.6.6.6", 1)


def voter(index: int, host: str = "") -> Contact:
    return Contact(peer_id(index), Endpoint(host or f"7.{index}.0.1", 7946))


def observer(told: Endpoint = TOLD, **settings: float) -> ObservedAddress:
    return ObservedAddress(told, ObservedConfig(**settings))  # type: ignore[arg-type]


def test_three_that_agree_are_believed_once() -> None:
    observed = observer()
    assert [observed.vote(voter(index), MOVED, 1.0) for index in range(1, 7)] == [
        None, None, MOVED, None, None, None,
    ]  # fmt: skip
    assert observed.nat == "same port"
    assert observed.counters["changes"] == 1


def test_a_change_back_and_another_change_are_told_again() -> None:
    observed = observer()
    for index in range(1, 4):
        observed.vote(voter(index), MOVED, 1.0)
    assert [observed.vote(voter(index), TOLD, 2.0) for index in range(1, 4)] == [None] * 3
    assert observed.nat == "none"
    assert [observed.vote(voter(index), MOVED, 3.0) for index in range(1, 4)] == [None, None, MOVED]
    other = Endpoint("8.1.2.4", 7946)
    assert [observed.vote(voter(index), other, 4.0) for index in range(1, 4)] == [None, None, other]


def test_once_it_is_told_to_others_nothing_has_changed() -> None:
    observed = observer()
    for index in range(1, 4):
        observed.vote(voter(index), MOVED, 1.0)
    observed.set_told(MOVED)
    assert [observed.vote(voter(index), MOVED, 2.0) for index in range(1, 9)] == [None] * 8
    assert observed.nat == "none"


def test_a_peer_and_a_block_of_addresses_have_one_vote_each() -> None:
    observed = observer()
    assert not any(observed.vote(voter(1, f"7.{index}.0.1"), LIE, 1.0) for index in range(20))
    assert not any(observed.vote(voter(index, f"7.7.7.{index}"), LIE, 1.0) for index in range(2, 60))
    assert observed.vote(voter(99), MOVED, 1.0) is None


def test_liars_below_the_majority_change_nothing() -> None:
    rng = random.Random(4)
    for liars in range(0, 10):
        observed = observer()
        votes = [(index, LIE if index < liars else TOLD) for index in range(20)]
        rng.shuffle(votes)
        changes = [observed.vote(voter(index), seen, 1.0) for index, seen in votes]
        # Who happens to speak first may be most of all that spoke; it is taken back.
        late = [observed.vote(voter(index), seen, 2.0) for index, seen in votes]
        assert not any(late), liars
        assert observed.nat == ("none" if liars <= 8 else "unknown")
        assert set(changes) <= {None, LIE}


def test_liars_do_not_keep_a_true_change_from_being_seen() -> None:
    observed = observer()
    for index in range(4):
        observed.vote(voter(index), LIE, 1.0)
    for index in range(4, 14):
        observed.vote(voter(index), TOLD, 1.0)
    seen = [observed.vote(voter(index), MOVED, 2.0) for index in range(4, 14)]
    assert seen.count(MOVED) == 1
    assert LIE not in seen


def test_old_votes_do_not_count_and_memory_is_bounded() -> None:
    observed = observer(window_s=10.0, votes_count_max=8)
    observed.vote(voter(1), MOVED, 0.0)
    observed.vote(voter(2), MOVED, 1.0)
    assert observed.vote(voter(3), MOVED, 20.0) is None
    for index in range(200):
        observed.vote(voter(index), Endpoint("8.1.2.3", index + 1), 21.0)
    assert len(observed._votes) == 8


@pytest.mark.parametrize("seen", ["0.0.0.0", "224.0.0.1", "nonsense", "192.168.1.7", "127.0.0.1", "::1"])
def test_nonsense_and_what_cannot_be_is_no_vote(seen: str) -> None:
    observed = observer()
    assert not any(observed.vote(voter(index), Endpoint(seen, 7946), 1.0) for index in range(1, 9))
    assert observed.counters["votes_ignored"] == 8
    assert not any(observed.vote(voter(index), Endpoint("8.1.2.3", 0), 1.0) for index in range(1, 9))
    assert observed.vote(Contact(None, TOLD), MOVED, 1.0) is None


def test_private_addresses_count_where_we_are_private_and_so_are_those_who_see_us() -> None:
    home = Endpoint("192.168.1.5", 7946)
    new = Endpoint("192.168.1.9", 7946)
    far = observer(home)
    assert not any(far.vote(voter(index), new, 1.0) for index in range(1, 9)), "they cannot see that"
    near = observer(home)
    friends = [voter(index, f"192.168.1.{index + 20}") for index in range(1, 9)]
    votes = [near.vote(friend, new, 1.0) for friend in friends]
    assert votes[2] == new, "one private block is a whole swarm: each has a vote"
    assert not any(observer(TOLD).vote(friend, new, 1.0) for friend in friends)
    assert not any(near.vote(friend, Endpoint("127.0.0.1", 7946), 2.0) for friend in friends)


def test_a_symmetric_nat_shows_another_port_to_everybody() -> None:
    observed = observer(Endpoint("192.168.1.5", 7946))
    changes = [observed.vote(voter(index), Endpoint("8.1.2.3", 40_000 + index), 1.0) for index in range(9)]
    assert changes == [None] * 9
    assert observed.nat == "changes"


def test_a_nat_that_maps_once_shows_one_address_and_few_votes_tell_nothing() -> None:
    observed = observer(Endpoint("192.168.1.5", 7946))
    mapped = Endpoint("8.1.2.3", 40_000)
    assert observed.nat == "unknown"
    observed.vote(voter(1), mapped, 1.0)
    observed.vote(voter(2), mapped, 1.0)
    assert observed.nat == "unknown"
    assert observed.vote(voter(3), mapped, 1.0) == mapped
    assert observed.nat == "same port"
