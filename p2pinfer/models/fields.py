"""Typed, range-checked reading of metadata fields: what is wrong is named with its key and the rule."""

from __future__ import annotations

import math
from collections.abc import Mapping

from p2pinfer.errors import DamagedModel, UnsupportedModel
from p2pinfer.models.gguf_header import MetadataValue

__all__ = ["flag", "real", "text", "texts", "whole"]


def whole(
    metadata: Mapping[str, MetadataValue], key: str, low: int, high: int, default: int | None = None
) -> int:
    """A whole number within [low, high].

    Raises:
        DamagedModel: It is missing and there is no default, or it is no number, or out of range.
        UnsupportedModel: It is given for each layer anew.
    """
    value = metadata.get(key, default)
    if value is None:
        raise DamagedModel(f"the metadata lacks {key!r}: fetch the file again")
    if isinstance(value, tuple):
        raise UnsupportedModel(f"{key!r} differs from layer to layer, which is not supported")
    if not isinstance(value, int) or isinstance(value, bool):
        raise DamagedModel(f"{key!r} is {_short(value)} and should be a whole number")
    if not low <= value <= high:
        raise DamagedModel(f"{key!r} is {value} and should be {low} to {high}")
    return value


def real(
    metadata: Mapping[str, MetadataValue], key: str, low: float, high: float, default: float | None = None
) -> float:
    """A number within (low, high).

    Raises:
        DamagedModel: It is missing and there is no default, or it is no number, or out of range.
    """
    value = metadata.get(key, default)
    if value is None:
        raise DamagedModel(f"the metadata lacks {key!r}: fetch the file again")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise DamagedModel(f"{key!r} is {_short(value)} and should be a number")
    if not math.isfinite(value) or not low < value < high:
        raise DamagedModel(f"{key!r} is {value} and should be between {low} and {high}")
    return float(value)


def text(metadata: Mapping[str, MetadataValue], key: str, default: str | None = None) -> str:
    """A text.

    Raises:
        DamagedModel: It is missing and there is no default, or it is no text.
    """
    value = metadata.get(key, default)
    if value is None:
        raise DamagedModel(f"the metadata lacks {key!r}: fetch the file again")
    if not isinstance(value, str):
        raise DamagedModel(f"{key!r} is {_short(value)} and should be a text")
    return value


def texts(metadata: Mapping[str, MetadataValue], key: str) -> tuple[str, ...]:
    """An array of texts.

    Raises:
        DamagedModel: It is missing or something else.
    """
    value = metadata.get(key)
    if value is None:
        raise DamagedModel(f"the metadata lacks {key!r}: fetch the file again")
    if not isinstance(value, tuple):
        raise DamagedModel(f"{key!r} is {_short(value)} and should be an array of texts")
    found = tuple(item for item in value if isinstance(item, str))
    if len(found) != len(value):
        raise DamagedModel(f"{key!r} is an array of numbers and should be one of texts")
    return found


def flag(metadata: Mapping[str, MetadataValue], key: str, default: bool) -> bool:
    """A truth value.

    Raises:
        DamagedModel: It is something else.
    """
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise DamagedModel(f"{key!r} is {_short(value)} and should be true or false")
    return value


def _short(value: MetadataValue) -> str:
    shown = repr(value[:3] if isinstance(value, tuple) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
