"""The pages for people are true: every command in them parses, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pinfer.cli import app, serve

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str) -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(
            rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )


def commands() -> list[str]:
    """Every line of the shell blocks that runs one of the two programs."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if re.match(r"(p2pinfer|python -m p2pinfer(\.node)?) ", line)]


@pytest.mark.parametrize("line", commands())
def test_a_command_parses(line: str) -> None:
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "p2pinfer.node"]:
        serve.make_parser().parse_args(words[3:])
    else:
        app.make_parser().parse_args(words[1:])


def test_make_has_the_targets_that_the_pages_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`make ([a-z]+)", text)) | {
        target for block in blocks("sh") for target in re.findall(r"^make ([a-z]+)", block, re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_every_python_block_compiles() -> None:
    found = list(blocks("python"))
    assert found
    for block in found:
        compile(block, "README", "exec")


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in app.COMMANDS if f"`{name}" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
