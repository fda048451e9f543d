"""Budgets and habits, held as a ratchet: what is over may only shrink, and says why it is over.

Sizes are in lines of the file, docstrings and comments included. A rule is a function from a file to
findings; each is tested on planted sources below, so that a rule that finds nothing is known to work.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("p2pinfer",)
SCRIPTS = ("examples", "simulations", "benchmarks")

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
CORE_LINES_MAX = 600
PARAMETERS_MAX = 6
ATTRIBUTES_MAX = 15

MAY_PRINT = ("p2pinfer/cli/",)
MAY_CATCH_ALL = ("p2pinfer/runtime/calls.py", "p2pinfer/runtime/driver.py", "p2pinfer/runtime/worker.py")
"""Where foreign code is called (a handler, a core, an engine) and its failure has one bounded victim."""

EXCEPTIONS: dict[str, tuple[int, str]] = {}
"""`path:rule:name` -> (the number now, the reason). A number that has shrunk must be lowered here."""


@dataclass(frozen=True)
class Source:
    """A Python file, read once."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


@dataclass(frozen=True)
class Finding:
    """A rule broken at a place; `number` is what the ratchet holds, 1 for rules that do not count."""

    path: str
    line: int
    rule: str
    name: str
    number: int = 1

    @property
    def key(self) -> str:
        return f"{self.path}:{self.rule}:{self.name}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule} {self.name} ({self.number})"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: Function) -> list[str]:
    """The names of a function's parameters, self and cls left out."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [each.arg for each in named if each is not None and each.arg not in ("self", "cls")]


def long_function(source: Source) -> Iterator[Finding]:
    for node in functions(source.tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield Finding(source.path, node.lineno, "long_function", node.name, lines)


def long_file(source: Source) -> Iterator[Finding]:
    lines = len(source.text.splitlines())
    if lines > (CORE_LINES_MAX if source.path.endswith("core.py") else FILE_LINES_MAX):
        yield Finding(source.path, 1, "long_file", "", lines)


def many_parameters(source: Source) -> Iterator[Finding]:
    for node in functions(source.tree):
        if len(parameters(node)) > PARAMETERS_MAX:
            yield Finding(source.path, node.lineno, "many_parameters", node.name, len(parameters(node)))


def many_attributes(source: Source) -> Iterator[Finding]:
    """Count what a class assigns to self, and its fields unless it is a frozen dataclass.

    Frozen dataclasses are records: settings, messages, effects. Their fields are data that belong together
    by the protocol or in a file, not state that a reader must follow, so they are exempt.
    """
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        frozen = any("frozen=True" in ast.unparse(each) for each in node.decorator_list)
        fields = {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            if "ClassVar" not in ast.unparse(item.annotation)
        }
        assigned = {
            each.attr
            for each in ast.walk(node)
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            if isinstance(each.value, ast.Name) and each.value.id == "self"
        }
        names = assigned if frozen else assigned | fields
        if len(names) > ATTRIBUTES_MAX:
            yield Finding(source.path, node.lineno, "many_attributes", node.name, len(names))


def prints(source: Source) -> Iterator[Finding]:
    if source.path.startswith(MAY_PRINT):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield Finding(source.path, node.lineno, "prints", "")


def catches_all(source: Source) -> Iterator[Finding]:
    """A broad except; one that ends with `raise` only cleans up, so it is allowed."""
    if source.path in MAY_CATCH_ALL:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "BaseException" if node.type is None else ast.unparse(node.type)
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            if re.search(r"\b(Base)?Exception\b", caught) and not raises_again:
                yield Finding(source.path, node.lineno, "catches_all", "")


def asserts_on_arguments(source: Source) -> Iterator[Finding]:
    """An assert that names a parameter of its function: it vanishes under -O, so it checks no input.

    An approximation: what was computed from an argument passes. Invariants of self are what assert is for.
    """
    for function in functions(source.tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                names = {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}
                if names & set(parameters(function)):
                    yield Finding(source.path, node.lineno, "asserts_on_arguments", function.name)


def unfinished(source: Source) -> Iterator[Finding]:
    """Marks of unfinished work in comments, and names that promise less than a product."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        marks = (
            r"\b(TODO|FIXME|XXX|HACK)\b" if token.type == tokenize.COMMENT else r"(?i)stub|mock|placeholder"
        )
        if token.type in (tokenize.COMMENT, tokenize.NAME) and re.search(marks, token.string):
            yield Finding(source.path, token.start[0], "unfinished", token.string)


def no_docstring(source: Source) -> Iterator[Finding]:
    """A module says what it is; an empty __init__.py has nothing to say."""
    if source.text.strip() and ast.get_docstring(source.tree) is None:
        yield Finding(source.path, 1, "no_docstring", "")


