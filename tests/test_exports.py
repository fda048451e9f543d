"""What is public is said once, in `__all__`, and what is said is there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import p2pinfer

ROOT = Path(__file__).parent.parent
HEAVY = ("trio", "numpy", "cryptography", "gguf", "tokenizers", "rich", "jinja2")
"""What nobody should wait for who wants `--help` or one value type."""


def public_names(tree: ast.Module) -> set[str]:
    """The classes and functions that a module defines for others."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def exported_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def problems_of(text: str, where: str) -> list[str]:
    """Whoever defines something for others says what; names of its own package alone may stay unsaid."""
    tree = ast.parse(text)
    exported, public = exported_names(tree), public_names(tree)
    if exported is None:
        return [f"{where}: defines {sorted(public)} and has no __all__"] if public else []
    return [f"{where}: __all__ names {name} twice" for name in set(exported) if exported.count(name) > 1]


def test_every_module_says_what_it_exports() -> None:
    paths = [path for path in sorted((ROOT / "p2pinfer").rglob("*.py")) if path.name != "__main__.py"]
    found = [
        each for path in paths for each in problems_of(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_exported_name_is_there() -> None:
    missing = []
    for path in sorted((ROOT / "p2pinfer").rglob("*.py")):
        names = exported_names(ast.parse(path.read_text("utf-8")))
        if names is not None:
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
            missing += [f"{module.__name__}.{name}" for name in names if not hasattr(module, name)]
    assert not missing, f"named in __all__ and not there: {missing}"


@pytest.mark.parametrize("text", ["def f(): ...", "class A: ...\n__all__ = ['A', 'B', 'A']"])
def test_a_planted_problem_is_found(text: str) -> None:
    assert problems_of(text, "x")


def test_the_package_says_what_it_is_and_has_a_docstring_for_every_public_name() -> None:
    assert p2pinfer.__doc__
    undocumented = [name for name in getattr(p2pinfer, "__all__", ()) if not getattr(p2pinfer, name).__doc__]
    assert not undocumented


@pytest.mark.parametrize("module", ["p2pinfer", "p2pinfer.config", "p2pinfer.__main__", "p2pinfer.node"])
def test_a_light_import_stays_light(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))".replace(
        repr(HEAVY), repr(set(HEAVY))
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"importing {module} loads these; import them where they are used"
