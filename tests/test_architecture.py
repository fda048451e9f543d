"""The arrows of docs/design.md: which part of p2pinfer may import which, and which library is whose.

The tables are the rule; the code below only reads imports. A new module is refused until it has its place
in `MAY_IMPORT`. Imports for type checking count as well: an arrow is an arrow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BOTTOM = {"ids", "errors", "effects", "files", "readers", "config", "addresses", "puzzle"}
SIGNED = {"identity", "membership", "wire", "work"}
CORES = {"swim", "dht", "raft", "inference"}
NUMBERS = {"engine", "models"}
CORE_NEEDS = {"ids", "errors", "effects", "wire", "work", "puzzle"}
BELOW_RUNTIME = BOTTOM | SIGNED | CORES | NUMBERS | {"holdings", "peer_core", "loading"}

MAY_IMPORT: dict[str, set[str]] = {
    # Value types: each sees only what is plainer than itself.
    "ids": set(),
    "errors": {"ids"},
    "effects": {"ids", "errors"},
    "files": {"errors"},
    "readers": {"ids"},
    "config": {"ids", "errors", "readers"},
    "addresses": {"ids", "errors", "config"},
    "puzzle": {"ids"},
    # What is signed, and how it becomes bytes.
    "identity": BOTTOM | SIGNED,
    "membership": BOTTOM | SIGNED,
    "wire": BOTTOM | SIGNED,
    "work": CORE_NEEDS,
    # Siblings never see each other. A core gets signing and settings handed in, so it needs neither module.
    "swim": CORE_NEEDS,
    "dht": CORE_NEEDS,
    "raft": CORE_NEEDS,
    "inference": CORE_NEEDS,
    "engine": CORE_NEEDS,
    "models": CORE_NEEDS | {"files"},
    # Composition.
    "holdings": CORE_NEEDS | {"dht"},
    "peer_core": CORE_NEEDS | CORES | {"holdings"},
    "loading": BOTTOM | SIGNED | NUMBERS,
    "testing": BELOW_RUNTIME,
    "observability": BOTTOM,
    "runtime": BELOW_RUNTIME | {"observability"},
    # What people touch.
    "api": BELOW_RUNTIME | {"observability", "runtime"},
    "cli": BELOW_RUNTIME | {"observability", "runtime", "api"},
    "node": BELOW_RUNTIME | {"observability", "runtime", "api", "cli"},
    "__main__": {"cli"},
    "__init__": BELOW_RUNTIME | {"runtime"},
}
"""By part: the other parts it may import. Every part may import itself."""

ONLY_IN: dict[str, set[str]] = {
    "nacl": {"identity"},
    "google_crc32c": {"raft"},
    "trio": {"runtime", "api", "cli", "node"},
    "asyncio": set(),
    "pickle": set(),
    "rich": {"cli", "observability"},
    "platformdirs": {"config", "cli", "models"},
}
"""By library: the only parts that may import it."""

PURE = CORES | {"holdings", "peer_core"}
IMPURE_LIBRARIES = {
    "trio", "asyncio", "threading", "multiprocessing", "concurrent", "queue", "signal", "subprocess",
    "socket", "ssl", "select", "selectors", "os", "io", "pathlib", "tempfile", "shutil", "sqlite3",
    "time", "datetime", "sched", "secrets", "uuid", "numpy", "nacl", "cryptography", "logging",
}  # fmt: skip
"""What the pure parts may not import: clocks, the system, other people's randomness, heavy numbers."""

SYSTEM_MODULES: dict[str, set[str]] = {"p2pinfer.raft.storage.wal_files": {"os", "pathlib"}}
"""Modules inside the pure parts that are not pure, and what they may import. Raft is to be taken alone, with
its log; all of that but the calls of the file system is pure as well, so that it can be crashed at any of
them. No pure module imports them: whoever composes a node does."""


def part_of(module: str) -> str:
    """Return the row of the table for a dotted module: `p2pinfer.swim.core` belongs to `swim`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Give the line and the dotted name of every import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def global_randomness(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find every use of `random` besides the type `random.Random` and a seeded instance of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name != "Random")
        elif isinstance(node, ast.Import):
            renamed = [alias for alias in node.names if alias.name == "random" and alias.asname]
            yield from ((node.lineno, f"random as {alias.asname}") for alias in renamed)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "random" and node.attr != "Random":
                yield node.lineno, f"random.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node) in {"random.Random()", "Random()"}:
            yield node.lineno, "random.Random() without a seed"


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return one line for each broken rule in a module's source."""
    part = part_of(module)
    if part not in MAY_IMPORT:
        return [f"{module}: has no place in MAY_IMPORT of tests/test_architecture.py"]
    tree = ast.parse(source)
    found = []
    for line, name in imports_of(tree, module, is_package=is_package):
        library = name.split(".")[0]
        if library == "p2pinfer":
            target = part_of(name)
            if target != part and target not in MAY_IMPORT[part]:
                found.append(f"{module}:{line}: {part} may not import {target}")
            elif part in PURE and name.startswith(tuple(SYSTEM_MODULES)):
                found.append(f"{module}:{line}: {part} is pure and may not import {name}")
        elif part not in ONLY_IN.get(library, {part}):
            found.append(f"{module}:{line}: only {sorted(ONLY_IN[library])} may import {library}")
        elif part in PURE and library in IMPURE_LIBRARIES - SYSTEM_MODULES.get(module, set()):
            found.append(f"{module}:{line}: {part} is pure and may not import {library}")
    if part in PURE:
        found += [
            f"{module}:{line}: {part} is pure and may not use {use}" for line, use in global_randomness(tree)
        ]
    return found


