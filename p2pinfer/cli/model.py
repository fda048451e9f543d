"""`model`: the models on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from p2pinfer.cli.arguments import LineParser, add_cache_dir, add_debug
from p2pinfer.cli.output import console, harmless, say, size_text
from p2pinfer.cli.progress import progress
from p2pinfer.config import NodeConfig
from p2pinfer.errors import ConfigError

if TYPE_CHECKING:
    from p2pinfer.models.store import ModelStore, PullProgress

__all__ = ["EPILOG", "ShowPull", "configure", "open_store"]

ShowPull = Callable[["PullProgress"], None]

EPILOG = """\
examples:
  p2pinfer model pull smollm2:135m
  p2pinfer model list
"""

PULL_EPILOG = """\
examples:
  p2pinfer model pull smollm2:135m
  p2pinfer model pull mine:latest --file models/mine.gguf
"""

LIST_EPILOG = """\
examples:
  p2pinfer model list
  p2pinfer model list --cache-dir models
"""

SHOW_EPILOG = """\
examples:
  p2pinfer model show smollm2:135m
  p2pinfer model show smollm2:135m --file
"""

RM_EPILOG = """\
examples:
  p2pinfer model rm smollm2:135m
  p2pinfer model rm mine:latest --cache-dir models
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `model`."""
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="model_command", parser_class=LineParser
    )

    pull = commands.add_parser("pull", help="fetch a model, or take a file in", epilog=PULL_EPILOG)
    pull.add_argument(
        "name", nargs="?", metavar="NAME", help="name and tag, as in smollm2:135m; with --file any new name"
    )
    pull.add_argument(
        "--file", type=Path, metavar="PATH", help="take this GGUF file in; it stays where it lies"
    )
    pull.set_defaults(run=_pull)

    listing = commands.add_parser("list", help="show which models are here", epilog=LIST_EPILOG)
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="show one model", epilog=SHOW_EPILOG)
    _add_name(show)
    show.add_argument("--file", action="store_true", help="print only where its file lies")
    show.set_defaults(run=_show)

    remove = commands.add_parser(
        "rm", aliases=["remove"], help="remove a model from this machine", epilog=RM_EPILOG
    )
    _add_name(remove)
    remove.set_defaults(run=_remove)

    for command in (pull, listing, show, remove):
        add_cache_dir(command)
        add_debug(command)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name and tag, as in smollm2:135m")


def open_store(args: argparse.Namespace) -> ModelStore:
    """Return the store of the cache directory."""
    # Here and not above: --help must not wait for numpy.
    from p2pinfer.models.store import ModelStore

    return ModelStore(NodeConfig(cache_dir=args.cache_dir).models_dir)


def _pull(args: argparse.Namespace) -> int:
    store, name = open_store(args), args.name
    if args.file is None and name is None:
        raise ConfigError("no model is named: write its name, as in p2pinfer model pull smollm2:135m")
    with progress() as show:

        def tell(news: PullProgress) -> None:
            show(f"{name or args.file.name}: {news.phase}", news.done, news.total, "bytes")

        if args.file is None:
            store.pull(name, tell)
        else:
            name = store.import_file(args.file, name, tell).full_name
    say(f"{name} is ready: {store.path_of(name)}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    models = open_store(args).list()
    if not models:
        say("no models here yet: fetch one with p2pinfer model pull smollm2:135m")
        return 0
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("name", "size", "layers", "architecture", "sha256"):
        table.add_column(column, justify="right" if column in ("size", "layers") else "left")
    for model in models:
        cells = (model.full_name, size_text(model.size_bytes), str(model.layer_count), model.architecture)
        table.add_row(*(Text(harmless(cell)) for cell in (*cells, model.sha256[:12])))
    console().print(table)
    return 0


def _show(args: argparse.Namespace) -> int:
    store = open_store(args)
    path = store.path_of(args.name)
    if args.file:
        say(str(path))
        return 0
    model = store.manifest_of(args.name)
    facts = {
        "name": model.full_name,
        "file": str(path),
        "size": size_text(model.size_bytes),
        "layers": str(model.layer_count),
        "architecture": model.architecture,
        "sha256": model.sha256,
        "source": model.source,
    }
    for key, value in facts.items():
        say(f"{key:<14}{harmless(value)}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    open_store(args).remove(args.name)
    say(f"{args.name} is removed")
    return 0
