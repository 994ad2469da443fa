"""How a weight enters a computation: which of its dimensions are outputs, inputs, experts.

A weight is followed through transposes, casts and selections of experts until it enters a product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Args = Sequence[Any]
Named = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """What a tensor shows of a parameter.

    parameter  number of the parameter
    dims       for each dimension of the view the parameter's own, None for one that is not the parameter's
    cut        dimensions of the parameter of which only a part is seen
    """

    parameter: int
    dims: tuple[int | None, ...]
    cut: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Entry:
    """A weight (operand `weight`) meets an activation (operand `x`) in a product.

    output, input  dimensions of the weight's view, counted from the end
    features       dimension of the activation that is summed over, counted from the end
    """

    weight: torch.Tensor
    x: torch.Tensor
    output: int
    input: int
    features: int


def name_of(func: Callable[..., Any]) -> str:
    """Plain name of a torch function: `matmul` for `torch.matmul` and `Tensor.matmul`, `get T` for `.T`."""
    name = getattr(func, "__name__", "") or type(func).__name__
    if name in ("__get__", "__set__"):
        return f"{name.strip('_')} {getattr(getattr(func, '__self__', None), '__name__', '')}"
    # an operator object is called by its schema: `namespace::name`, overload after a dot
    return name.split(".")[0]


KEEPS_VALUES = frozenset(
    ("contiguous", "to", "type", "type_as", "float", "half", "bfloat16", "double", "detach", "alias", "clone")
    + ("requires_grad_", "get data", "cpu", "cuda", "positive")
)
"""Same shape, same numbers (up to a cast)."""

KEEPS_ORDER = KEEPS_VALUES | frozenset(
    ("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze")
)
"""Same numbers in the same flat order."""


def keeps_order(name: str, args: Args, named: Named) -> bool:
    """Whether the result is the first argument in another shape or dtype."""
    if name in KEEPS_ORDER:
        return not (name == "view" and len(args) > 1 and isinstance(args[1], torch.dtype))
    if name in ("dropout", "alpha_dropout", "dropout1d", "dropout2d"):
        training = named.get("training", args[2] if len(args) > 2 else True)
        probability = named.get("p", args[1] if len(args) > 1 else 0.5)
        return training is False or probability == 0
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return all(part is None or part is Ellipsis or _is_whole(part) for part in index)
    if name == "expand":
        return False
    return False


def _is_whole(part: object) -> bool:
    return isinstance(part, slice) and part in (
        slice(None),
        slice(0, None),
        slice(None, None, 1),
        slice(0, None, 1),
    )


def follow(view: View, name: str, args: Args, named: Named, result: torch.Tensor) -> View | None:
    """What the result of a function on a view shows of the parameter; None where that is unknown."""
    dims = view.dims
    if name in KEEPS_VALUES:
        return view if result.dim() == len(dims) else None
    if name in ("t", "get T", "get mT", "get H", "get mH", "adjoint"):
        if name in ("t", "get T") and len(dims) != 2:
            return None
        return _with(view, (*dims[:-2], dims[-1], dims[-2]))
    if name in ("transpose", "swapaxes", "swapdims"):
        given = [*args[1:], *(named[key] for key in ("dim0", "dim1", "axis0", "axis1") if key in named)]
        one, other = (dim % len(dims) for dim in given)
        moved = list(dims)
        moved[one], moved[other] = moved[other], moved[one]
        return _with(view, moved)
    if name == "permute":
        order = named.get("dims", args[1] if len(args) > 1 and not isinstance(args[1], int) else args[1:])
        return _with(view, [dims[dim] for dim in order])
    if name == "unsqueeze":
        dim = named.get("dim", args[1] if len(args) > 1 else 0) % (len(dims) + 1)
        return _with(view, (*dims[:dim], None, *dims[dim:]))
    if name in ("view", "reshape", "expand", "expand_as"):
        return _stretched(view, args[0], result)
    if name == "__getitem__":
        return _indexed(view, args[0], args[1], result)
    if name in ("select", "narrow", "unbind", "chunk", "split", "tensor_split", "index_select"):
        return _picked(view, name, args, named, result)
    return None


def _with(view: View, dims: Sequence[int | None], cut: frozenset[int] = frozenset()) -> View:
    return View(view.parameter, tuple(dims), view.cut | cut)


def _stretched(view: View, tensor: torch.Tensor, result: torch.Tensor) -> View | None:
    """The same shape again, perhaps repeated along new or single leading dimensions."""
    new = result.dim() - tensor.dim()
    if new < 0:
        return None
    dims: list[int | None] = [None] * new
    for dim, (before, after) in enumerate(zip(tensor.shape, result.shape[new:], strict=True)):
        if before != after and view.dims[dim] is not None:
            return None
        dims.append(view.dims[dim])
    return _with(view, dims) if result.shape[new:].numel() >= tensor.numel() else None


def _indexed(view: View, tensor: torch.Tensor, index: Any, result: torch.Tensor) -> View | None:
    """One expert, some experts, a part of some dimension."""
    parts = index if isinstance(index, tuple) else (index,)
    if sum(isinstance(part, torch.Tensor) for part in parts) > 1 or any(
        part is Ellipsis for part in parts[:-1]
    ):
        return None
    left, cut = list(view.dims), set[int]()
    dims: list[int | None] = []
    for part in parts:
        if part is None:
            dims.append(None)
            continue
        if part is Ellipsis:
            break
        own = left.pop(0)
        if isinstance(part, slice):
            dims.append(own)
        elif isinstance(part, torch.Tensor):
            # a mask or a list of experts gives a new first dimension of them; one expert none
            if part.dtype == torch.bool and part.dim() != 1:
                return None
            dims += [own] if part.dim() == 1 else [None] * part.dim()
        elif not isinstance(part, int):
            return None
        if own is not None and not _is_whole(part):
            cut.add(own)
    dims += left
    return _with(view, dims, frozenset(cut)) if len(dims) == result.dim() else None


def _picked(view: View, name: str, args: Args, named: Named, result: torch.Tensor) -> View | None:
    position = {"select": 1, "narrow": 1, "unbind": 1, "index_select": 1}.get(name, 2)
    dim = named.get("dim", args[position] if len(args) > position else 0) % len(view.dims)
    own = view.dims[dim]
    dims = list(view.dims)
    if name in ("select", "unbind"):
        del dims[dim]
    return (
        _with(view, dims, frozenset() if own is None else frozenset({own}))
        if len(dims) == result.dim()
        else None
    )


GROUPED = frozenset({"grouped_mm", "_grouped_mm", "grouped_mm_fallback", "transformers::grouped_mm_fallback"})
"""Rows in groups, each group times the matrix of its expert."""


def products(name: str, args: Args, named: Named) -> list[Entry]:
    """Both readings of a product of two tensors: either operand may be the weight."""
    if name == "linear":
        x, weight = _two(args, named, 0, ("input", "weight"))
        return [Entry(weight, x, -2, -1, -1)] if _both(x, weight) else []
    if name == "__rmatmul__":
        right, left = args[0], args[1]
    elif name in ("addmm", "baddbmm", "addbmm"):
        left, right = _two(args, named, 1, ("mat1", "mat2") if name == "addmm" else ("batch1", "batch2"))
    elif name in ("matmul", "__matmul__", "mm", "bmm"):
        left, right = _two(args, named, 0, ("input", "other"))
        right = named.get("mat2", right)
    elif name in GROUPED:
        left, right = _two(args, named, 0, ("mat_a", "mat_b"))
        left, right = (
            named.get("input", named.get("self", left)),
            named.get("weight", named.get("mat2", right)),
        )
    else:
        return []
    if not _both(left, right):
        return []
    entries = [Entry(right, left, -1, -2, -1)] if right.dim() > 1 else []
    if left.dim() > 1:
        entries.append(Entry(left, right, -2, -1, -2 if right.dim() > 1 else -1))
    return entries


def _two(args: Args, named: Named, begin: int, names: tuple[str, str]) -> tuple[Any, Any]:
    def one(position: int, name: str) -> Any:
        return args[position] if len(args) > position else named.get(name)

    return one(begin, names[0]), one(begin + 1, names[1])


def _both(one: object, other: object) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)


def matrix_axes(view: View, entry: Entry, shape: torch.Size) -> tuple[str, str]:
    """Axes of a parameter in a product, and why it has none (then the axes are empty)."""
    if len(view.dims) != entry.weight.dim():
        return "", "its view is not understood"
    output, inputs = view.dims[entry.output], view.dims[entry.input]
    if output is None or inputs is None:
        return "", "not used as a matrix"
    if inputs in view.cut:
        return "", "only a part of its inputs is used at once"
    letters = ["e"] * len(shape)
    letters[output], letters[inputs] = "o", "i"
    axes = "".join(letters)
    if axes in ("oi", "io", "eoi", "eio"):
        return axes, ""
    return "", f"used as a stack of matrices with axes {axes}"


def conv_axes(name: str, view: View, args: Args, named: Named, shape: torch.Size) -> tuple[str, str]:
    """The same for the weight of a convolution."""
    groups = named.get("groups", args[6] if len(args) > 6 else 1)
    if groups != 1:
        return "", "grouped convolution"
    if view.dims != tuple(range(len(shape))) or view.cut:
        return "", f"changed before it enters {name}"
    axes = {"conv1d": "oik", "conv2d": "oikk"}.get(name, "")
    return axes, "" if axes else "convolution over three dimensions"
