"""A Jinja environment for templates that come out of a model file, which anybody may have written.

Rules:

1. A template can reach nothing but what it is given: Jinja's immutable sandbox, no loader, no undefined
   attribute of Python objects, and only the filters that chat templates are known to need.
2. What it may do is bounded: loop passes, calls and the characters that it puts together are paid from one
   budget, and no value grows beyond a limit. The clock is not asked: the same text gives the same verdict.

Departs from Hugging Face's environment in what is left out: `strftime_now` (an answer would depend on the
day), `{% generation %}`, and filters outside the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["Budget", "TemplateRefusal", "compile_template", "render_template"]

VALUE_SIZE_MAX = 8 << 20
"""Characters or elements of one value, and of the output: four times the largest context of today."""
STEP_COUNT_MAX = 400_000
"""Loop passes, calls and kilocharacters a rendering: about a second's work; a long chat takes thousands."""
CHARACTERS_A_STEP = 1024
ELEMENT_WEIGHT = 16
"""An element of a list takes about as long to copy as sixteen characters."""
CALL_STEP_COUNT = 8
"""A call takes about as long as eight passes of an empty loop."""
INDENT_SIZE_MAX = 16
INTEGER_BITS_MAX = 64
FILTERS = frozenset(
    (
        *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int"),
        *("items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
        *("replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title"),
        *("tojson", "trim", "unique", "upper"),
    )
)


class TemplateRefusal(jinja2.TemplateError):
    """The template called `raise_exception`: it does not take this conversation."""


class Budget:
    """What one rendering may still do."""

    def __init__(self, step_count: int = STEP_COUNT_MAX) -> None:
        self.steps_left = step_count

    def pay(self, value: object = None, size: int | None = None) -> None:
        """Pay for one step and for the size of what it makes.

        Raises:
            SecurityError: Nothing is left, or the value is too large.
        """
        weight = 1
        if size is None:
            size = len(value) if isinstance(value, (str, list, tuple, dict, range)) else 0
            weight = 1 if isinstance(value, str) else ELEMENT_WEIGHT
        if size > VALUE_SIZE_MAX:
            raise SecurityError(f"a value of {size} elements is too large")
        self.steps_left -= 1 + weight * size // CHARACTERS_A_STEP
        if self.steps_left < 0:
            raise SecurityError("it does too much: an endless or a wasteful loop")


_BUDGET: ContextVar[Budget] = ContextVar("template_budget")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with its operators, calls and loops counted."""

    intercepted_binops = frozenset(("+", "*", "**", "%", "//", "/", "-"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "*" and (isinstance(left, sized) or isinstance(right, sized)):
            factors = [len(side) if isinstance(side, sized) else side for side in (left, right)]
            _BUDGET.get().pay(size=max(0, int(factors[0]) * int(factors[1])))
        elif operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _BUDGET.get().pay(size=len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("'%' with a text may pad without bound: it is not allowed")
        elif operator == "**" or any(_is_long(side) for side in (left, right)):
            raise SecurityError("powers and numbers beyond 64 bits are not allowed")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        _check_method(budget, owner, name, args)
        budget.pay(size=CALL_STEP_COUNT * CHARACTERS_A_STEP)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.pay(result)
        return result


def _is_long(side: object) -> bool:
    return isinstance(side, int) and side.bit_length() > INTEGER_BITS_MAX


def _check_method(budget: Budget, owner: object, name: str, args: tuple[Any, ...]) -> None:
    """Refuse the methods of texts that make much out of little, before they do."""
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"):
        raise SecurityError(f"the method {name!r} may pad without bound: it is not allowed")
    if not isinstance(owner, str):
        return
    if name == "replace" and len(args) > 1:
        budget.pay(size=_replaced_size(owner, str(args[0]), str(args[1])))
    if name == "join" and args:
        budget.pay(size=_joined_size(args[0], owner))


def _replaced_size(text: str, old: str, new: str) -> int:
    count = text.count(old) if old else len(text) + 1
    return len(text) + count * max(0, len(new) - len(old))


def _joined_size(items: object, separator: str) -> int:
    if not isinstance(items, (str, list, tuple)):
        raise SecurityError("only a list can be joined")
    return sum(len(str(item)) + len(separator) for item in items)


def _bounded(items: Iterable[Any]) -> Iterator[Any]:
    """What a loop runs over: each pass is paid for."""
    budget = _BUDGET.get()
    for item in items:
        budget.pay()
        yield item


def _concatenated(items: list[Any]) -> str:
    """The operator `~`."""
    texts = [str(item) for item in items]
    _BUDGET.get().pay(size=sum(map(len, texts)))
    return "".join(texts)


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is paid for; the marks of those that want the context are kept."""

    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        for value in args[:2]:
            budget.pay(value)
        result = function(*args, **kwargs)
        budget.pay(result)
        return result

    paid.__dict__.update(getattr(function, "__dict__", {}))
    return paid


def _join(value: Iterable[Any], separator: str = "") -> str:
    items = list(value)
    _BUDGET.get().pay(size=_joined_size(items, separator))
    return str(separator).join(map(str, items))


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    _BUDGET.get().pay(size=_replaced_size(str(text), str(old), str(new)))
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As Hugging Face's: no escapes for HTML."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= INDENT_SIZE_MAX):
        raise SecurityError(f"an indent of {str(indent)[:20]!r} is not allowed")
    known = {key: option for key, option in options.items() if key in ("separators", "sort_keys")}
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **known)
    _BUDGET.get().pay(text)
    return text


def _refuse(message: object = "") -> NoReturn:
    raise TemplateRefusal(str(message)[:300])


def _environment() -> _Environment:
    # not optimised: constants would be computed while compiling, where nothing is paid
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=["jinja2.ext.loopcontrols"]
    )
    allowed = {name: _paid(function) for name, function in environment.filters.items() if name in FILTERS}
    own = {"join": _join, "replace": _replace, "tojson": _tojson}
    environment.filters = {**allowed, **own, "_bounded": _bounded, "_concatenated": _concatenated}
    environment.globals.pop("lipsum")
    environment.globals["raise_exception"] = _refuse
    return environment


def compile_template(source: str) -> jinja2.Template:
    """Compile a template so that its loops and concatenations are paid for.

    Raises:
        jinja2.TemplateError: It is no template, or uses what is not there.
        RecursionError, SyntaxError: It is nested too deeply.
    """
    environment = _environment()
    tree = environment.parse(source)
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Filter(loop.iter, "_bounded", [], [], None, None, lineno=loop.lineno)
    for join in list(tree.find_all(nodes.Concat)):
        items = nodes.List(list(join.nodes), lineno=join.lineno)
        join.nodes = [nodes.Filter(items, "_concatenated", [], [], None, None, lineno=join.lineno)]
    tree.set_environment(environment)
    code = environment.compile(tree)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def render_template(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """Render within a budget.

    Raises:
        TemplateRefusal: The template does not take these variables.
        jinja2.TemplateError: It did too much or what is not allowed.
    """
    budget = Budget()
    token = _BUDGET.set(budget)
    try:
        pieces: list[str] = []
        size = 0
        for piece in template.generate(**variables):
            size += len(piece)
            budget.pay(size=len(piece))
            if size > VALUE_SIZE_MAX:
                raise SecurityError(f"its output is larger than {VALUE_SIZE_MAX} characters")
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _BUDGET.reset(token)
