"""Whole models: packed by name, filled from stored arrays, ties kept."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import build, encode, encode_model, logits, tokens, twin_of
from torch import nn

from higgsx.codecs.dense import Dense
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.nn.census import census
from higgsx.nn.densify import densify
from higgsx.nn.packed import is_packed, packed_parameters
from higgsx.nn.swap import fill, swap


class Net(nn.Module):
    """Tied table and head, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, 8)
        self.inner = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 24, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.inner(self.table(ids))) * self.scale)


IDS = torch.tensor([3, 0, 23])


def net() -> Net:
    torch.manual_seed(1)
    return Net().eval()


def stored(model: nn.Module) -> tuple[dict[str, Descriptor], dict[str, dict[str, torch.Tensor]]]:
    """Everything that a file would hold: two compressed weights, the rest dense."""
    descriptors, arrays = encode_model(model, census(model, lambda m: m(IDS)))
    names = {torch.float32: "F32", torch.int64: "I64"}
    for name, value in model.state_dict().items():
        if name not in descriptors and name != "head.weight":
            dtype = names[value.dtype]
            descriptors[name] = Descriptor(dtype, tuple(value.shape), "", Dense(dtype))
            arrays[name] = {"": value.clone()}
    return descriptors, arrays


def test_tied_names_share_one_array():
    model = net()
    descriptors, arrays = stored(model)
    done = swap(model, {"head.weight": descriptors["table.weight"]}, {"head.weight": arrays["table.weight"]})
    assert set(done) == {"table.weight", "head.weight"}
    assert model.table.weight_hgs is model.head.weight_hgs
    assert copy.deepcopy(model).table.weight_hgs is not model.table.weight_hgs
    other = copy.deepcopy(model)
    assert other.table.weight_hgs is other.head.weight_hgs
    # dense again, still tied
    assert set(densify(model)) == {"table.weight", "head.weight"}
    assert model.table.weight is model.head.weight and not is_packed(model.head)


def test_same_arrays_for_two_names_are_shared():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    descriptor = Descriptor("F32", (8, 8), "oi", Uniform.symmetric(4, 32))
    arrays = encode(model[0].weight, descriptor)
    swap(
        model, {f"{i}.weight": descriptor for i in range(2)}, {f"{i}.weight": dict(arrays) for i in range(2)}
    )
    assert model[0].weight_hgs is model[1].weight_hgs


def test_placeholders_on_meta_then_loaded():
    with torch.device("meta"):
        model = Net().eval()
    real = net()
    descriptors, arrays = stored(real)
    compressed = {name: one for name, one in descriptors.items() if not one.is_dense}
    swap(model, compressed, dtype=torch.bfloat16)
    assert model.head.weight_hgs.is_meta and model.head.weight_hgs is model.table.weight_hgs
    assert model.inner.weight.dtype == torch.bfloat16 and tuple(model.inner.weight.shape) == (8, 8)
    assert model.inner.weight.device.type == "meta"


def test_fill_a_module_on_meta(reference_kernels: None):
    real = net()
    descriptors, arrays = stored(real)
    with torch.device("meta"):
        model = Net().eval()
    filled = fill(model, descriptors, arrays)
    assert set(filled.packed) == {"table.weight", "head.weight", "inner.weight"}
    assert filled.missing == filled.unknown == () and filled.empty == ("scale",)
    model.scale = torch.tensor([2.0])
    with torch.no_grad():
        assert torch.equal(model(IDS), twin_of(real, (compressed_only(descriptors), arrays))(IDS))


def compressed_only(descriptors: dict[str, Descriptor]) -> dict[str, Descriptor]:
    return {name: one for name, one in descriptors.items() if not one.is_dense}


def test_fill_a_module_that_holds_other_values():
    real = net()
    descriptors, arrays = stored(real)
    model = Net().eval()
    result = fill(model, descriptors, arrays, torch.bfloat16)
    assert result.empty == ()
    assert model.inner.bias.dtype == torch.bfloat16 and model.inner.bias.requires_grad
    assert model.inner.weight.dtype == torch.bfloat16
    assert model.norm.running_mean.dtype == torch.float32
    assert torch.equal(model.norm.weight, real.norm.weight.bfloat16())
    # the source's own arrays stay as they were
    assert arrays["inner.bias"][""].dtype == torch.float32


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d, a: d.pop("inner.bias"), "inner.bias: the model needs a tensor that is not given"),
        (lambda d, a: d.pop("norm.running_mean"), "norm.running_mean: the model needs a tensor"),
        (lambda d, a: d.update(extra=d["inner.bias"]), "extra: a tensor has no place in the model"),
        (lambda d, a: a.pop("table.weight"), "table.weight: the arrays of a tensor are missing"),
        (lambda d, a: d.update({"inner.bias": d["norm.num_batches_tracked"]}), "inner.bias: shape differs"),
        (lambda d, a: d.update({"inner.weight": d["table.weight"]}), "inner.weight: shape differs"),
    ],
)
def test_fill_refuses_before_it_changes_anything(spoil, message: str):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    descriptors, arrays = stored(net())
    spoil(descriptors, arrays)
    with pytest.raises(ModelError, match=message):
        fill(model, descriptors, arrays)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_fill_without_strict_says_what_is_missing():
    model = net()
    descriptors, arrays = stored(net())
    del descriptors["inner.bias"]
    descriptors["extra"] = descriptors["norm.weight"]
    filled = fill(model, descriptors, arrays, strict=False)
    assert filled.missing == ("inner.bias",) and filled.unknown == ("extra",)


def test_swap_refuses_unknown_and_compressed_names():
    model = net()
    descriptors, arrays = stored(model)
    compressed = compressed_only(descriptors)
    with pytest.raises(ModelError, match="no such parameter"):
        swap(model, {"nothing.weight": compressed["inner.weight"]}, arrays)
    swap(model, compressed, arrays)
    with pytest.raises(ModelError, match="densify it first"):
        swap(model, compressed, arrays)


def test_arrays_that_do_not_fit_are_refused():
    model = net()
    descriptors, arrays = stored(model)
    arrays["inner.weight"] = {suffix: array[..., :-1] for suffix, array in arrays["inner.weight"].items()}
    with pytest.raises(ModelError, match="inner.weight: arrays do not fit"):
        swap(model, compressed_only(descriptors), arrays)
    assert packed_parameters(model.inner) == packed_parameters(model.table) == ()


def test_a_whole_language_model_through_fill(reference_kernels: None):
    model = build("qwen2")
    found = census(model, lambda m: m(input_ids=tokens(m)))
    encoded = encode_model(model, found)
    twin = twin_of(model, encoded)
    descriptors, arrays = dict(encoded[0]), dict(encoded[1])
    for name, value in model.named_parameters():
        if name not in descriptors:
            descriptors[name] = Descriptor("F32", tuple(value.shape), "", Dense("F32"))
            arrays[name] = {"": value.detach().clone()}
    other = build("qwen2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
        fill(other, descriptors, arrays)
        assert torch.equal(logits(other(input_ids=tokens(other))), logits(twin(input_ids=tokens(twin))))
