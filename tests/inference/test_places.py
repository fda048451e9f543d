"""Places that holders are at: exact for few, within a bound for many, and not for liars to make."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.inference.holders import HolderBook
from p2pinfer.inference.places import ENTRY_SHARE, PLACE_COUNT_MAX, Places, WayMap
from p2pinfer.wire.messages.records import Holding

Position = tuple[float, float, float]
"""Two coordinates and an access link, in seconds of round trip."""


def round_trip_s(a: Position, b: Position) -> float:
    return math.dist(a[:2], b[:2]) + a[2] + b[2]


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def map_of(places: Places) -> WayMap:
    found = places.map
    assert found is not None
    return found


def estimated_s(places: Places, a: PeerId, b: PeerId) -> float:
    """The round trip between two holders that a chain is planned with."""
    found = map_of(places)
    one, other = found.spots[a], found.spots[b]
    return 2e-9 * found.ways_ns.between[one.place][other.place] + one.access_s + other.access_s


def test_without_positions_there_is_no_map() -> None:
    places = Places(round_trip_s)
    assert places.map is None
    places.put(peer(1), (0.0, 0.0, 0.001))
    assert places.map is None, "its own position is unknown"
    places.set_own((0.0, 0.0, 0.0))
    assert set(map_of(places).spots) == {peer(1)}
    places.forget(peer(1))
    assert places.map is None


def test_few_holders_are_planned_with_the_estimates_themselves(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    places = Places(round_trip_s)
    places.set_own((0.0, 0.0, 0.001))
    positions = {
        peer(n): (0.05 * n + rng.uniform(0, 0.01), rng.uniform(0, 0.1), rng.uniform(0, 0.03))
        for n in range(1, PLACE_COUNT_MAX)
    }
    for name, position in positions.items():
        places.put(name, position)
    places.choose()
    for a, b in itertools.combinations(positions, 2):
        assert estimated_s(places, a, b) == pytest.approx(round_trip_s(positions[a], positions[b]))
    found = map_of(places)
    for name, position in positions.items():
        way_s = math.hypot(*position[:2]) / 2
        entry = found.ways_ns.entry[found.place_of(name)]
        assert entry == pytest.approx(way_s * ENTRY_SHARE * 1e9, abs=1)
    assert found.place_of(peer(99)) == found.home


def test_many_holders_are_planned_with_ways_that_are_off_by_their_places_alone(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    places = Places(round_trip_s)
    places.set_own((0.0, 0.0, 0.0))
    positions = {
        peer(n): (rng.uniform(0, 0.2), rng.uniform(0, 0.2), rng.uniform(0, 0.02)) for n in range(1, 200)
    }
    for name, position in positions.items():
        places.put(name, position)
    found = map_of(places)
    assert len(found.ways_ns.entry) == PLACE_COUNT_MAX
    assert places.spread_s < 0.15, "farthest first: within twice of the best eight places in the square"
    for a, b in itertools.combinations(list(positions)[:60], 2):
        off_s = abs(estimated_s(places, a, b) - round_trip_s(positions[a], positions[b]))
        assert off_s <= 2 * places.spread_s + 1e-6


def test_a_site_is_one_place_however_many_are_there() -> None:
    places = Places(round_trip_s)
    places.set_own((0.0, 0.0, 0.0))
    for n in range(100):
        places.put(peer(n), (0.1 * (n % 3), 0.0001 * (n % 4), 0.001))
    found = map_of(places)
    assert len(found.ways_ns.entry) == 3
    assert len({found.place_of(peer(n)) for n in range(0, 99, 3)}) == 1


def test_no_detour_is_cheaper_than_the_way(sim_seed: int) -> None:
    """The chain's search relies on it, whatever a function estimates."""
    rng = random.Random(sim_seed)
    table = {pair: rng.uniform(0.0, 0.3) for pair in itertools.combinations(range(9), 2)}
    places = Places(lambda a, b: 0.0 if a == b else table[min(a, b), max(a, b)])
    places.set_own(0)
    for n in range(1, 9):
        places.put(peer(n), n)
    between = map_of(places).ways_ns.between
    for a, b, c in itertools.product(range(len(between)), repeat=3):
        assert between[a][b] <= between[a][c] + between[c][b]
        assert between[a][b] == between[b][a]


def test_positions_that_cannot_be_compared_are_left_out() -> None:
    places = Places(lambda a, b: None if "strange" in (a, b) else 0.01)
    places.set_own("here")
    places.put(peer(1), "there")
    places.put(peer(2), "strange")
    assert set(map_of(places).spots) == {peer(1)}
    assert not places.agrees("strange", 0.01)


def put(book: HolderBook, number: int, position: Position | None) -> None:
    held = Holding(model="m:1", digest=bytes(32), layer_count=8, start=0, end=8, step_us=1000)
    book.put(Contact(peer(number), Endpoint("127.0.0.1", 7000)), held, position)


def located(book: HolderBook) -> set[int]:
    found = book.ways()
    return {int.from_bytes(each, "big") for each in found.spots} if found else set()


def test_a_position_counts_only_while_the_measured_round_trip_agrees() -> None:
    book = HolderBook(round_trip_s)
    book.set_own((0.0, 0.0, 0.001))
    put(book, 1, (0.1, 0.0, 0.001))
    put(book, 2, (0.0, 0.0, 0.001))
    put(book, 3, None)
    assert located(book) == {1, 2}
    book.took(peer(1), 0.11)
    book.took(peer(2), 0.11)  # says that it is next door
    assert located(book) == {1}
    for _ in range(20):
        book.took(peer(2), 0.002)
    assert located(book) == {1, 2}
    book.forget(peer(1))
    book.put(Contact(peer(2), Endpoint("127.0.0.1", 7000)), None)
    assert located(book) == set()
    assert book.ways() is None


def test_a_book_without_estimates_has_no_ways() -> None:
    book = HolderBook()
    book.set_own((0.0, 0.0, 0.0))
    put(book, 1, (0.1, 0.0, 0.001))
    assert book.ways() is None
    assert [holder.span for holder in book.by_digest[bytes(32)]] == [Span(0, 8)]