def test_the_code_follows_the_arrows() -> None:
    found: list[str] = []
    for path in sorted((ROOT / "p2pinfer").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += violations(path.read_text(encoding="utf-8"), module, is_package=is_package)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("p2pinfer.swim.core", "from p2pinfer.dht import table"),
        ("p2pinfer.dht.core", "import p2pinfer.raft.log"),
        ("p2pinfer.raft.core", "from p2pinfer import inference"),
        ("p2pinfer.inference.core", "from ..engine import api"),
        ("p2pinfer.engine.numpy_engine", "from p2pinfer.models.gguf import read"),
        ("p2pinfer.models.store", "def f():\n    from p2pinfer.engine import api"),
        ("p2pinfer.engine.api", "from p2pinfer.loading import load"),
        ("p2pinfer.swim.core", "from p2pinfer.identity import Identity"),
        ("p2pinfer.ids", "if TYPE_CHECKING:\n    from p2pinfer.errors import ConfigError"),
        ("p2pinfer.config", "from p2pinfer.swim.config import SwimConfig"),
        ("p2pinfer.wire.codec", "from p2pinfer.swim.member import Member"),
        ("p2pinfer.peer_core", "from p2pinfer.engine.api import Engine"),
        ("p2pinfer.testing.world", "from p2pinfer.runtime.driver import run"),
        ("p2pinfer.runtime.peer", "from p2pinfer.testing.world import World"),
        ("p2pinfer.runtime.peer", "from p2pinfer.cli.output import say"),
        ("p2pinfer.runtime.peer", "from p2pinfer import open_peer"),
        ("p2pinfer.swim.core", "import trio"),
        ("p2pinfer.testing.world", "import trio"),
        ("p2pinfer.loading", "from trio import run"),
        ("p2pinfer.swim.core", "import time"),
        ("p2pinfer.dht.core", "from time import monotonic"),
        ("p2pinfer.raft.storage", "import os.path"),
        ("p2pinfer.raft.storage.wal", "import os"),
        ("p2pinfer.raft.storage.wal", "from p2pinfer.raft.storage.wal_files import DirectoryFiles"),
        ("p2pinfer.raft.core", "from p2pinfer.raft.storage import wal_files"),
        ("p2pinfer.raft.storage.wal_files", "import threading"),
        ("p2pinfer.raft.storage.wal_files", "import trio"),
        ("p2pinfer.inference.session", "import numpy as np"),
        ("p2pinfer.peer_core", "import socket, ssl"),
        ("p2pinfer.swim.core", "import threading"),
        ("p2pinfer.wire.envelope", "from nacl.signing import VerifyKey"),
        ("p2pinfer.runtime.streams", "import nacl"),
        ("p2pinfer.runtime.streams", "import asyncio"),
        ("p2pinfer.swim.core", "import random\nx = random.random()"),
        ("p2pinfer.swim.core", "from random import choice"),
        ("p2pinfer.swim.core", "import random as r\nr.random()"),
        ("p2pinfer.swim.core", "import random\nrng = random.Random()"),
        ("p2pinfer.novelty", ""),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("p2pinfer.swim.core", "import random\ndef f(rng: random.Random) -> None: rng.random()"),
        ("p2pinfer.swim.core", "from random import Random\nrng = Random(7)"),
        ("p2pinfer.swim.core", "from p2pinfer.swim.member import Member\nfrom . import probe\nimport heapq"),
        ("p2pinfer.swim.core", "from p2pinfer.wire.messages.records import PeerRecord"),
        ("p2pinfer.identity", "import nacl.signing"),
        ("p2pinfer.runtime.driver", "import trio\nfrom p2pinfer.peer_core import PeerCore"),
        ("p2pinfer.engine.numpy_engine", "import numpy"),
        ("p2pinfer.loading", "from p2pinfer.engine import api\nfrom p2pinfer.models import gguf"),
        ("p2pinfer.testing.world", "from p2pinfer.peer_core import PeerCore"),
        ("p2pinfer.raft.storage.wal_files", "import os\nfrom pathlib import Path"),
        ("p2pinfer.runtime.peer", "from p2pinfer.raft.storage.wal_files import DirectoryFiles"),
        ("p2pinfer.__main__", "from p2pinfer.cli.app import main"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_a_relative_import_is_resolved_from_a_package_too() -> None:
    assert violations("from . import core", "p2pinfer.swim", is_package=True) == []
    assert violations("from ..dht import core", "p2pinfer.swim", is_package=True)


def test_the_table_has_no_cycle() -> None:
    signed = "identity, membership, wire, work form one part"
    rows = {
        part: needs - {part} - (SIGNED if part in SIGNED else set()) for part, needs in MAY_IMPORT.items()
    }
    placed: set[str] = set()
    while rows:
        ready = {part for part, needs in rows.items() if needs <= placed}
        assert ready, f"a cycle among {sorted(rows)} ({signed})"
        placed |= ready
        rows = {part: needs for part, needs in rows.items() if part not in ready}
