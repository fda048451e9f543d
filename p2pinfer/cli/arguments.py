"""Parsing: a parser whose errors are one line, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar, get_type_hints

from p2pinfer.cli.failures import USED_WRONGLY, one_line
from p2pinfer.config import NodeConfig
from p2pinfer.ids import Endpoint
from p2pinfer.wire.messages.inference import Sampling
from p2pinfer.wire.schema import Between

__all__ = [
    "LineParser",
    "add_cache_dir",
    "add_data_dir",
    "add_debug",
    "add_node",
    "add_sampling",
    "checked",
    "duration_s",
    "sampling_of",
]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DURATION_S_MAX = 100 * 365 * 86400.0
SEED_MAX = (1 << 63) - 1

SAMPLING_HELP = {
    "temperature": "how daring the choice of words is; 0 always takes the most likely one",
    "top_k": "choose among the K most likely tokens only; 0 is all",
    "top_p": "choose among the likeliest tokens whose probability reaches P; 1 is all",
    "min_p": "leave out tokens less likely than P times the most likely one; 0 leaves out none",
    "repeat_penalty": "above 1 makes recent tokens less likely; 1 changes nothing",
    "repeat_last_n": "how many tokens back the penalty looks",
    "token_count_max": "stop after that many tokens",
}
"""By field of `Sampling`, from which ranges and defaults are taken."""

SAMPLING_FLAGS = {"token_count_max": "--max-tokens"}

T = TypeVar("T")


class LineParser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line, and where help is."""

    def __init__(self, *args: object, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Report wrong usage and leave with exit code 2."""
        self.exit(USED_WRONGLY, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def checked(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a type for argparse that shows the reader's own message, which says what was expected."""

    def reader(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(one_line(str(error))) from error

    return reader


def duration_s(text: str) -> float:
    """Read a duration such as 30d, 12h, 45m or 90s as seconds.

    Raises:
        ValueError: The text is no duration.
    """
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in SECONDS and len(number) < 10):
        raise ValueError(f"{text!r} is not a duration: write a number and s, m, h, d or w, as in 30d")
    seconds = float(int(number) * SECONDS[unit])
    if not 0 < seconds <= DURATION_S_MAX:
        raise ValueError(f"{text!r} is not a duration above 0 and below a hundred years")
    return seconds


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add --debug, which every command has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add --data-dir: where the node of this machine keeps its key and says where it listens."""
    default = NodeConfig().data_dir
    parser.add_argument(
        "--data-dir", type=Path, default=default, metavar="DIR", help=f"the node's data (default: {default})"
    )


def add_cache_dir(parser: argparse.ArgumentParser) -> None:
    """Add --cache-dir: where pulled models lie."""
    default = NodeConfig().cache_dir
    parser.add_argument(
        "--cache-dir", type=Path, default=default, metavar="DIR", help=f"pulled models (default: {default})"
    )


def add_node(parser: argparse.ArgumentParser) -> None:
    """Add the ways to say which node to ask."""
    group = parser.add_argument_group("which node", "Default: the node that runs on this machine.")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--node", type=checked(Endpoint.parse), metavar="HOST:PORT", help="a node of the swarm, elsewhere"
    )
    either.add_argument(
        "--join",
        metavar="INVITE",
        help="an invite of the swarm, where no node runs here; a member may name the swarm: p2pinfer://SWARM",
    )
    add_data_dir(group)  # type: ignore[arg-type]  # a group takes arguments as its parser does


def _number(kind: type[int] | type[float], between: Between) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a {'whole ' * (kind is int)}number") from None
        if not between.low <= value <= between.high:
            raise ValueError(f"{text} is not between {between.low:g} and {between.high:g}")
        return value

    return read


def add_sampling(parser: argparse.ArgumentParser, *, token_count_max: int) -> None:
    """Add a flag for each field of `Sampling` that people set."""
    group = parser.add_argument_group("how tokens are chosen")
    hints = get_type_hints(Sampling, include_extras=True)
    defaults = {each.name: each.default for each in dataclasses.fields(Sampling)}
    defaults["token_count_max"] = token_count_max
    for name, text in SAMPLING_HELP.items():
        hint = hints[name]
        (between,) = (each for each in hint.__metadata__ if isinstance(each, Between))
        group.add_argument(
            SAMPLING_FLAGS.get(name, "--" + name.replace("_", "-")),
            dest=name,
            type=checked(_number(hint.__origin__, between)),
            default=defaults[name],
            metavar="N" if hint.__origin__ is int else "X",
            help=f"{text} (default: {defaults[name]:g})",
        )
    group.add_argument(
        "--seed",
        type=checked(_number(int, Between(0, SEED_MAX))),
        metavar="N",
        help="the same seed gives the same answer (default: a new one each time)",
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return the sampling that the flags ask for, with a fresh seed where chance plays and none was given."""
    chosen = {name: getattr(args, name) for name in SAMPLING_HELP}
    seed = args.seed
    if seed is None:
        seed = secrets.randbelow(SEED_MAX) if args.temperature > 0 else 0
    return Sampling(**chosen, seed=seed)
