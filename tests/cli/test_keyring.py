"""`keyring` against a node that answers from a list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pinfer.cli.app import main

from .conftest import ListeningClient

RING: dict[str, Any] = {
    "version": 3,
    "in_use": "1a2b3c4d",
    "keys": ["00112233", "1a2b3c4d"],
    "members_behind": 1,
    "members": [
        {"peer": "bb" * 32, "name": "[bold]attic\x1b[31m", "endpoint": "10.0.0.2:7946", "version": 3},
        {"peer": "cc" * 32, "name": "", "endpoint": "10.0.0.3:7946", "version": None},
    ],
}


@pytest.fixture(autouse=True)
def _ring(node: ListeningClient) -> None:
    node.ring = dict(RING)


def test_list_shows_keys_and_who_is_behind(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    assert main(["keyring", "list"]) == 0
    text = capsys.readouterr().out
    assert "version 3\nkey 00112233\nkey 1a2b3c4d  in use\n" in text
    attic, nameless = (line for line in text.splitlines() if line.strip().startswith(("bb", "cc")))
    assert attic.split() == ["bbbbbbbb", "[bold]attic[31m", "10.0.0.2:7946", "3"]
    assert nameless.split() == ["cccccccc", "10.0.0.3:7946", "?"]
    assert "1 of 2 members are not known to have version 3" in text
    assert "\x1b" not in text
    assert node.commands == [("list", "", False)]


def test_a_node_without_a_keyring_says_so(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    node.ring = {"version": 0, "in_use": None, "keys": [], "members_behind": 0, "members": []}
    assert main(["keyring", "list"]) == 0
    assert "this node has no keyring" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "command", "shown"),
    [
        (["install"], ("install", "", False), "1a2b3c4d\n"),
        (
            ["use", "1A2B3C4D"],
            ("use", "1a2b3c4d", False),
            "the swarm seals with 1a2b3c4d; also in the keyring: 00112233\n",
        ),
        (
            ["remove", "00112233", "--force"],
            ("remove", "00112233", True),
            "the swarm seals with 1a2b3c4d; also in the keyring: 00112233\n",
        ),
        (
            ["rotate", "--force"],
            ("rotate", "", True),
            "the swarm seals with 1a2b3c4d; also in the keyring: 00112233\n",
        ),
    ],
)
def test_a_change_is_asked_of_the_node(
    capsys: pytest.CaptureFixture[str],
    node: ListeningClient,
    line: list[str],
    command: tuple[str, str, bool],
    shown: str,
) -> None:
    assert main(["keyring", *line]) == 0
    assert capsys.readouterr().out == shown
    assert main(["keyring", *line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RING
    assert node.commands == [command, command]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["use"], "the following arguments are required: ID"),
        (["use", "first"], "'first' is no key's id: eight hexadecimal digits, as in 1a2b3c4d"),
        (["remove", "1a2b"], "'1a2b' is no key's id"),
        (["install", "--force"], "unrecognized arguments: --force"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str], line: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keyring", *line])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
