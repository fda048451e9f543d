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
from p2pinfer.cli.status_screen import status_screen
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


PEERS = STATUS["peers"]
BUSY: dict[str, Any] = {
    **STATUS,
    "phase": "serving",
    "uptime_s": 7999,
    "prompts": [{"done": 256, "total": 512}],
    "sessions_parked": 1,
    "waiting_steps": 3,
    "step_ms": 12.3,
    "kv_cache": {
        "used_bytes": 12 << 20,
        "used_percent": 1.17,
        "reserved_bytes": 48 << 20,
        "reserved_percent": 4.69,
        "budget_bytes": 1 << 30,
    },
    "speed": {
        "decode_tokens_per_s": {"last_10_s": 31.5, "last_60_s": 28.1},
        "prefill_tokens_per_s": {"last_10_s": 0.0, "last_60_s": 12.0},
        "busy_percent": {"last_10_s": 43.0, "last_60_s": 20.1},
    },
    "batches": {"count": 52, "mean": 1.8, "sizes": {"1": 40, "2": 12}},
    "recoveries": {"count": 2, "last_pause_ms": 41.2, "last_ago_s": 180},
    "refused": {"overloaded": 3},
    "models": [
        {
            "model": "smollm2:135m",
            "layer_count": 30,
            "holders_min": 0,
            "spans": [
                {"span": "0:10", "holders": 1},
                {"span": "10:12", "holders": 0},
                {"span": "12:30", "holders": 1},
            ],
        }
    ],
}


def rendered(status: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(status_screen(status))
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
    assert "aaaaaaaa cellar" in capsys.readouterr().out


def test_the_table_has_this_node_first_and_then_its_peers_by_layers() -> None:
    lines = rendered(STATUS).splitlines()
    rows = [line for line in lines if "10.0.0." in line][1:]
    assert ["this node" in rows[0], "alive" in rows[1], "suspect" in rows[2]] == [True] * 3
    assert "15:30" in rows[1]
    assert "1.3 ms" in rows[1]
    assert rows[2].count(" -") >= 1


@pytest.mark.parametrize("phase", ["loading", "draining"])
def test_a_peer_that_is_alive_says_what_else_it_is(phase: str) -> None:
    assert phase in rendered({**STATUS, "peers": [{**PEERS[1], phase: True}]})


def test_the_screen_fits_into_80_columns() -> None:
    longest = {**PEERS[0], "name": "x" * 63, "endpoint": "[2001:db8:1234:5678::9abc]:7946", "step_ms": 1234.5}
    lines = rendered({**BUSY, "peers": [longest, {**PEERS[1], "model": "llama:8b"}]}).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("cccccccc xx") and "suspect" in line]


def test_a_busy_node_says_what_it_does() -> None:
    shown = rendered(BUSY)
    for text in (
        "aaaaaaaa cellar at 10.0.0.1:7946: serving layers 0:15 of smollm2:135m",
        "swarm       5e5e5e5e, up 2 h 13 min",
        "prompt      256 of 512 tokens computed",
        "sessions    2 open, 1 parked, 3 steps waiting",
        "cache       12.0 MiB used (1.17 %), 48.0 MiB reserved (4.69 %) of 1.0 GiB",
        "decode      31.5 tokens/s now, 28.1 in the last minute",
        "engine busy 43.0 % now, 20.1 in the last minute",
        "batches     1.8 sessions on average; sessions x batches: 1 x 40, 2 x 12",
        "recoveries  2; the last cost 41.2 ms, 3 min ago",
        "refused     overloaded 3",
        "smollm2:135m: nobody holds layers 10:12 of 30",
    ):
        assert text in shown


def test_a_loading_node_says_how_far_it_is() -> None:
    progress = {"work": "loading layers 0:15 of m", "done": 5, "total": 9, "unit": "tensors", "percent": 55.6}
    shown = rendered({**STATUS, "span": None, "phase": "loading", "progress": progress})
    assert "10.0.0.1:7946: loading 56 %" in shown
    assert "progress    loading layers 0:15 of m: 5 of 9 tensors" in shown
    progress |= {"done": 1 << 20, "total": 2 << 20, "unit": "bytes"}
    assert "1.0 MiB of 2.0 MiB" in rendered({**STATUS, "phase": "pulling", "progress": progress})


@pytest.mark.parametrize(
    ("holders", "text"),
    [
        (1, "all 30 layers are held, some by one peer alone"),
        (2, "all 30 layers are held, each by 2 peers or more"),
    ],
)
def test_a_whole_model_says_how_safe_it_is(holders: int, text: str) -> None:
    model = {
        "model": "m",
        "layer_count": 30,
        "holders_min": holders,
        "spans": [{"span": "0:30", "holders": 1}],
    }
    assert text in rendered({**STATUS, "models": [model]})


def test_watching_shows_every_answer_until_interrupted(
    node: ListeningClient, capsys: pytest.CaptureFixture[str]
) -> None:
    node.state = {"phase": "serving"}
    node.interrupt_after = 3
    assert main(["status", "--json", "--watch", "0.1"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [node.state] * 2
    assert len(node.asked) == 1  # one connection for all


def test_watching_without_a_terminal_writes_no_control_characters(
    node: ListeningClient, capsys: pytest.CaptureFixture[str]
) -> None:
    node.state = BUSY
    node.interrupt_after = 3
    assert main(["status", "--watch", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.count("aaaaaaaa cellar at") == 2
    assert "\x1b" not in out


def test_watching_on_a_terminal_gives_the_screen_back(
    node: ListeningClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    node.state = BUSY
    node.interrupt_after = 2
    assert main(["status", "--watch", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.index("\x1b[?1049h") < out.index("aaaaaaaa cellar at") < out.index("\x1b[?1049l")


def test_a_name_cannot_play_tricks_on_the_terminal() -> None:
    shown = rendered(STATUS)
    assert "\x1b" not in shown
    assert "[bold]attic" in shown


def test_a_status_that_says_nothing_is_shown_all_the_same() -> None:
    assert "this node" in rendered({})
    nothing = dict.fromkeys(BUSY)
    assert "this node" in rendered({**nothing, "span": "0:1"})
    assert "this node" in rendered({"peers": [{}], "span": None, "swarm": None})
