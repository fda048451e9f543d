"""Refusals: what is replicated of them has no words, and the words can always be put to it."""

from __future__ import annotations

import pytest

from p2pinfer.errors import Retry
from p2pinfer.raft.refusals import REASONS, error_of, refusal_of, refused
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.sessions import Refusal


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_travels_and_has_one_line_of_words(code: str) -> None:
    error = refused(code, "app/x", 7, retry_after_ms=1500)
    message = refusal_of(error)
    assert decode(encode(message)) == message
    assert len(encode(message)) < 80, "no words travel"
    again = error_of(message)
    assert (again.code, again.about, again.number, again.retry, again.retry_after_s, str(again)) == (
        code,
        "app/x",
        7,
        REASONS[code][0],
        1.5,
        str(error),
    )
    assert "{" not in str(error)
    assert "\n" not in str(error)


def test_a_reason_of_newer_software_is_said_to_be_one() -> None:
    error = error_of(Refusal(code="later", about="x", number=1, retry=2))
    assert (str(error), error.retry) == ("refused for a reason of newer software (later)", Retry.LATER)
    assert error_of(Refusal(code="later", about="", number=0, retry=9)).retry is Retry.NEVER


def test_what_cannot_be_shown_is_not() -> None:
    assert "\x1b" not in str(refused("wrong_key", "app/\x1b[31m"))
    assert str(refused("wrong_key", "app/ä")).startswith("it is no key")
    assert refusal_of(refused("wrong_key", "app/" + "x" * 1000)).about == "app/" + "x" * 508
