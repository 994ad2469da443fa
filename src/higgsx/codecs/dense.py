"""Numbers as they are, row-major: float32, bfloat16 or float16 (or the original dtype of anything else)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from higgsx.codecs.base import DTYPE_BYTES, Arrays, ArrayShape, Codec, MatrixShape, require, torch_dtype
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Dense(Codec):
    """A dense tensor keeps the shape of the original; its matrix view is for the planner alone."""

    dtype: str

    id: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        known = isinstance(self.dtype, str) and self.dtype in DTYPE_BYTES
        require(known, self.id, "dtype", self.dtype, sorted(DTYPE_BYTES))

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch_dtype(self.dtype)

    @property
    def label(self) -> str:
        return self.dtype.lower().replace("f16", "fp16").replace("bfp16", "bf16").replace("f32", "fp32")

    def accepts(self, shape: MatrixShape, dtype: str) -> str | None:
        floats = ("F64", "F32", "F16", "BF16")
        if dtype != self.dtype and not (dtype in floats and self.dtype in floats):
            return f"{dtype} is kept in its own dtype"
        return None

    def arrays(self, shape: MatrixShape) -> dict[str, ArrayShape]:
        return {"": ArrayShape(self.dtype, (*shape.lead, shape.outputs, shape.inputs))}

    def decode(self, arrays: Arrays, shape: MatrixShape) -> torch.Tensor:
        return arrays[""].float().view(*shape.lead, shape.outputs, shape.inputs)

    def decode_rows(self, arrays: Arrays, shape: MatrixShape, rows: torch.Tensor) -> torch.Tensor:
        return arrays[""].view(shape.outputs, shape.inputs)[rows].float()
