"""What the bytes of one tensor mean: original dtype and shape, which axis is which, codec, transform.

A descriptor joins a codec, which sees a matrix of outputs by inputs, to a tensor of a model, which may be
transposed, stacked or a convolution. It goes through JSON unchanged and says exactly which arrays it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from higgsx.codecs.base import DTYPE_BYTES, Arrays, Codec, MatrixShape
from higgsx.codecs.dense import Dense
from higgsx.codecs.table import codec_from
from higgsx.errors import FormatError
from higgsx.lazy import lazy
from higgsx.transforms.hadamard import Hadamard

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

AXES: dict[str, int] = {"": -1, "oi": 2, "io": 2, "eoi": 3, "eio": 3, "oik": 3, "oikk": 4}
"""Axes in the order of the original's dimensions, and how many there are: o outputs, i inputs, e experts,
k positions of a convolution's kernel. Empty: no matrix, kept dense."""

_FIELDS = {"dtype", "shape", "axes", "codec", "params", "transform"}


@dataclass(frozen=True)
class Descriptor:
    """dtype      safetensors name of the original's dtype
    shape      of the original
    axes       a key of `AXES`
    transform  of the inputs, None without
    """

    dtype: str
    shape: tuple[int, ...]
    axes: str
    codec: Codec
    transform: Hadamard | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise FormatError(
                "unknown dtype", got=repr(self.dtype), expected=sorted(DTYPE_BYTES), code="DTYPE"
            )
        if not all(type(size) is int and 1 <= size < 1 << 48 for size in self.shape):
            raise FormatError(
                "invalid shape", got=self.shape, expected="positive whole numbers", code="SHAPE"
            )
        if self.axes not in AXES or AXES[self.axes] not in (-1, len(self.shape)):
            raise FormatError(
                "axes do not fit the shape", got=f"{self.axes!r} for {self.shape}", code="SHAPE"
            )
        if self.is_dense and self.transform is not None:
            raise FormatError("a dense tensor has no transform", code="CODEC")
        if not self.is_dense and self.axes == "":
            raise FormatError("only a matrix can be compressed", got=f"shape {self.shape}", code="CODEC")
        reason = self.codec.accepts(self.matrix, self.dtype)
        if reason is None and self.transform is not None:
            reason = self.transform.misfit(self.matrix.inputs)
        if reason is not None:
            raise FormatError(reason, where=self.codec.id, code="CODEC")

    @property
    def is_dense(self) -> bool:
        """Whether the stored array is the tensor itself, under its own name."""
        return isinstance(self.codec, Dense)

    @property
    def is_exact(self) -> bool:
        """Whether the original comes back bit for bit."""
        return isinstance(self.codec, Dense) and self.codec.dtype == self.dtype

    @property
    def weights(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @cached_property
    def matrix(self) -> MatrixShape:
        """The tensor as a codec sees it; without axes rows are what the first dimension counts."""
        if self.axes == "":
            rows = self.shape[0] if len(self.shape) > 1 else 1
            return MatrixShape(rows, self.weights // rows)
        sizes = dict.fromkeys("oiek", 1)
        for axis, size in zip(self.axes, self.shape, strict=True):
            sizes[axis] *= size
        return MatrixShape(sizes["o"], sizes["i"] * sizes["k"], sizes["e"] if "e" in self.axes else None)

    @property
    def segment(self) -> int:
        """Inputs of one kernel position of a convolution, 0 for others: transforms act within it."""
        return self.shape[1] if "k" in self.axes else 0

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of every stored array by suffix. A dense one keeps the original's shape."""
        if isinstance(self.codec, Dense):
            return {"": (self.codec.dtype, self.shape)}
        return {
            suffix: (array.dtype, array.shape) for suffix, array in self.codec.arrays(self.matrix).items()
        }

    def nbytes(self) -> int:
        return self.codec.nbytes(self.matrix)

    def decode(self, arrays: Arrays) -> torch.Tensor:
        """Normative values in the original's shape, float32 (a dense one: in its stored dtype)."""
        if self.is_dense:
            return arrays[""].view(self.shape)
        values = self.codec.decode(arrays, self.matrix)
        if self.transform is not None:
            values = self.transform.decode(values.contiguous())
        return self.from_matrix(values)

    def decode_rows(self, arrays: Arrays, rows: torch.Tensor) -> torch.Tensor:
        """float32 `[len(rows), inputs]` of a plain matrix (axes `oi`)."""
        values = self.codec.decode_rows(arrays, self.matrix, rows)
        return values if self.transform is None else self.transform.decode(values.contiguous())

    def check(self, arrays: Arrays) -> list[str]:
        """What only reading the bytes can tell: complaints, empty if there are none."""
        return [] if self.is_dense else self.codec.check(arrays, self.matrix)

    def to_matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """The original as `[*experts, outputs, inputs]`; a view where that is possible."""
        if self.axes in ("io", "eio"):
            return tensor.transpose(-1, -2)
        if "k" in self.axes:
            return tensor.flatten(2).transpose(1, 2).reshape(self.matrix.outputs, self.matrix.inputs)
        return tensor

    def from_matrix(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_matrix`."""
        if self.axes in ("io", "eio"):
            return values.transpose(-1, -2)
        if "k" in self.axes:
            return values.view(self.shape[0], -1, self.shape[1]).transpose(1, 2).reshape(self.shape)
        return values

    def with_codec(self, codec: Codec) -> Descriptor:
        return dataclasses.replace(self, codec=codec)

    def to_json(self) -> dict[str, object]:
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "axes": self.axes,
            "codec": self.codec.id,
            "params": self.codec.params(),
            "transform": None if self.transform is None else self.transform.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Descriptor:
        """Parse what a file says; FormatError (CODEC, SHAPE, DTYPE) for anything that is not a descriptor."""
        if not isinstance(data, Mapping) or set(data) != _FIELDS:
            raise FormatError(
                "not a tensor descriptor", got=repr(data)[:200], expected=sorted(_FIELDS), code="CODEC"
            )
        shape, params, transform = data["shape"], data["params"], data["transform"]
        if (
            not isinstance(shape, list)
            or not isinstance(params, Mapping)
            or not isinstance(data["codec"], str)
        ):
            raise FormatError("not a tensor descriptor", got=repr(data)[:200], code="CODEC")
        if transform is not None and not isinstance(transform, Mapping):
            raise FormatError("not a transform", got=repr(transform)[:200], code="CODEC")
        return cls(
            data["dtype"] if isinstance(data["dtype"], str) else repr(data["dtype"]),
            tuple(shape),
            data["axes"] if isinstance(data["axes"], str) else repr(data["axes"]),
            codec_from(data["codec"], params),
            None if transform is None else Hadamard.from_json(transform),
        )
