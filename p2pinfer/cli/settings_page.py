"""Writes docs/settings.md from the fields of `NodeConfig`: `make docs`. A test holds the page to it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from p2pinfer.cli.output import size_text
from p2pinfer.config import NodeConfig, flag_of

__all__ = ["default_text", "settings_page"]

HEAD = """\
# Settings of a node

A node takes its settings from flags, from a TOML file (`--config node.toml`), or from both, where flags win.
In the file a setting has its name, on the command line its flag. A key that does not exist is an error, and
the message names the nearest one that does. Nothing is read from environment variables, except that the
default places follow the system's conventions (`XDG_DATA_HOME` and `XDG_CACHE_HOME` on Linux).

```toml
# node.toml
name = "cellar"
model = "smollm2:135m"
span = "0:15"
join = ["p2pinfer:..."]
cache_size_bytes_max = "2GiB"
profile = "lan"
```

| setting | flag | default | meaning |
|---|---|---|---|
"""

PLACES = {"data_dir": "the user's data directory", "cache_dir": "the user's cache directory"}
"""Defaults that differ from machine to machine."""


def default_text(setting: dataclasses.Field[Any]) -> str:
    """Return a field's default as people would write it; empty where its text speaks of it."""
    value = getattr(NodeConfig(), setting.name)
    if setting.name == "span":
        return "auto"
    if value in (None, "", ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return size_text(value) if "size_bytes" in setting.name else str(getattr(value, "value", value))


def settings_page() -> str:
    """Return the page."""
    rows = []
    for setting in dataclasses.fields(NodeConfig):
        default = PLACES.get(setting.name) or (f"`{text}`" if (text := default_text(setting)) else "")
        meaning = setting.metadata["help"].replace("|", "\\|")
        rows.append(f"| `{setting.name}` | `{flag_of(setting)}` | {default} | {meaning} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8")
