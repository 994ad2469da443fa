"""A weight that is not there: shape, dtype and device of the dense tensor, and no storage.

Questions about it are free, products and look-ups go to the kernels, anything else sees a decoded copy.
Changing it in place, or through `.data`, gives the new values to its owner, which holds them dense from
then on. Rows that are taken out are copies: writing to them changes nothing here, unlike a dense weight's.
A tied copy keeps its compressed values; `densify` keeps ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map

from higgsx.errors import ModelError
from higgsx.kernels import ops
from higgsx.kernels.packed import Packed
from higgsx.kernels.reference import Sizes
from higgsx.nn.inplace import changes

Home = Callable[[torch.Tensor], torch.Tensor]
"""Gives changed values to the owner; returns the dense parameter that now stands there."""


class VirtualWeight(torch.Tensor):
    """hgs_packed   the compressed weight
    hgs_flipped  True for the transposed view of a matrix
    hgs_home     None for views, which cannot be written to
    hgs_dense    the parameter that stands in its place once it was written to, else None
    """

    # a loader that initialises what it thinks is missing must leave compressed weights alone
    _is_hf_initialized = True

    hgs_packed: Packed
    hgs_flipped: bool
    hgs_home: Home | None
    hgs_dense: torch.Tensor | None

    @staticmethod
    def of(packed: Packed, home: Home | None = None, flipped: bool = False) -> VirtualWeight:
        shape = tuple(reversed(packed.shape)) if flipped else packed.shape
        empty = torch.empty((), dtype=packed.dtype, device=packed.device).expand(shape)
        weight: VirtualWeight = torch.Tensor._make_subclass(VirtualWeight, empty)
        weight.hgs_packed, weight.hgs_home, weight.hgs_flipped, weight.hgs_dense = packed, home, flipped, None
        return weight

    def decode(self) -> torch.Tensor:
        """An ordinary tensor with the same values."""
        if self.hgs_dense is not None:
            return self.hgs_dense
        dense = ops.decode(self.hgs_packed)
        return dense.t() if self.hgs_flipped else dense

    @property
    def outputs_first(self) -> bool:
        """Whether rows are outputs, in the orientation that is seen from outside."""
        return self.hgs_packed.inputs_first == self.hgs_flipped

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        packed = self.hgs_packed
        return f"VirtualWeight({tuple(self.shape)}, {packed.dtype}, {packed.device}, {packed.family})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args = [_current(value) for value in args]
        kwargs = {name: _current(value) for name, value in (kwargs or {}).items()}
        with torch._C.DisableTorchFunctionSubclass():
            # looked up by ==: some of these are new objects at each access
            if func in _METADATA:
                return func(*args, **kwargs)
            handler = _HANDLERS.get(func)
            if handler is not None and any(isinstance(x, VirtualWeight) for x in (*args, *kwargs.values())):
                result = handler(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            if changes(getattr(func, "__name__", "")) and isinstance(_first(args, kwargs), VirtualWeight):
                return _change(func, args, kwargs)
            if any(isinstance(value, VirtualWeight) for value in _outputs(kwargs)):
                raise ModelError("a compressed weight cannot be written to", remedy="densify it first")
            return func(*_dense(args), **_dense(kwargs))


def _current(value: Any) -> Any:
    return value.hgs_dense if isinstance(value, VirtualWeight) and value.hgs_dense is not None else value


def _dense(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.decode() if isinstance(leaf, VirtualWeight) else leaf, tree)


def _outputs(kwargs: Mapping[str, Any]) -> tuple[object, ...]:
    out = kwargs.get("out")
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The argument that is written to; functions of `nn.init` come with names only."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _change(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    weight = _first(args, kwargs)
    dense = weight.decode()
    if args:
        func(dense, *_dense(args[1:]), **_dense(kwargs))
    else:
        func(**{next(iter(kwargs)): dense}, **_dense(dict(list(kwargs.items())[1:])))
    return _settle(weight, dense)


def _settle(weight: VirtualWeight, value: torch.Tensor) -> torch.Tensor:
    if weight.hgs_home is None:
        raise ModelError("a view of a compressed weight cannot be written to", remedy="densify it first")
    weight.hgs_dense = weight.hgs_home(value)
    return weight.hgs_dense


def _usable(*operands: object) -> bool:
    return not any(isinstance(operand, VirtualWeight) for operand in operands)


def _on_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if (
        isinstance(weight, VirtualWeight)
        and weight.dim() == 2
        and weight.outputs_first
        and _usable(input, bias)
    ):
        return ops.linear(input, weight.hgs_packed, bias)
    return NotImplemented


def _on_matmul(input: Any = None, other: Any = None, **rest: Any) -> Any:
    if isinstance(other, VirtualWeight) and _is_right_factor(other, input) and not rest:
        return ops.matmul(input, other.hgs_packed)
    return NotImplemented


def _on_addmm(input: Any, mat1: Any, mat2: Any, **rest: Any) -> Any:
    is_bias = _usable(input) and input.dim() == 1
    if isinstance(mat2, VirtualWeight) and _is_right_factor(mat2, mat1) and is_bias and not rest:
        return ops.matmul(mat1, mat2.hgs_packed, input)
    return NotImplemented


def _is_right_factor(weight: VirtualWeight, x: object) -> bool:
    return weight.dim() == 2 and not weight.outputs_first and _usable(x)


def _on_embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    # padding_idx and the last two shape only the gradient of the table, which is frozen
    if isinstance(weight, VirtualWeight) and _is_table(weight) and max_norm is None:
        return ops.embedding(input, weight.hgs_packed)
    return NotImplemented


def _is_table(weight: VirtualWeight) -> bool:
    return weight.hgs_packed.descriptor.axes == "oi" and not weight.hgs_flipped


def _on_conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Any:
    if (
        isinstance(weight, VirtualWeight)
        and groups == 1
        and not _needs_grad(input, bias)
        and _usable(input, bias)
    ):
        return ops.conv(input, weight.hgs_packed, bias, stride, padding, dilation)
    return NotImplemented


def _needs_grad(*operands: object) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in operands)


def _on_index(weight: Any, index: Any) -> Any:
    """Rows of a table, one matrix of a stack: only what was asked for is decoded."""
    if not isinstance(weight, VirtualWeight) or weight.hgs_flipped:
        return NotImplemented
    packed = weight.hgs_packed
    whole = type(index) is int or _is_one_number(index)
    if whole and packed.descriptor.axes in ("eoi", "eio"):
        return VirtualWeight.of(packed.expert(int(index)))
    if not _is_table(weight):
        return NotImplemented
    if type(index) is int:
        rows = torch.tensor(range(packed.shape[0])[index], device=packed.device)
    elif isinstance(index, slice):
        rows = torch.arange(packed.shape[0], device=packed.device)[index]
    elif type(index) is torch.Tensor and index.dtype in (torch.int64, torch.int32) and not index.is_meta:
        rows = torch.where(index < 0, index + packed.shape[0], index).to(packed.device)
    else:
        return NotImplemented
    return ops.embedding(rows, packed)


def _is_one_number(index: Any) -> bool:
    if type(index) is not torch.Tensor or index.dim() != 0 or index.is_meta:
        return False
    return not index.dtype.is_floating_point and index.dtype != torch.bool


def _on_transpose(weight: Any, *dims: Any) -> Any:
    if not isinstance(weight, VirtualWeight) or weight.dim() != 2:
        return NotImplemented
    if dims and sorted(dim % 2 for dim in dims) != [0, 1]:
        return NotImplemented
    return VirtualWeight.of(weight.hgs_packed, None, not weight.hgs_flipped)


def _on_property_transpose(weight: Any, *unused: Any) -> Any:
    return _on_transpose(weight)


def _on_layout(func: Callable[..., Any]) -> Callable[..., Any]:
    """Strides are those that the dense weight would have, not those of the empty storage."""

    def handler(weight: Any, *args: Any, **kwargs: Any) -> Any:
        dense = torch.empty(weight.hgs_packed.shape, device="meta")
        return func(dense.t() if weight.hgs_flipped else dense, *args, **kwargs)

    return handler


def _on_requires_grad(weight: Any, value: bool = True) -> Any:
    if value:
        raise ModelError(
            "a compressed weight cannot be trained", remedy="densify it first, or train an adapter"
        )
    return weight


def _on_detach(weight: Any) -> Any:
    return weight


def _on_data_get(weight: Any, *unused: Any) -> Any:
    # virtual again, so that `weight.data.copy_(…)` is not lost
    return weight


def _on_data_set(weight: Any, value: Any) -> Any:
    if isinstance(weight, VirtualWeight):
        _settle(weight, _dense(value))
        return None
    return NotImplemented


_T = torch.Tensor
_HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _on_linear,
    F.embedding: _on_embedding,
    F.conv1d: _on_conv,
    F.conv2d: _on_conv,
    torch.addmm: _on_addmm,
    _T.addmm: _on_addmm,
    _T.__getitem__: _on_index,
    _T.t: _on_transpose,
    torch.t: _on_transpose,
    _T.T.__get__: _on_property_transpose,  # type: ignore[attr-defined]
    _T.mT.__get__: _on_property_transpose,  # type: ignore[attr-defined]
    _T.transpose: _on_transpose,
    torch.transpose: _on_transpose,
    _T.stride: _on_layout(_T.stride),
    _T.is_contiguous: _on_layout(_T.is_contiguous),
    _T.requires_grad_: _on_requires_grad,
    _T.requires_grad.__set__: _on_requires_grad,  # type: ignore[attr-defined]
    _T.detach: _on_detach,
    _T.data.__get__: _on_data_get,  # type: ignore[attr-defined]
    _T.data.__set__: _on_data_set,  # type: ignore[attr-defined]
    **dict.fromkeys((torch.matmul, torch.mm, _T.matmul, _T.mm, _T.__matmul__), _on_matmul),
}

_GETTERS = (
    "dtype shape device ndim layout is_meta requires_grad is_cpu is_cuda is_mps is_xpu is_sparse "
    "is_sparse_csr is_quantized is_nested is_leaf is_mkldnn grad grad_fn itemsize nbytes names"
)
_METHODS = (
    "size dim ndimension numel nelement element_size is_floating_point is_complex is_signed is_inference "
    "get_device __len__ __hash__"
)
# versions of torch differ in what they have
_METADATA: frozenset[Callable[..., Any]] = frozenset(
    [getattr(_T, name).__get__ for name in _GETTERS.split() if hasattr(_T, name)]
    + [getattr(_T, name) for name in _METHODS.split()]
    + [torch.numel, torch.is_floating_point, torch.is_complex, torch.is_signed]
)
