"""generate, chat and status against a node that answers from a list."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from rich.console import Console

from p2pinfer.cli.app import main
from p2pinfer.cli.generate import stats_line
from p2pinfer.cli.status import status_table
from p2pinfer.errors import NoChain
from p2pinfer.ids import Endpoint
from p2pinfer.wire.messages.client import ChatMessage
from p2pinfer.wire.messages.inference import Sampling

from .conftest import ListeningClient

STATUS: dict[str, Any] = {
    "peer": "aa" * 32,
    "name": "cellar",
    "endpoint": "10.0.0.1:7946",
    "swarm": "5e" * 32,
    "model": "smollm2:135m",
    "span": "0:15",
    "sessions": 2,
    "uptime_s": 12.0,
    "peers": [
        {"peer": "cc" * 32, "name": "", "endpoint": "10.0.0.3:7946", "state": "suspect", "sessions": 0},
        {
            "peer": "bb" * 32,
            "name": "[bold]attic\x1b[31m",
            "endpoint": "10.0.0.2:7946",
            "state": "alive",
            "model": "smollm2:135m",
            "span": "15:30",
            "sessions": 1,
            "rtt_ms": 1.26,
        },
    ],
}


def rendered(status: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_table(status))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_an_answer_is_printed(node: ListeningClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Hi"]) == 0
    assert capsys.readouterr() == ("Hello world\n", "")
    (request,) = node.requests
    assert request.prompt == "Hi"
    assert request.sampling == Sampling(token_count_max=256)


def test_every_flag_reaches_the_request(node: ListeningClient) -> None:
    line = "generate x --model m --max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --seed 7"
    more = "--repeat-penalty 1.1 --repeat-last-n 8 --stop . --stop ! --raw --node 1.2.3.4:5"
    assert main([*line.split(), *more.split()]) == 0
    (request,) = node.requests
    assert request.sampling == Sampling(
        temperature=0.5,
        top_k=4,
        top_p=0.9,
        min_p=0.1,
        repeat_penalty=1.1,
        repeat_last_n=8,
        seed=7,
        token_count_max=9,
    )
    assert (request.model, request.stop, request.raw) == ("m", (".", "!"), True)
    assert node.asked[0].node == Endpoint("1.2.3.4", 5)


def test_chance_gets_a_fresh_seed_and_greedy_choice_none(node: ListeningClient) -> None:
    for _ in range(2):
        main(["generate", "x", "--temperature", "1"])
    main(["generate", "x"])
    first, second, greedy = (request.sampling.seed for request in node.requests)
    assert first != second
    assert greedy == 0


def test_json_is_one_object_and_nothing_else(
    node: ListeningClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "Hi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "Hello world"


def test_statistics_go_to_stderr(node: ListeningClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Hi", "--stats"]) == 0
    assert capsys.readouterr().err == (
        "2 tokens at 12.3 tokens/s, 3 in the prompt, recoveries: 42 ms, chain aa [0:15] > bb [15:30]\n"
    )


def test_statistics_that_say_nothing_are_shown_all_the_same() -> None:
    line = "0 tokens at 0.0 tokens/s, 0 in the prompt, recoveries: none, chain unknown"
    assert stats_line({}) == stats_line({"tokens_per_s": None}) == line


def test_a_prompt_can_come_from_the_standard_input(
    node: ListeningClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('It\'s "quoted"\n'))
    assert main(["generate", "-"]) == 0
    assert node.requests[0].prompt == 'It\'s "quoted"\n'


async def _fails() -> AsyncIterator[str]:
    yield "Hel"
    await trio.lowlevel.checkpoint()
    raise NoChain("nobody holds the layers [10,20): start a peer with them")


async def _is_interrupted() -> AsyncIterator[str]:
    yield "Hel"
    signal.raise_signal(signal.SIGINT)
    await trio.sleep_forever()


def test_an_error_is_one_line(node: ListeningClient, capsys: pytest.CaptureFixture[str]) -> None:
    node.play = _fails
    assert main(["generate", "Hi"]) == 1
    assert capsys.readouterr().err == "p2pinfer: nobody holds the layers [10,20): start a peer with them\n"


def test_an_error_is_raised_with_debug(node: ListeningClient) -> None:
    node.play = _fails
    with pytest.raises(NoChain):
        main(["generate", "Hi", "--debug"])


def test_an_interrupted_answer_ends_with_130(
    node: ListeningClient, capsys: pytest.CaptureFixture[str]
) -> None:
    node.play = _is_interrupted
    assert main(["generate", "Hi"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_conversation_keeps_its_history(
    node: ListeningClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    assert main(["chat", "--system", "be brief"]) == 0
    assert node.requests[1].chat == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "one"),
        ChatMessage("assistant", "Hello world"),
        ChatMessage("user", "two"),
    )
    assert capsys.readouterr().out == "Hello world\nHello world\n"


def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    node: ListeningClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.play = _is_interrupted
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert main(["chat"]) == 0
    assert node.requests[1].chat == (
        ChatMessage("user", "one"),
        ChatMessage("assistant", "Hel"),
        ChatMessage("user", "two"),
    )


def test_a_failed_answer_does_not_end_the_conversation(
    node: ListeningClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node.play = _fails
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert main(["chat"]) == 0
    assert len(node.requests) == 2
    assert capsys.readouterr().err.count("nobody holds") == 2


def test_status_as_json(node: ListeningClient, capsys: pytest.CaptureFixture[str]) -> None:
    node.state = STATUS
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_status_as_a_table(node: ListeningClient, capsys: pytest.CaptureFixture[str]) -> None:
    node.state = STATUS
    assert main(["status"]) == 0
    assert "cellar (aaaaaaaa)" in capsys.readouterr().out


def test_the_table_has_this_node_first_and_then_its_peers_by_layers() -> None:
    lines = rendered(STATUS).splitlines()
    rows = [line for line in lines if "10.0.0." in line]
    assert ["this node" in rows[0], "alive" in rows[1], "suspect" in rows[2]] == [True] * 3
    assert "15:30" in rows[1]
    assert "1.3 ms" in rows[1]
    assert rows[2].count(" - ") >= 1
    assert "swarm 5e5e5e5e" in lines[0]


def test_a_name_cannot_play_tricks_on_the_terminal() -> None:
    shown = rendered(STATUS)
    assert "\x1b" not in shown
    assert "[bold]attic" in shown


def test_a_status_that_says_nothing_is_shown_all_the_same() -> None:
    assert "this node" in rendered({})
    assert "this node" in rendered({"peers": [{}], "span": None, "swarm": None})
