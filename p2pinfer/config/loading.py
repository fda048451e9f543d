"""Where a node's settings come from: a TOML file, flags, or plain values of an application's.

Nothing is read besides the file given to `load_config`, nothing is written, and no environment variable
counts.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from p2pinfer.config.node import NodeConfig
from p2pinfer.errors import ConfigError

__all__ = ["flag_of", "load_config", "node_config"]


def flag_of(setting: Field[Any]) -> str:
    """Return the flag of a field of `NodeConfig`, as in `--data-dir`."""
    return setting.metadata["flag"] or "--" + setting.name.replace("_", "-")


def node_config(values: Mapping[str, object], *, source: str = "settings") -> NodeConfig:
    """Make a `NodeConfig` from plain values, as a TOML file or flags give them.

    Args:
        values: By field name: texts, numbers and lists, or values of the field's own type.
        source: What to name in front of a message: the file, or whatever the values come from.

    Raises:
        ConfigError: A key is unknown (the message names the nearest known one) or a value is wrong.
    """
    return _build(_read(values, source), source)


def load_config(path: Path | None = None, flags: Mapping[str, object] | None = None) -> NodeConfig:
    """Read the settings: the file, if there is one, then flags over it.

    Raises:
        ConfigError: The file cannot be read or is no TOML, a key is unknown, or a value is wrong.
    """
    over = _read(flags or {}, "flags")
    if path is None:
        return _build(over, "flags")
    try:
        with path.open("rb") as file:
            under = _read(tomllib.load(file), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the settings: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    return _build({**under, **over}, str(path))


def _read(values: Mapping[str, object], source: str) -> dict[str, Any]:
    """Turn plain values into the fields' own types."""
    known = {setting.name: setting for setting in fields(NodeConfig)}
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{source}: unknown setting {key!r}; {_nearest(key, known)}")
        try:
            settings[key] = known[key].metadata["read"](value)
        except ValueError as error:
            raise ConfigError(f"{source}: {key}: {error}") from error
    return settings


def _build(settings: Mapping[str, Any], source: str) -> NodeConfig:
    try:
        return NodeConfig(**settings)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key.lower().replace("-", "_"), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"
