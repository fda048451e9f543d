"""`dht` against a node that answers from a list."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import pytest

from p2pinfer.cli.app import main

from .conftest import ListeningClient

KEY = "ab" * 32
NOW = time.time()
VALUES: list[dict[str, Any]] = [
    {
        "owner": "bb" * 32,
        "namespace": "value",
        "value": "hello [bold]\x1b[31m",
        "value_hex": "00",
        "subkey": "",
        "subkey_hex": "",
        "sequence": 7,
        "expires_s": NOW + 3600 * 5 + 60,
    },
    {
        "owner": "cc" * 32,
        "namespace": "value",
        "value": None,
        "value_hex": "ff00",
        "subkey": "second",
        "subkey_hex": "7365636f6e64",
        "sequence": 9,
        "expires_s": NOW + 30,
    },
]
STATUS: dict[str, Any] = {
    "peer": "aa" * 32,
    "endpoint": "10.0.0.1:7946",
    "seen": None,
    "nat": "unknown",
    "network_size": 41.7,
    "is_joined": True,
    "contacts": 12,
    "contacts_good": 9,
    "buckets": 4,
    "records": 5,
    "own_records": 2,
}


def test_get_prints_the_values_and_nothing_else(
    capsys: pytest.CaptureFixture[str], node: ListeningClient
) -> None:
    node.dht_answer = {"key": KEY, "values": VALUES}
    assert main(["dht", "get", "greeting"]) == 0
    assert capsys.readouterr().out == "hello [bold][31m\n0xff00\n"
    assert node.dht_commands == [("get", {"name": "greeting", "namespace": "", "subkey": b""})]


def test_get_long_says_whose_each_is(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    node.dht_answer = {"key": KEY, "values": VALUES}
    assert main(["dht", "get", "greeting", "--long"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("bb", "cc"))]
    assert lines[0].split() == ["bbbbbbbb", "hello", "[bold][31m", "7", "5", "h"]
    assert lines[1].split()[:4] == ["cccccccc", "second", "0xff00", "9"]


def test_get_of_nothing_fails_and_says_so(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    node.dht_answer = {"key": KEY, "values": []}
    assert main(["dht", "get", "greeting"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "p2pinfer: nothing is kept under 'greeting'\n")
    assert main(["dht", "get", "greeting", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == node.dht_answer


def test_put_sends_what_was_typed(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    node.dht_answer = {"key": KEY, "stored_at": 3, "ttl_s": 600.0}
    line = ["dht", "put", "greeting", "hello", "--ttl", "10m", "--subkey", "second", "--expected", "0"]
    assert main(line) == 0
    assert capsys.readouterr().out == "greeting is kept by 3 peers\n"
    sent: dict[str, Any] = {"name": "greeting", "namespace": "", "subkey": b"second"}
    sent |= {"value": b"hello", "ttl_ms": 600_000, "expected": 0}
    assert node.dht_commands == [("put", sent)]


def test_put_reads_the_standard_input(node: ListeningClient, monkeypatch: pytest.MonkeyPatch) -> None:
    node.dht_answer = {"key": KEY, "stored_at": 1, "ttl_s": 3600.0}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00\xff")))
    assert main(["dht", "put", "greeting", "-"]) == 0
    ((_, sent),) = node.dht_commands
    assert (sent["value"], sent["ttl_ms"], sent["expected"]) == (b"\x00\xff", 3_600_000, -1)


def test_a_put_that_nobody_took_fails(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    node.dht_answer = {"key": KEY, "stored_at": 0, "ttl_s": 3600.0}
    assert main(["dht", "put", "greeting", "hello"]) == 1
    assert "nobody took it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "action", "what", "shown"),
    [
        (
            ["rm", "greeting"],
            "rm",
            {"name": "greeting", "namespace": "", "subkey": b""},
            "greeting is kept alive no longer",
        ),
        (
            ["provide", "weather"],
            "provide",
            {"name": "weather", "namespace": ""},
            "weather is provided here: 1 peer",
        ),
        (["provide", "weather", "--stop"], "stop", {"name": "weather", "namespace": ""}, "no longer"),
        (["peers", KEY, "--key"], "peers", {"key": bytes.fromhex(KEY)}, "10.0.0.2:7946"),
        (
            ["providers", "a", "--namespace", "manifest"],
            "providers",
            {"name": "a", "namespace": "manifest"},
            "10.0.0.3",
        ),
    ],
)
def test_a_command_is_asked_of_the_node(
    capsys: pytest.CaptureFixture[str],
    node: ListeningClient,
    line: list[str],
    action: str,
    what: dict[str, Any],
    shown: str,
) -> None:
    node.dht_answer = {
        "key": KEY,
        "stored_at": 1,
        "peers": [{"peer": "bb" * 32, "endpoint": "10.0.0.2:7946"}],
        "providers": [
            {"peer": "bb" * 32, "endpoint": None, "expires_s": NOW},
            {"peer": "cc" * 32, "endpoint": "10.0.0.3:7946", "expires_s": NOW + 90},
        ],
    }
    assert main(["dht", *line]) == 0
    assert shown in capsys.readouterr().out
    assert main(["dht", *line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == node.dht_answer
    assert node.dht_commands == [(action, what)] * 2


def test_a_manifest_says_who_says_so(capsys: pytest.CaptureFixture[str], node: ListeningClient) -> None:
    manifest = {
        "name": "smollm2",
        "tag": "135m",
        "file_name": "x.gguf",
        "size_bytes": 91_732_096,
        "sha256": KEY,
        "architecture": "llama\x1b[2J",
        "layer_count": 30,
        "source": "",
    }
    node.dht_answer = {"digest": KEY, "provider": "bb" * 32, "manifest": manifest}
    assert main(["dht", "manifest", KEY]) == 0
    text = capsys.readouterr().out
    assert "name          smollm2:135m\nsize          87.5 MiB\nlayers        30\n" in text
    assert "says          peer bbbbbbbb\n" in text
    assert "\x1b" not in text
    node.dht_answer["provider"] = None
    assert main(["dht", "manifest", KEY]) == 0
    assert "says          this machine\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "seen as       nobody has said yet"),
        ({}, "contacts      12 in 4 buckets, 9 good"),
        ({}, "records       5 kept for others, 2 of its own"),
        ({}, "peers in all  about 42"),
        ({"network_size": None}, "peers in all  not known yet"),
        ({"seen": "192.0.2.1:7", "nat": "same port"}, "others see one other address"),
        ({"nat": "changes"}, "nobody can come in"),
        ({"is_joined": False}, "joined        no"),
    ],
)
def test_status_is_told_in_words(
    capsys: pytest.CaptureFixture[str], node: ListeningClient, change: dict[str, Any], shown: str
) -> None:
    node.dht_answer = STATUS | change
    assert main(["dht", "status"]) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["get"], "the following arguments are required: NAME"),
        (["get", ""], "a name has 1 to 1024 bytes, not 0"),
        (["get", "n" * 1025], "a name has 1 to 1024 bytes, not 1025"),
        (["put", "greeting"], "the following arguments are required: VALUE"),
        (["put", "greeting", "x", "--ttl", "soon"], "'soon' is not a duration"),
        (["put", "greeting", "x", "--subkey", "s" * 65], "a sub-key has 1 to 64 bytes, not 65"),
        (["put", "greeting", "x", "--expected", "-1"], "'-1' is no sequence"),
        (["put", "greeting", "x", "--expected", "first"], "'first' is no sequence"),
        (["put", "greeting", "x", "--namespace", "n" * 17], "is no namespace: 1 to 16 bytes"),
        (["get", "greeting", "--namespace", "n", "--key"], "not allowed with argument --namespace"),
        (["provide", "weather", "--subkey", "x"], "unrecognized arguments: --subkey x"),
        (["manifest", "ab"], "'ab' is not 64 hexadecimal digits"),
        (["manifest", "g" * 64], "is not 64 hexadecimal digits"),
        (["status", "greeting"], "unrecognized arguments: greeting"),
    ],
)
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str], line: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dht", *line])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["get", "greeting", "--key"], "--key: 'greeting' is not 64 hexadecimal digits"),
        (["put", "greeting", "x" * 513], "a value has at most 512 bytes"),
    ],
)
def test_what_only_the_whole_line_shows_is_one_line_as_well(
    capsys: pytest.CaptureFixture[str], node: ListeningClient, line: list[str], message: str
) -> None:
    assert main(["dht", *line]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert node.dht_commands == []
