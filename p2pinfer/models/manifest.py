"""What identifies a model: its name for people, its digest for peers.

Rules:

1. Two peers speak of the same model when the digests are equal; a name is only a name.
2. A name is checked before it becomes part of a path: `[a-z0-9][a-z0-9._-]*`, then a tag of the same form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from p2pinfer.errors import ConfigError, DamagedModel

__all__ = ["TAG_DEFAULT", "Manifest", "ModelName"]

TAG_DEFAULT = "latest"
NAME_SIZE_MAX = 100  # a file name has 255 bytes at most, and the wire's field 128 for name and tag
_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA_256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A name and a tag, as in smollm2:135m."""

    name: str
    tag: str = TAG_DEFAULT

    def __post_init__(self) -> None:
        for part in (self.name, self.tag):
            if not _PART.fullmatch(part) or len(part) > NAME_SIZE_MAX:
                raise ConfigError(
                    f"{part[:80]!r} is no model name or tag: write small letters, digits, '.', '_' and '-', "
                    "as in smollm2:135m"
                )

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read `name` or `name:tag`.

        Raises:
            ConfigError: The text is not of that form.
        """
        name, separator, tag = text.partition(":")
        return cls(name, tag if separator else TAG_DEFAULT)

    @classmethod
    def from_file_name(cls, file_name: str) -> ModelName:
        """Make a name of a file's: SmolLM2-135M.Q4_1.gguf gives smollm2-135m.q4_1:latest."""
        stem = file_name.lower().removesuffix(".gguf")
        name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:NAME_SIZE_MAX]
        return cls(name or "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One model file: what it is called, what is in it and where it came from."""

    name: str
    tag: str
    file_name: str
    size_bytes: int
    sha256: str
    """Of the file, in hexadecimal."""
    architecture: str
    layer_count: int
    source: str
    """Where it came from: `pypi:distribution==version:member` or `file:/absolute/path`."""

    def __post_init__(self) -> None:
        if not _SHA_256.fullmatch(self.sha256):
            raise DamagedModel(
                f"the manifest of {self.name}:{self.tag} has no SHA-256 but {self.sha256[:80]!r}"
            )

    @property
    def full_name(self) -> str:
        """Name and tag."""
        return f"{self.name}:{self.tag}"

    @property
    def digest(self) -> bytes:
        """32 bytes that identify the weights: the file's SHA-256, whatever it is called."""
        return bytes.fromhex(self.sha256)

    def to_json(self) -> str:
        """Write it as one JSON object with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            DamagedModel: A field is missing, unknown or of the wrong type.
        """
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise DamagedModel(f"a manifest is no JSON: {error}") from error
        types = {field.name: int if field.type == "int" else str for field in fields(cls)}
        if not isinstance(values, Mapping) or values.keys() != types.keys():
            raise DamagedModel(f"a manifest has exactly the fields {', '.join(types)}")
        for key, type_ in types.items():
            if type(values[key]) is not type_:
                raise DamagedModel(f"the manifest's {key} is {str(values[key])[:40]!r}, no {type_.__name__}")
        return cls(**values)
