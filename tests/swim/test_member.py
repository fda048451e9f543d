"""Which of two claims stands: the whole table, and the laws behind it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.swim.member import Claim, MemberState, supersedes

ALIVE, SUSPECT, DEAD, LEFT = MemberState

CLAIMS = st.builds(Claim, st.integers(0, 3), st.sampled_from(MemberState))


@pytest.mark.parametrize(
    ("new", "held"), list(itertools.product(itertools.product((1, 2, 3), MemberState), repeat=2))
)
def test_every_pair_of_claims(new: tuple[int, MemberState], held: tuple[int, MemberState]) -> None:
    # SWIM 4.2: a higher incarnation always stands; within one, worse news does.
    expected = new[0] > held[0] or (new[0] == held[0] and list(MemberState).index(new[1]) > held[1])
    assert supersedes(Claim(*new), Claim(*held)) is expected


@pytest.mark.parametrize(
    ("new", "held", "expected"),
    [
        (Claim(1, SUSPECT), Claim(1, ALIVE), True),
        (Claim(1, ALIVE), Claim(1, SUSPECT), False),
        (Claim(2, ALIVE), Claim(1, SUSPECT), True),
        (Claim(2, ALIVE), Claim(1, DEAD), True),
        (Claim(1, ALIVE), Claim(1, DEAD), False),
        (Claim(1, DEAD), Claim(2, ALIVE), False),
        (Claim(1, LEFT), Claim(1, DEAD), True),
        (Claim(1, DEAD), Claim(1, LEFT), False),
        (Claim(1, ALIVE), Claim(1, ALIVE), False),
    ],
)
def test_the_pairs_that_matter(new: Claim, held: Claim, expected: bool) -> None:
    assert supersedes(new, held) is expected


@given(CLAIMS, CLAIMS, CLAIMS)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_it_is_a_strict_total_order(a: Claim, b: Claim, c: Claim) -> None:
    assert not (supersedes(a, b) and supersedes(b, a))
    assert a == b or supersedes(a, b) or supersedes(b, a)
    if supersedes(a, b) and supersedes(b, c):
        assert supersedes(a, c)


def test_suspects_are_active_and_the_gone_are_not() -> None:
    assert [state for state in MemberState if state.is_active] == [ALIVE, SUSPECT]
