"""What a reader believes of what holders tell."""

import itertools

import pytest

from p2pinfer.dht.gathering import Gathering
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.namespaces import own_key
from p2pinfer.dht.records import Fork, digest_of
from tests.dht.peers import in_namespace, public_key, record


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_readers_of_a_fork_agree_and_report_it_once(order: tuple[int, ...]) -> None:
    forked = sorted((record(value=b"%d" % index) for index in range(3)), key=digest_of)
    found = Gathering(None, 3)
    new = [fork for index in order for fork in found.take([forked[index]])]
    new += found.take(forked)
    assert found.sorted() == (forked[0],)
    assert new == list(found.forks.values())
    assert len(new) == 1
    assert new[0] == Fork(*sorted((forked[order[0]], forked[order[1]]), key=digest_of))


def test_what_a_namespace_refuses_is_not_taken_whoever_kept_it() -> None:
    found = Gathering(None, 3)
    assert found.take([in_namespace("provider", record(value=b"junk"))]) == []
    assert found.sorted() == ()


@pytest.mark.parametrize("is_bound_first", [True, False])
def test_nothing_is_found_beside_a_record_that_the_key_belongs_to(is_bound_first: bool) -> None:
    key = own_key(public_key(1))
    bound, junk = in_namespace("own", record(1, key=key)), record(2, key=key)
    found = Gathering(None, 3)
    for each in (bound, junk) if is_bound_first else (junk, bound):
        found.take([each])
    assert found.sorted() == (bound,)
    content = key_of("content", b"v")
    copies = tuple(in_namespace("content", record(owner, key=content)) for owner in (1, 2))
    found.take(copies)
    assert set(found.sorted()) == {bound, *copies}


def test_forks_told_of_are_bounded() -> None:
    found = Gathering(0, 3)
    for owner in range(100):
        found.take([record(owner, value=b"a"), record(owner, value=b"b")])
    assert len(found.forks) == 16
