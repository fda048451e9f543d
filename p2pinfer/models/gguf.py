"""A GGUF file, open for reading: metadata, the table of tensors, and weights tensor by tensor.

Rules:

1. Only what is asked for is touched: the file is mapped, so a peer's memory grows with its span.
2. `read_raw` gives a view of the mapping and `read` gives float32 of its own; a view keeps the mapping
   alive after `close`.
3. What is wrong with a file is a `ModelError` that names the file and the part; no other exception leaves.

A mapped file must not be cut short while it is open: the system ends a process that touches pages which are
gone. The store therefore never writes into a file in place.

Departs from the package `gguf`, whose reader builds an array object for each string of the vocabulary
(2.6 s for SmolLM2 where this takes 0.05 s); its constants, names and dequantisation are used as they are.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from p2pinfer.errors import DamagedModel, ModelError, ModelNotFound, StorageError, UnsupportedModel
from p2pinfer.models.gguf_header import Header, Metadata, TensorInfo, read_header

__all__ = ["DEQUANTISABLE", "GGUFFile", "TensorInfo"]

DEQUANTISABLE = frozenset(
    GGMLQuantizationType[name]
    for name in (
        *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    )
)
"""The types that `read` can turn into float32 (package gguf, `quants.py`)."""


class GGUFFile:
    """A mapped GGUF file; a context manager. Its methods may be called from several threads."""

    def __init__(self, path: Path, data: mmap.mmap, header: Header) -> None:
        self.path = path
        self._data: mmap.mmap | None = data
        self._header = header

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUFFile:
        """Map the file and read its header.

        Raises:
            ModelNotFound: There is no such file.
            DamagedModel: The file is truncated or its header contradicts itself.
            UnsupportedModel: The file has a version or quantisation type that is not known.
            StorageError: The system would not let the file be read.
        """
        where = Path(path)
        data = _map(where)
        try:
            return cls(where, data, read_header(data))
        except ModelError as error:
            data.close()
            raise type(error)(f"{where.name}: {error}") from error

    @property
    def metadata(self) -> Metadata:
        """The key-value pairs; a large array (the vocabulary) is decoded each time it is asked for."""
        return self._header.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The table of tensors, in the file's order."""
        return self._header.tensors

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor's weights as float32, in memory of their own.

        Raises:
            DamagedModel: There is no such tensor, or a weight is no finite number.
            UnsupportedModel: The tensor's type cannot be dequantised.
        """
        info = self._info(name)
        if info.type not in DEQUANTISABLE:
            raise UnsupportedModel(
                f"{self.path.name}: the tensor {name!r} is of type {info.type.name}, "
                "which cannot be dequantised"
            )
        raw = self.read_raw(name)
        with np.errstate(all="ignore"):  # a damaged scale overflows; it is looked for below
            if info.type is GGMLQuantizationType.F32:
                raw = raw.copy()  # dequantising gives a view of what is float32 already
            weights = np.asarray(quants.dequantize(raw, info.type), np.float32).reshape(info.shape)
            finite = bool(np.isfinite(weights.max()) and np.isfinite(weights.min()))
        if not finite:
            raise self._damaged(f"the tensor {name!r} holds weights that are no finite numbers")
        return weights

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes as they lie in the file, a view that cannot be written to.

        Shapes:
            result: (rows, bytes of a row); more dimensions are flattened into rows.

        Raises:
            DamagedModel: There is no such tensor.
        """
        info = self._info(name)
        if self._data is None:
            raise ValueError(f"{self.path} is closed")
        view: NDArray[np.uint8] = np.frombuffer(self._data, np.uint8, info.size_bytes, info.offset)
        return view.reshape(-1, info.row_size_bytes)

    def close(self) -> None:
        """Let go of the mapping; it goes away with the last view of it. Closing twice does nothing."""
        data, self._data = self._data, None
        if data is not None:
            try:
                data.close()
            except BufferError:
                pass  # a view is still in use and keeps the mapping alive

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _info(self, name: str) -> TensorInfo:
        info = self._header.tensors.get(name)
        if info is None:
            raise self._damaged(f"the tensor {name!r} is missing")
        return info

    def _damaged(self, what: str) -> DamagedModel:
        return DamagedModel(f"{self.path.name}: {what}: fetch the file again")


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return mmap.mmap(
                    -1, 1
                )  # a system maps no empty file; the header's check will say what is wrong
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path}: no such file; name a GGUF file, or pull a model") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
