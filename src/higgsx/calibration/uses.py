"""Watches a forward pass, and on the way back adds up what each row of each weight does to the score.

A row i of a weight answers `y_ti = w_i · x_t` at every position t. With g the gradient of the score at y, an
error of w_i whose entries are independent with variance m moves the score by a variance of
`m · Σ_t g_ti² · |x_t|²`. The sum is what is kept: |x_t|² is taken on the way forward, g arrives in a hook on
the way back, and no gradient of a weight is ever formed. A look-up is a product with the unit vector of its
token, so the row of token v gets `Σ_t |g_t|² [token_t = v]`.

The same sum by input instead of by row, `Σ_t |g_t|² x_tj²` (of a look-up `Σ_t g_tj²`), says what an error of
column j does; channel scales are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from higgsx.calibration.picked import Picked
from higgsx.nn.operands import GROUPED, Entry, View, follow, name_of, products
from higgsx.nn.ties import shared_parameters

_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "conv1d": nn.functional.conv1d,
    "conv2d": nn.functional.conv2d,
}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Uses(TorchFunctionMode):
    """Context of forward passes. Results of the first products require gradients, so that no weight must.

    axes  parameter name → its axes, a key of `descriptor.AXES`; other parameters are not watched
    sums  parameter name → float64 `[rows]`, experts one after the other, grows with every backward pass
    columns  the same over inputs, float64 `[inputs]`; not of convolutions, nor where only some are read
    """

    def __init__(self, model: nn.Module, axes: Mapping[str, str]) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._axes: list[str] = []
        self._shapes: list[torch.Size] = []
        self._fixed: dict[int, tuple[Tensor, View, Picked]] = {}
        for one in shared_parameters(model):
            name = next((name for name in one.names if name in axes), None)
            if name is None:
                continue
            number = len(self._names)
            shape = one.tensor.shape
            self._names.append(name)
            self._axes.append(axes[name])
            self._shapes.append(shape)
            rows = shape[axes[name].index("o")] * (shape[0] if "e" in axes[name] else 1)
            self.sums[name] = torch.zeros(rows, dtype=torch.float64, device=one.tensor.device)
            if "k" not in axes[name]:
                inputs = shape[axes[name].index("i")]
                self.columns[name] = torch.zeros(inputs, dtype=torch.float64, device=one.tensor.device)
            for place in one.places:
                tensor = place.module._parameters[place.parameter]
                if tensor is not None:
                    view = View(number, tuple(range(tensor.dim())))
                    self._fixed[id(tensor)] = tensor, view, Picked()
        self._views = dict(self._fixed)

    def forget(self) -> None:
        """Let go of what was seen of the batch before."""
        self._views = dict(self._fixed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if not any(id(x) in self._views for x in tree_leaves((args, named)) if isinstance(x, Tensor)):
            return result
        name = name_of(func)
        if name == "__iter__":
            result = list(result)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        count = self._count(name, args, named)
        if count is None:
            self._follow(func, name, args, named, made)
            return iter(result) if name == "__iter__" else result
        return _with_hook(result, count)

    def _follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: Sequence[Any],
        named: Mapping[str, Any],
        made: list[Tensor],
    ) -> None:
        source = args[0] if args else None
        if not isinstance(source, Tensor) or id(source) not in self._views:
            return
        _, view, picked = self._views[id(source)]
        for place, x in enumerate(made):
            new = follow(view, "select" if name == "__iter__" else name, args, named, x)
            if new is not None and id(x) not in self._views:
                self._views[id(x)] = x, new, picked.follow(func, name, args, named, view, source, made, place)

    def _count(
        self, name: str, args: Sequence[Any], named: Mapping[str, Any]
    ) -> Callable[[Tensor], None] | None:
        """What to do with the gradient of a product's result; None for no product of a watched weight."""
        if name == "embedding":
            ids, weight = _argument(args, named, 0), _argument(args, named, 1)
            return self._look_up(weight, ids) if id(weight) in self._views else None
        if name in _CONVOLUTIONS:
            x, weight = _argument(args, named, 0), _argument(args, named, 1)
            if id(weight) not in self._views:
                return None
            given = dict(zip(_ARGUMENTS, args, strict=False)) | dict(named)
            return self._convolve(name, weight, x, given)
        for entry in products(name, args, named):
            if id(entry.weight) in self._views and id(entry.x) not in self._views:
                scale = float(named.get("alpha", 1.0))
                if name in GROUPED:
                    return self._grouped(entry, named.get("offs", args[2] if len(args) > 2 else None))
                return self._multiply(entry, scale)
        return None

    def _look_up(self, weight: Tensor, ids: Tensor) -> Callable[[Tensor], None]:
        sums = self._sums(weight)

        def count(g: Tensor) -> None:
            power = g.float().square()
            sums.index_add_(0, ids.reshape(-1), power.sum(-1).reshape(-1).double())
            self._add_columns(weight, power.reshape(-1, power.shape[-1]).sum(0))

        return count

    def _convolve(
        self, name: str, weight: Tensor, x: Tensor, given: dict[str, Any]
    ) -> Callable[[Tensor], None]:
        sums = self._sums(weight)
        dims = weight.dim() - 2
        batched = x.dim() == dims + 2
        energy = x.detach().float().square().sum(-1 - dims, keepdim=True)
        ones = torch.ones(1, 1, *weight.shape[2:], device=x.device)
        how = {key: given[key] for key in ("stride", "padding", "dilation") if key in given}
        norms = _CONVOLUTIONS[name](energy, ones, **how)

        def count(g: Tensor) -> None:
            power = g.float().square() * norms
            over = [dim for dim in range(g.dim()) if dim != (1 if batched else 0)]
            sums.add_(power.sum(over, dtype=torch.float64))

        return count

    def _multiply(self, entry: Entry, scale: float) -> Callable[[Tensor], None]:
        """A product: g `[..., positions, outputs]`, leading dimensions those of a stack of matrices."""
        _, view, picked = self._views[id(entry.weight)]
        of_rows = self._rows(view, picked, entry.output, entry.weight)
        sums = self._sums(entry.weight)
        stacked = entry.weight.dim() > 2
        vector = entry.x.dim() == 1
        # squared now: a model may change x in place before the gradient comes
        energy = entry.x.detach().movedim(entry.features, -1).float().square()
        if scale != 1.0:
            energy = energy * scale**2
        norms = energy.sum(-1)
        transposed = entry.output == -2 and entry.features == -2

        def count(g: Tensor) -> None:
            g = g.float()
            if vector:
                g = g.unsqueeze(-2)
            elif transposed:
                g = g.transpose(-1, -2)
            power = g.square()
            if stacked:
                over = norms.expand(power.shape[:-1]) if not vector else norms.expand(*power.shape[:-2], 1)
                rows = (over.unsqueeze(-2) @ power).squeeze(-2)  # [..., outputs]
            else:
                rows = norms.reshape(-1) @ power.reshape(-1, power.shape[-1])
            place = of_rows.expand(rows.shape).reshape(-1)
            sums.index_add_(0, place, rows.reshape(-1).double())
            positions = power.sum(-1)
            over_inputs = energy.expand(*positions.shape, energy.shape[-1])
            self._add_columns(entry.weight, _weighed(positions, over_inputs))

        return count

    def _grouped(self, entry: Entry, ends: Tensor | None) -> Callable[[Tensor], None] | None:
        """Rows of x in groups, each times the matrix of its expert; `ends` says where each group ends."""
        if ends is None or entry.weight.dim() != 3 or entry.x.dim() != 2:
            return None
        _, view, picked = self._views[id(entry.weight)]
        of_rows = self._rows(view, picked, entry.output, entry.weight)  # [experts, outputs]
        sums = self._sums(entry.weight)
        energy = entry.x.detach().float().square()
        norms = energy.sum(-1)
        counts = torch.diff(ends.long(), prepend=ends.new_zeros(1).long())
        expert = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), counts)

        def count(g: Tensor) -> None:
            used = len(expert)  # rows after the last group belong to nobody
            power = g[:used].float().square()
            rows = torch.zeros(of_rows.shape, dtype=torch.float64, device=g.device)
            rows.index_add_(0, expert, (power * norms[:used, None]).double())
            sums.index_add_(0, of_rows.reshape(-1), rows.reshape(-1))
            self._add_columns(entry.weight, _weighed(power.sum(-1), energy[:used]))

        return count

    def _add_columns(self, weight: Tensor, found: Tensor) -> None:
        """found: `[inputs]` of the part of the parameter that `weight` shows."""
        _, view, picked = self._views[id(weight)]
        name, inputs = self._names[view.parameter], self._axes[view.parameter].find("i")
        columns = self.columns.get(name)
        if columns is None:
            return
        if columns.shape == found.shape and picked.whole(inputs, len(columns)):
            columns.add_(found.double())
        else:
            del self.columns[name]  # some of the inputs; which ones is not followed

    def _sums(self, weight: Tensor) -> Tensor:
        return self.sums[self._names[self._views[id(weight)][1].parameter]]

    def _rows(self, view: View, picked: Picked, output: int, weight: Tensor) -> Tensor:
        """Which row of the parameter each output is: int64, `[stack ..., outputs]`."""
        axes, shape = self._axes[view.parameter], self._shapes[view.parameter]
        out = picked.indices(view, axes.index("o"), shape)
        rows = out.movedim(output, -1)
        if "e" in axes:
            rows = rows + picked.indices(view, 0, shape).movedim(output, -1) * shape[axes.index("o")]
        return rows.squeeze(-2).to(weight.device)  # along the inputs nothing changes


def _weighed(positions: Tensor, energy: Tensor) -> Tensor:
    """`Σ_t positions_t · energy_tj`: [..., T], [..., T, inputs] → [inputs]."""
    return positions.reshape(-1) @ energy.reshape(-1, energy.shape[-1])


def _argument(args: Sequence[Any], named: Mapping[str, Any], place: int) -> Any:
    return args[place] if len(args) > place else named.get(_ARGUMENTS[place])


def _with_hook(result: Tensor, count: Callable[[Tensor], None]) -> Tensor:
    """The result of a product, made to ask for its gradient; `count` gets it."""
    if not torch.is_grad_enabled():
        return result
    if result.requires_grad:
        result.register_hook(lambda g: count(g.detach()))
        return result
    leaf = result.detach().requires_grad_()
    leaf.register_hook(lambda g: count(g.detach()))
    return leaf.clone()  # a leaf itself could not be changed in place
