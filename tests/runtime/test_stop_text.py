"""Ending an answer at a text that may be spread over tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.runtime.stop_text import StopText


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop = StopText(stops)
    given_text = ""
    for piece in pieces:
        given_text += stop.push(piece)
        if stop.has_stopped:
            return given_text, True
    return given_text + stop.flush(), False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["END"], ["a", "EN", "D", "x"], ("a", True)),
        (["END"], ["a", "EN", "x"], ("aENx", False)),
        (["END"], ["aEN"], ("aEN", False)),
        (["aab"], ["a", "a", "a", "b"], ("a", True)),
        (["xy", "y"], ["axyb"], ("a", True)),
        ([], ["any", "thing"], ("anything", False)),
        ([""], ["any"], ("any", False)),
    ],
)
def test_cases(stops: list[str], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert run(stops, pieces) == expected


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=3), max_size=8),
)
def test_pieces_give_what_the_whole_text_gives(stops: list[str], pieces: list[str]) -> None:
    """Held against a search in the whole text, except that the earliest *completed* stop text counts."""
    text = "".join(pieces)
    result, stopped = run(stops, pieces)
    assert stopped == any(stop in text for stop in stops)
    assert text.startswith(result)
    if not stopped:
        assert result == text
    else:
        assert not any(stop in result for stop in stops)
