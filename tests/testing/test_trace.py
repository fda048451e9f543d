"""Lines are aligned, short and the same in every process; hashes tell runs apart."""

from __future__ import annotations

import enum
import io
from dataclasses import dataclass

from p2pinfer.ids import Contact, Endpoint, PeerId, Span
from p2pinfer.testing import Latency, Trace, derive
from p2pinfer.testing.trace import DETAILS_SIZE_MAX, brief
from tests.toy_core import ToyShot


class Colour(enum.Enum):
    RED = 1


@dataclass
class Pair:
    left: object
    right: object


def test_values_are_written_shortly_and_without_addresses() -> None:
    assert brief(ToyShot(3, bytes(100))) == "ToyShot(number=3 padding=00000000…100B)"
    assert brief(b"\x01\x02") == "0102"
    assert brief(Pair(None, True)) == "Pair(left=- right=True)"
    assert brief(Colour.RED) == "RED"
    assert brief({"b", "a", "c"}) == "{'a','b','c'}"
    assert brief({"b": 1.5, "a": (1, [2])}) == "{'b':1.5,'a':(1,(2))}"
    assert brief(object()) == "object"
    assert brief(test_values_are_written_shortly_and_without_addresses).startswith("test_values")
    assert brief(ValueError("no")) == "ValueError: no"
    assert brief(Span(0, 4)) == "[0,4)"
    assert brief(Contact(PeerId(bytes(32)), Endpoint("h", 1))) == "00000000@h:1"
    assert brief(PeerId(bytes(32))) == "00000000…32B"
    assert len(brief("x" * 1000)) < 60


def test_lines_are_aligned_and_go_to_memory_the_hash_and_a_file() -> None:
    file = io.StringIO()
    trace = Trace(keep_count=2, file=file)
    for number in range(3):
        trace.line(number + 0.5, "h1", "send", "to", Pair(number, "x" * 40))
    assert trace.count == 3
    assert len(trace.lines) == 2
    assert file.getvalue().splitlines()[1:] == list(trace.lines)
    assert file.getvalue().splitlines()[0].startswith("    0.500000  h1        send         to Pair(left=0")
    assert trace.tail(1) == trace.lines[-1]


def test_the_hash_covers_every_line_and_its_end() -> None:
    def hash_of(*details: str) -> str:
        trace = Trace(keep_count=1)
        for detail in details:
            trace.line(0.0, "-", "fault", detail)
        return trace.hash

    assert hash_of("a", "b") == hash_of("a", "b")
    assert len({hash_of(), hash_of("a"), hash_of("b"), hash_of("a", "b"), hash_of("b", "a")}) == 5


def test_a_long_message_does_not_hide_the_next_line() -> None:
    trace = Trace()
    trace.line(0.0, "h1", "recv", tuple(range(1000)))
    assert len(trace.lines[0]) < DETAILS_SIZE_MAX + 50


def test_generators_are_independent_by_name_and_seed() -> None:
    def first(seed: int, name: str) -> float:
        return derive(seed, name).random()

    assert first(1, "a") == first(1, "a")
    assert len({first(1, "a"), first(1, "b"), first(2, "a")}) == 3
    assert first(1, "a") == 0.9746882883618907, "seeds of failures stay good from one version to the next"


def test_a_latency_stays_above_its_base_and_near_its_mean() -> None:
    rng = derive(1, "latency")
    values = [Latency(1.0, 2.0, "exponential").draw(rng) for _ in range(5000)]
    assert min(values) >= 1.0
    assert 2.8 < sum(values) / len(values) < 3.2
    assert Latency(1.0).draw(rng) == 1.0