def sleeps(source: Source) -> Iterator[Finding]:
    """A test that sleeps is slow, flaky or both; wait for the condition itself."""
    clocks = ("time", "trio", "asyncio")
    calls = {f"{clock}.sleep" for clock in clocks}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module in clocks:
            found = any(alias.name == "sleep" for alias in node.names)
        else:
            found = isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node) in calls
        if found:
            yield Finding(source.path, getattr(node, "lineno", 1), "sleeps", "")


Rule = Callable[[Source], Iterator[Finding]]
SIZES: tuple[Rule, ...] = (long_function, long_file, many_parameters, many_attributes)
HABITS: tuple[Rule, ...] = (prints, catches_all, asserts_on_arguments, unfinished)


def rules_of(path: str) -> tuple[Rule, ...]:
    top = path.split("/")[0]
    if top in PRODUCT:
        return (*SIZES, *HABITS, no_docstring)
    return (*SIZES, no_docstring) if top in SCRIPTS else (*SIZES, sleeps)


def python_files() -> Iterator[Source]:
    for top in (*PRODUCT, *SCRIPTS, "tests"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def judge(findings: list[Finding], exceptions: dict[str, tuple[int, str]]) -> list[str]:
    """Return what is over and not excepted, and what is excepted and no longer over."""
    worst: dict[str, int] = {}
    for finding in findings:
        worst[finding.key] = max(worst.get(finding.key, 0), finding.number)
    problems = [str(each) for each in findings if each.number > exceptions.get(each.key, (0, ""))[0]]
    for key, (number, reason) in exceptions.items():
        if worst.get(key, 0) < number:
            problems.append(f"{key}: is {worst.get(key, 0)} now: lower or remove its exception of {number}")
        if not reason:
            problems.append(f"{key}: an exception needs its reason")
    return problems


def test_the_code_keeps_its_budgets_and_habits() -> None:
    findings = [each for source in python_files() for rule in rules_of(source.path) for each in rule(source)]
    problems = judge(findings, EXCEPTIONS)
    assert not problems, "\n" + "\n".join(problems)


def test_the_documents_name_no_local_path() -> None:
    local = re.compile(r"(?<![\w.~-])/(home|root|work|Users|mnt)/|\b[A-Z]:\\")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        if local.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


def _lines(count: int) -> str:
    return "\n".join(["    x = 1"] * count)


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (long_function, f"def f():\n{_lines(60)}", f"def f():\n{_lines(59)}"),
        (long_file, "\n" * 401, "\n" * 400),
        (
            many_parameters,
            "def f(self, a, b, c, *, d, e, f, g): ...",
            "def f(self, a, b, c, *d, e, **f): ...",
        ),
        (
            many_attributes,
            "class A:\n def __init__(self):\n  " + "; ".join(f"self.a{i} = 0" for i in range(16)),
            "@dataclass(frozen=True)\nclass A:\n" + "\n".join(f" a{i}: int" for i in range(16)),
        ),
        (prints, "print(1)", "console.print(1)"),
        (
            catches_all,
            "try: f()\nexcept (OSError, Exception): pass",
            "try: f()\nexcept BaseException:\n g()\n raise",
        ),
        (catches_all, "try: f()\nexcept: pass", "try: f()\nexcept* OSError: pass"),
        (asserts_on_arguments, "def f(a):\n assert a > 0", "def f(self, a):\n assert self.x\n return a"),
        (unfinished, "x = 1  # TODO: more", "todo = 1"),
        (unfinished, "class MockDisk: ...", "word = 'placeholder'"),
        (no_docstring, "x = 1", '"""What it is."""'),
        (sleeps, "import time\ntime.sleep(1)", "await trio.sleep_forever()"),
        (sleeps, "nursery.start_soon(trio.sleep, 1)", "await trio.lowlevel.checkpoint()"),
        (sleeps, "from time import sleep", "from time import monotonic"),
    ],
)
def test_a_rule_finds_what_is_planted_and_nothing_else(rule: Rule, bad: str, good: str) -> None:
    assert list(rule(Source("p2pinfer/x.py", bad)))
    assert not list(rule(Source("p2pinfer/x.py", good)))


def test_a_core_may_be_longer_and_the_cli_may_print() -> None:
    assert not list(long_file(Source("p2pinfer/swim/core.py", "\n" * 600)))
    assert list(long_file(Source("p2pinfer/swim/core.py", "\n" * 601)))
    assert not list(prints(Source("p2pinfer/cli/output.py", "print(1)")))


def test_the_ratchet_goes_one_way() -> None:
    finding = Finding("p2pinfer/x.py", 1, "long_function", "f", 70)
    assert judge([finding], {})
    assert not judge([finding], {finding.key: (70, "a table")})
    assert judge([finding], {finding.key: (69, "a table")}), "grown"
    assert judge([finding], {finding.key: (71, "a table")}), "shrunk, so the number must follow"
    assert judge([], {finding.key: (70, "a table")}), "gone, so the exception must go"
    assert judge([finding], {finding.key: (70, "")}), "no reason"
