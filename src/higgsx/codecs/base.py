"""What a codec is: numbers to bytes and back. A codec knows nothing of models.

A codec is a frozen dataclass of its parameters, so it compares equal, hashes, and goes through JSON
unchanged. It works on a *matrix*: `outputs` rows of `inputs` numbers, perhaps one matrix per expert.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from higgsx.errors import FormatError
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Arrays: TypeAlias = "Mapping[str, torch.Tensor]"
"""The arrays of one tensor by suffix: `""` (dense), `"_hgs"` (payload), `"_hgsr"` (whole rows)."""

Param = int | str
"""Parameters of a codec are whole numbers and words; the file holds no floats."""


@dataclass(frozen=True)
class MatrixShape:
    """A weight as its codec sees it. `experts` is None for a single matrix."""

    outputs: int
    inputs: int
    experts: int | None = None

    @property
    def weights(self) -> int:
        return (self.experts or 1) * self.outputs * self.inputs

    @property
    def lead(self) -> tuple[int, ...]:
        return () if self.experts is None else (self.experts,)


@dataclass(frozen=True)
class ArrayShape:
    """Type and shape of one stored array; `dtype` is a safetensors name."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = DTYPE_BYTES[self.dtype]
        for size in self.shape:
            count *= size
        return count


DTYPE_BYTES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1
}  # fmt: skip
"""Bytes of an element by its safetensors name."""


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a safetensors name, a key of `DTYPE_BYTES`."""
    return _torch_dtypes()[name]


@cache
def _torch_dtypes() -> dict[str, torch.dtype]:
    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }


class Codec(ABC):
    """The contract; `tests/contract/test_codec.py` runs it over every entry of `codecs/table.py`."""

    id: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """Short unique name of this choice of parameters, as plans show it; family before the dot."""

    @abstractmethod
    def accepts(self, shape: MatrixShape, dtype: str) -> str | None:
        """None, or the reason why this codec cannot hold such a matrix."""

    @abstractmethod
    def arrays(self, shape: MatrixShape) -> dict[str, ArrayShape]:
        """Exact types and shapes of the stored arrays, from the shape alone."""

    @abstractmethod
    def decode(self, arrays: Arrays, shape: MatrixShape) -> torch.Tensor:
        """Normative values, float32 `[*experts, outputs, inputs]`, bit for bit the same everywhere."""

    @abstractmethod
    def decode_rows(self, arrays: Arrays, shape: MatrixShape, rows: torch.Tensor) -> torch.Tensor:
        """The same values of single rows, float32 `[len(rows), inputs]`, without decoding the rest."""

    def nbytes(self, shape: MatrixShape) -> int:
        """Bytes of all arrays, exact and without data."""
        return sum(array.nbytes for array in self.arrays(shape).values())

    def check(self, arrays: Arrays, shape: MatrixShape) -> list[str]:
        """What only reading the bytes can tell (finite scales, zero padding): a list of complaints."""
        return []

    def params(self) -> dict[str, Param]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_params(cls, params: Mapping[str, object]) -> Codec:
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in params:
            if name not in fields:
                raise FormatError(
                    "unknown codec parameter", where=cls.id, got=name, expected=sorted(fields), code="CODEC"
                )
        missing = [name for name in fields if name not in params]
        if missing:
            raise FormatError("codec parameter is missing", where=cls.id, expected=missing, code="CODEC")
        return cls(**params)


def require(condition: bool, codec: str, what: str, got: object, expected: object) -> None:
    """Refuse a parameter. Files come from anyone, so this is a typed error and never an `assert`."""
    if not condition:
        raise FormatError(what, where=codec, got=repr(got), expected=expected, code="CODEC")


def is_int(value: object) -> bool:
    return type(value) is int
