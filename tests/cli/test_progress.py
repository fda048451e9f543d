"""Long work on the screen: few plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import sys

import pytest

from p2pinfer.cli import progress as progress_module
from p2pinfer.cli.progress import LINE_INTERVAL_S, Pace, PlainLines, duration_text, progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3600, "1 h 0 min"), (7999, "2 h 13 min"), (2e5, "2 days")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_figures_say_how_much_how_fast_and_how_long() -> None:
    pace = Pace("bytes", 0, 10.0)
    assert pace.text(0, 4 << 20, 10.0) == "0 %, 0 B of 4.0 MiB"
    assert pace.text(1 << 20, 4 << 20, 12.0) == "25 %, 1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6 s left"
    assert pace.text(4 << 20, 4 << 20, 18.0) == "100 %, 4.0 MiB of 4.0 MiB, 512.0 KiB/s"
    assert pace.text(1 << 20, 0, 12.0) == "1.0 MiB, 512.0 KiB/s"


def test_what_was_done_before_is_no_speed() -> None:
    pace = Pace("tokens", 100, 0.0)
    assert pace.text(110, 200, 1.0) == "55 %, 110 of 200 tokens, 10/s, 9 s left"
    assert Pace("tensors", 0, 0.0).text(3, 6, 2.0) == "50 %, 3 of 6 tensors, 1.5/s, 2 s left"


def test_lines_are_few() -> None:
    written: list[str] = []
    lines = PlainLines(written.append)
    for tick in range(100):
        lines.show("m: downloading", tick, 100, "bytes", now=tick / 10)
    lines.show("m: downloading", 100, 100, "bytes", now=10.0)
    assert [line.split(",")[0] for line in written] == [
        f"m: downloading: {percent} %" for percent in (0, 30, 60, 90, 100)
    ]
    assert LINE_INTERVAL_S == 3


def test_each_piece_of_work_has_a_line_of_its_own_at_its_beginning() -> None:
    written: list[str] = []
    lines = PlainLines(written.append)
    for text in ("a", "a", "b", "b"):
        lines.show(text, 0, 0, "bytes", now=0.0)
    assert written == ["a: 0 B", "b: 0 B"]


def test_patience_says_nothing_of_what_is_soon_over() -> None:
    written: list[str] = []
    lines = PlainLines(written.append, is_patient=True)
    lines.show("quick", 0, 10, "tokens", now=0.0)
    lines.show("quick", 10, 10, "tokens", now=2.9)
    assert written == []
    lines.show("slow", 0, 10, "tokens", now=3.0)
    lines.show("slow", 5, 10, "tokens", now=7.0)
    lines.show("slow", 10, 10, "tokens", now=8.0)
    assert [line.split(",")[0] for line in written] == ["slow: 50 %", "slow: 100 %"]


def show_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called within the test: what stderr is differs from phase to phase."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_on_a_terminal_it_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_a_terminal(monkeypatch)
    with progress() as show:
        show("[m]: \x1bdownloading", 50, 100, "bytes")
    shown = capsys.readouterr().err
    assert "[m]: downloading" in shown
    assert "50 B of 100 B" in shown
    assert "\x1b[?25h" in shown  # the cursor is shown again


def test_a_bar_for_what_is_soon_over_does_not_appear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_a_terminal(monkeypatch)
    with progress(is_patient=True) as show:
        show("reading the prompt", 0, 100, "tokens")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.0)
    with progress(is_patient=True) as show:
        show("reading the prompt", 0, 100, "tokens")
    assert "reading the prompt" in capsys.readouterr().err
