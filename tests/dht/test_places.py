"""The order of the key space against comparing everything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.dht.keyspace import KEY_SIZE_BITS
from p2pinfer.dht.places import Places
from p2pinfer.ids import Contact, PeerId
from tests.dht.peers import endpoint, nearest_by_force

TOP = (1 << KEY_SIZE_BITS) - 1


def key_at(number: int) -> bytes:
    return number.to_bytes(32, "big")


@st.composite
def numbers(draw: st.DrawFn) -> int:
    """Anywhere, at both ends, at split points and right beside them, and in one small corner."""
    split = 1 << draw(st.integers(0, KEY_SIZE_BITS - 1))
    base = draw(st.sampled_from([0, TOP, split, split - 1, TOP ^ split, draw(st.integers(0, TOP))]))
    return min(TOP, max(0, base + draw(st.integers(-3, 3))))


def filled(ids: list[int]) -> Places:
    places = Places()
    for index, number in enumerate(ids):
        places.put(number, Contact(PeerId(key_at(number)), endpoint(index)))
    return places


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(numbers(), max_size=40, unique=True), numbers(), st.integers(0, 45))
def test_the_nearest_are_those_that_comparing_all_gives(ids: list[int], target: int, count: int) -> None:
    found = [each.peer for each in filled(ids).nearest(key_at(target), count)]
    assert found == nearest_by_force(key_at(target), map(key_at, ids), count)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), numbers()), max_size=60), numbers())
def test_what_was_removed_is_found_no_more(steps: list[tuple[bool, int]], target: int) -> None:
    places, model = Places(), set()
    for is_put, number in steps:
        if is_put:
            places.put(number, Contact(PeerId(key_at(number)), endpoint(1)))
            model.add(number)
        else:
            places.remove(number)
            model.discard(number)
    assert len(places) == len(model)
    assert all(number in places for number in model)
    found = [each.peer for each in places.nearest(key_at(target), 10)]
    assert found == nearest_by_force(key_at(target), map(key_at, model), 10)


def test_every_pair_of_a_small_space_exactly() -> None:
    ids = [number << 250 for number in range(0, 64, 3)]
    places = filled(ids)
    for target in (number << 250 for number in range(64)):
        for count in range(len(ids) + 2):
            found = [each.peer for each in places.nearest(key_at(target), count)]
            assert found == nearest_by_force(key_at(target), map(key_at, ids), count)


def test_another_address_takes_the_place_of_the_first() -> None:
    places = filled([5])
    moved = Contact(PeerId(key_at(5)), endpoint(9))
    places.put(5, moved)
    assert len(places) == 1
    assert places.nearest(key_at(0), 3) == [moved]
