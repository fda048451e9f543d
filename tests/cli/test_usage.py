"""How the command line is used: help, wrong usage, and errors before anything starts."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pinfer import node as node_program
from p2pinfer.cli import app, serve
from p2pinfer.cli.arguments import duration_s
from p2pinfer.cli.failures import describe, kept_traceback, run_command
from p2pinfer.errors import ConfigError


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


ALL = [*parsers(app.make_parser()), serve.make_parser()]


def p2pinfer(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_command_has_help_with_two_examples(parser: argparse.ArgumentParser) -> None:
    assert "%" not in parser.format_help()
    assert parser.epilog is not None
    examples = parser.epilog.split("examples:\n")[1].splitlines()
    assert len([line for line in examples if "p2pinfer" in line]) >= 2
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert all(action.help or isinstance(action, argparse._SubParsersAction) for action in shown)


def test_every_example_parses() -> None:
    for parser in ALL:
        for line in (parser.epilog or "").split("examples:\n")[1].splitlines():
            words = _words(line)
            if words[:1] == ["p2pinfer"]:
                app.make_parser().parse_args(words[1:])
            elif words[:3] == ["python", "-m", "p2pinfer.node"]:
                serve.make_parser().parse_args(words[3:])


def _words(line: str) -> list[str]:
    import shlex

    return shlex.split(line.split(" | ")[-1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["generate"], "p2pinfer generate: the following arguments are required: PROMPT"),
        (["generate", "x", "--colour"], "unrecognized arguments: --colour"),
        (["generate", "x", "--top-p", "1.5"], "argument --top-p: 1.5 is not between 0 and 1"),
        (["generate", "x", "--top-k", "two"], "argument --top-k: 'two' is not a whole number"),
        (["generate", "x", "--temperature", "nan"], "argument --temperature: nan is not between"),
        (["generate", "x", "--max-tokens", "0"], "argument --max-tokens: 0 is not between 1 and"),
        (["generate", "x", "--node", "nowhere"], "'nowhere' is not host:port"),
        (["generate", "x", "--node", "a:1", "--join", "i"], "not allowed with argument --node"),
        (["generate", "x", "--max", "5"], "unrecognized arguments: --max 5"),
        (["invite", "--valid", "soon"], "'soon' is not a duration"),
        (["invite", "--address", "0.0.0.0:7946"], "no address that others can reach"),
        (["model"], "p2pinfer model: the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        app.main(line)
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert error.rstrip().endswith("--help")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([]) == 2
    assert "generate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--span", "ten"], "flags: span: 'ten' is not a span: write start:end, as in 0:10"),
        (["--span", "0:10"], "together with model or file"),
        (["--threads", "many"], "threads: 'many' is not a whole number"),
        (["--cache-size", "huge"], "cache_size_bytes_max: 'huge' is not a size"),
        (["--config", "nowhere.toml"], "nowhere.toml: cannot read the settings: No such file"),
    ],
)
def test_a_node_with_a_wrong_setting_does_not_start(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node_program.main(line) == 1
    error = capsys.readouterr().err
    assert error.startswith("p2pinfer: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_node_names_the_setting_that_was_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text('modle = "x"\n')
    assert node_program.main(["--config", str(path)]) == 1
    assert "unknown setting 'modle'; did you mean 'model'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0s", "1.5h", "99999999w", "٣d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration_s(text)


def test_a_taken_port_has_a_remedy() -> None:
    assert "--listen" in describe(OSError(98, os.strerror(98)))


def test_errors_inside_groups_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    def grouped() -> int:
        raise BaseExceptionGroup("nursery", [ExceptionGroup("inner", [ConfigError("wrong\nname\x1b[31m")])])

    assert run_command(grouped, debug=False) == 1
    assert capsys.readouterr().err == "p2pinfer: wrong name [31m\n"


def test_a_bug_is_not_taken_for_an_expected_error() -> None:
    def grouped() -> int:
        raise ExceptionGroup("nursery", [ConfigError("x"), KeyError("y")])

    with pytest.raises(ExceptionGroup):
        run_command(grouped, debug=False)


def test_a_bug_is_one_line_that_asks_for_a_report() -> None:
    program = "from p2pinfer.cli.failures import run_command; run_command(lambda: {}['k'], debug=False)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "unexpected KeyError: 'k'; this is a bug" in done.stderr


def test_the_program_runs_as_a_module() -> None:
    done = p2pinfer("p2pinfer", "version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("p2pinfer 0.")
    done = p2pinfer("p2pinfer.node", "--nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "p2pinfer", "version"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_node_keeps_the_traceback_of_the_bug_that_ended_it(tmp_path: Path) -> None:
    path = tmp_path / "crash.txt"
    program = (
        "from pathlib import Path; from p2pinfer.cli.failures import kept_traceback, run_command\n"
        "def forgetful():\n"
        f"    with kept_traceback(Path({str(path)!r})): raise ExceptionGroup('nursery', [KeyError('k')])\n"
        "run_command(forgetful, debug=False)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.count("\n") == 1
    assert "unexpected KeyError: 'k'; this is a bug" in done.stderr
    assert str(path) in done.stderr
    assert "in forgetful" in path.read_text()


@pytest.mark.parametrize(
    "error", [ConfigError("x"), KeyboardInterrupt(), ExceptionGroup("", [OSError(28, "full")])]
)
def test_an_expected_end_leaves_no_traceback(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), kept_traceback(tmp_path / "crash.txt"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_hide_the_bug(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyError), kept_traceback(tmp_path / "file" / "crash.txt"):
        raise KeyError("k")
