"""The census sees how a parameter is used, whatever the module is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from higgsx.errors import ModelError
from higgsx.nn.census import Census, census


class Box(nn.Module):
    """Parameters by name, and a forward pass given as a function of the module and x."""

    def __init__(
        self, use: Callable[..., object], dtype: torch.dtype = torch.float32, **shapes: tuple[int, ...]
    ):
        super().__init__()
        self.use = use
        for name, shape in shapes.items():
            setattr(
                self,
                name,
                nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=dtype.is_floating_point),
            )

    def forward(self, x: torch.Tensor) -> object:
        return self.use(self, x)


def look(use: Callable[..., object], x: tuple[int, ...] = (3, 4), **shapes: tuple[int, ...]) -> Census:
    with torch.device("meta"):
        return census(Box(use, **shapes), lambda model: model(torch.empty(x, device="meta")))


def one_axes(use: Callable[..., object], w: tuple[int, ...], x: tuple[int, ...] = (3, 4)) -> str:
    found = look(use, x, w=w)
    assert found.rest == ()
    return found.weights[0].axes


def reason(use: Callable[..., object], w: tuple[int, ...], x: tuple[int, ...] = (3, 4)) -> str:
    found = look(use, x, w=w)
    assert found.weights == ()
    return dict(found.rest)["w"]


def test_axes_of_a_matrix():
    assert one_axes(lambda m, x: F.linear(x, m.w), (5, 4)) == "oi"
    assert one_axes(lambda m, x: x @ m.w.t(), (5, 4)) == "oi"
    assert one_axes(lambda m, x: torch.matmul(x, m.w.transpose(-1, 0)), (5, 4)) == "oi"
    assert one_axes(lambda m, x: torch.mm(x, mat2=m.w), (4, 5)) == "io"
    assert one_axes(lambda m, x: torch.addmm(x.new_zeros(5), x, m.w), (4, 5)) == "io"
    assert one_axes(lambda m, x: F.linear(x, m.w.T.to(torch.float64).float()), (4, 5)) == "io"
    assert one_axes(lambda m, x: m.w @ x.t(), (5, 4)) == "oi"
    assert one_axes(lambda m, x: m.w.permute(1, 0) @ x.t(), (4, 5)) == "io"
    # a square matrix: only the operand tells
    assert one_axes(lambda m, x: x @ m.w, (4, 4)) == "io"
    assert one_axes(lambda m, x: F.linear(x, m.w), (4, 4)) == "oi"


def test_axes_of_a_convolution():
    assert one_axes(lambda m, x: F.conv1d(x, m.w), (5, 4, 3), (2, 4, 9)) == "oik"
    assert one_axes(lambda m, x: F.conv2d(x, m.w, stride=2), (5, 4, 3, 3), (2, 4, 9, 9)) == "oikk"
    assert reason(lambda m, x: F.conv1d(x, m.w, groups=2), (6, 2, 3), (2, 4, 9)) == "grouped convolution"
    assert reason(lambda m, x: F.conv3d(x, m.w), (5, 4, 1, 1, 1), (2, 4, 3, 3, 3)).startswith(
        "convolution over three"
    )
    assert reason(lambda m, x: F.conv_transpose1d(x, m.w), (4, 5, 3), (2, 4, 9)) == "enters conv_transpose1d"


def test_axes_of_experts():
    assert one_axes(lambda m, x: torch.bmm(x, m.w), (2, 4, 5), (2, 3, 4)) == "eio"
    assert one_axes(lambda m, x: torch.bmm(x, m.w.mT), (2, 5, 4), (2, 3, 4)) == "eoi"
    assert one_axes(lambda m, x: torch.bmm(m.w, x.mT), (2, 5, 4), (2, 3, 4)) == "eoi"
    assert one_axes(lambda m, x: [F.linear(x, w) for w in m.w], (2, 5, 4)) == "eoi"
    assert one_axes(lambda m, x: F.linear(x, m.w[1]), (2, 5, 4)) == "eoi"
    assert one_axes(lambda m, x: x @ m.w[torch.tensor(1, device="cpu")], (2, 4, 5)) == "eio"
    # one expert for each row
    ids = torch.zeros(3, dtype=torch.long, device="meta")
    assert one_axes(lambda m, x: torch.bmm(m.w[ids], x[..., None]), (2, 5, 4)) == "eoi"
    assert one_axes(lambda m, x: F.linear(x, m.w[0].chunk(2)[1]), (2, 6, 4)) == "eoi"
    assert reason(lambda m, x: F.linear(x[:, :2], m.w[0, :, :2]), (2, 6, 4)).startswith(
        "only a part of its inputs"
    )
    assert reason(lambda m, x: x @ m.w[:, 0], (4, 2, 5)).startswith("used as a stack of matrices")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_product_runs_on_meta_in_every_dtype(dtype: torch.dtype):
    def use(m: Box, x: torch.Tensor) -> torch.Tensor:
        return torch._grouped_mm(x.to(dtype), m.w.mT, offs=torch.zeros(2, dtype=torch.int32, device="meta"))

    with torch.device("meta"):
        found = census(Box(use, dtype, w=(2, 16, 8)), lambda model: model(torch.empty(3, 8, device="meta")))
    assert [weight.axes for weight in found.weights] == ["eoi"]


def test_what_stays_exact_has_a_reason():
    assert reason(lambda m, x: x + m.w, (3, 4)) == "enters add"
    assert reason(lambda m, x: x, (3, 4)) == "not used in the forward pass"
    assert reason(lambda m, x: m.w.shape and m.w.dtype and x, (3, 4)) == "not used in the forward pass"
    assert reason(lambda m, x: (F.linear(x, m.w), x @ m.w), (4, 4)) == "used with different axes: io, oi"
    assert reason(lambda m, x: F.linear(x, m.w) * m.w.abs().sum(), (5, 4)) == "enters abs"
    assert reason(lambda m, x: (m.w.add_(1), F.linear(x, m.w)), (5, 4)) == "written to"
    assert reason(lambda m, x: F.linear(m.w, x), (5, 4)) == "enters linear"
    assert reason(lambda m, x: F.layer_norm(x, (3, 4), m.w), (3, 4)) == "enters layer_norm"
    ids = torch.zeros(3, dtype=torch.long, device="meta")
    assert reason(lambda m, x: F.embedding(ids, m.w, max_norm=1.0), (9, 4)).startswith(
        "a table that is rescaled"
    )


def test_dtypes_that_no_codec_holds():
    for dtype in (torch.float64, torch.int8):
        with torch.device("meta"):
            box = Box(lambda m, x: x @ m.w.float(), dtype, w=(4, 5))
        found = census(box, lambda model: model(torch.empty(3, 4, device="meta")))
        assert found.rest == (("w", f"{str(dtype).removeprefix('torch.')} weights stay as they are"),)


def test_parametrized_weight_stays_exact():
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    found = census(module, lambda model: model(torch.zeros(3, 4)))
    assert found.weights == ()
    assert dict(found.rest)["parametrizations.weight.original1"] == "parametrized"


def test_raw_attention_weight_stays_exact_and_the_rest_is_found():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.attention(x, x, x)[0])

    with torch.device("meta"):
        found = census(Net().eval(), lambda model: model(torch.empty(1, 5, 8, device="meta")))
    assert [weight.name for weight in found.weights] == ["out.weight"]
    assert dict(found.rest)["attention.in_proj_weight"] == "enters multi_head_attention_forward"


class Tied(nn.Module):
    """The head comes first in the model and last in the run."""

    def __init__(self, spaces: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(8, 16, bias=False)
        self.table = nn.Embedding(16, 8)
        self.inner = nn.Linear(8, 8)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.table(ids)).tanh()) / 2


def test_tied_weight_is_one_and_named_by_its_first_use():
    with torch.device("meta"):
        found = census(Tied(), lambda model: model(torch.zeros(1, 3, dtype=torch.long, device="meta")))
    table, inner = found.weights
    assert table.names == ("table.weight", "head.weight") and table.name == "table.weight"
    assert table.roles == {"embedding", "head"} and table.space == "table.weight"
    assert inner.roles == {"inner"} and (table.order, inner.order) == (0, 1)


def test_same_memory_is_tied_and_a_transposed_one_is_refused():
    model = Tied()
    model.head.weight = nn.Parameter(model.table.weight.data)
    ids = torch.zeros(1, 3, dtype=torch.long)
    assert census(model, lambda m: m(ids)).weights[0].names == ("table.weight", "head.weight")

    two = Box(lambda m, x: (F.linear(x, m.a), F.linear(x, m.b)), a=(4, 4), b=(4, 4))
    two.b = nn.Parameter(two.a.data.t())
    found = census(two, lambda m: m(torch.zeros(3, 4)))
    assert found.weights == ()
    assert {why for _, why in found.rest} == {"shares memory with another parameter"}


def spaces(
    use: Callable[..., object], x: tuple[int, ...] = (3, 4), **shapes: tuple[int, ...]
) -> dict[str, str]:
    return {weight.name: weight.space for weight in look(use, x, **shapes).weights}


def test_space_is_the_activation_up_to_views_and_casts():
    def use(m: Box, x: torch.Tensor) -> object:
        x = x.relu()
        again = x.unsqueeze(0).reshape(1, -1, 4).flatten(0, 1).contiguous().double().float()[:, :]
        return (
            F.linear(x, m.c),
            F.linear(again, m.b),
            F.linear(x.relu(), m.a),
            F.linear(F.dropout(x, 0.5, False), m.d),
        )

    found = spaces(use, a=(5, 4), b=(5, 4), c=(5, 4), d=(5, 4))
    assert found == {"a": "a", "b": "b", "c": "b", "d": "b"}


def test_changed_in_place_is_another_activation():
    def use(m: Box, x: torch.Tensor) -> object:
        x = x.relu()
        view = x.view(-1, 4)
        first = F.linear(x, m.a)
        x += 1
        return first, F.linear(x, m.b), F.linear(view, m.c)

    assert spaces(use, a=(5, 4), b=(5, 4), c=(5, 4)) == {"a": "a", "b": "b", "c": "b"}


def test_other_features_of_one_activation_are_another_space():
    def use(m: Box, x: torch.Tensor) -> object:
        return F.linear(x, m.a), F.linear(x.view(6, 2), m.b), F.linear(x.t(), m.c)

    assert spaces(use, (3, 4), a=(5, 4), b=(5, 2), c=(5, 3)) == {"a": "a", "b": "b", "c": "c"}


def test_weight_used_twice_joins_what_it_reads():
    def use(m: Box, x: torch.Tensor) -> object:
        y = F.linear(x, m.c).relu()
        return F.linear(x, m.b), F.linear(y, m.c), F.linear(y, m.a)

    assert spaces(use, a=(4, 4), b=(4, 4), c=(4, 4)) == {"a": "a", "b": "a", "c": "a"}


def test_transposed_operand_reads_the_same_space():
    def use(m: Box, x: torch.Tensor) -> object:
        return torch.bmm(m.a[None].expand(3, -1, -1), x.unsqueeze(-1)), F.linear(x, m.b)

    assert spaces(use, a=(5, 4), b=(5, 4)) == {"a": "a", "b": "a"}


def heads(use: Callable[..., object], **shapes: tuple[int, ...]) -> set[str]:
    return {weight.name for weight in look(use, **shapes).weights if "head" in weight.roles}


def test_head_is_what_is_returned():
    two = {"a": (4, 4), "b": (4, 4)}

    def chain(m: Box, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, m.a).relu(), m.b)

    assert heads(chain, **two) == {"b"}
    assert heads(lambda m, x: (chain(m, x) / 3).float()[:, -1:], **two) == {"b"}
    assert heads(lambda m, x: (chain(m, x) / 30).tanh() * 30, **two) == {"b"}
    assert heads(lambda m, x: chain(m, x).mul_(2), **two) == {"b"}
    constant = torch.empty(1, 4, device="meta")
    assert heads(lambda m, x: chain(m, x) + constant.to("meta"), **two) == {"b"}
    assert heads(lambda m, x: {"logits": chain(m, x), "hidden": F.linear(x, m.a)}, **two) == {"b"}
    assert heads(lambda m, x: chain(m, x).split(2, -1), **two) == {"b"}
    # an activation function, a residual, something that is not returned at the top
    assert heads(lambda m, x: chain(m, x).tanh(), **two) == set()
    assert heads(lambda m, x: chain(m, x) + x.relu(), **two) == set()
    assert (
        heads(lambda m, x: {"state": [F.linear(x, m.a)], "value": F.linear(x, m.b).softmax(-1)}, **two)
        == set()
    )


def test_order_is_that_of_the_run():
    found = look(lambda m, x: F.linear(F.linear(x, m.late), m.early), early=(4, 4), late=(4, 4))
    assert [(weight.name, weight.order) for weight in found.weights] == [("late", 0), ("early", 1)]


def test_failing_call_is_a_model_error_and_leaves_no_hooks():
    with torch.device("meta"):
        model = Tied()

    def call(m: nn.Module) -> object:
        m(torch.zeros(1, 3, dtype=torch.long, device="meta"))
        return torch.empty(1, device="meta").item()

    with pytest.raises(ModelError, match="does not run, got RuntimeError") as caught:
        census(model, call)
    assert "small real instance" in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parameter_without_a_shape_is_refused():
    with warnings.catch_warnings():
        # torch says once in a process that lazy modules are new
        warnings.simplefilter("ignore")
        model = nn.LazyLinear(3)
    with pytest.raises(ModelError, match="weight: the parameter has no shape yet"):
        census(model, lambda m: m(torch.zeros(1, 2)))


def test_real_instance_gives_the_same_census():
    ids = torch.zeros(1, 3, dtype=torch.long)
    with torch.device("meta"):
        on_meta = census(Tied(), lambda model: model(ids.to("meta")))
    assert census(Tied(), lambda model: model(ids)) == on_meta
