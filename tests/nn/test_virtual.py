"""A virtual weight answers as the dense one would, and no write to it is lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import encode
from torch import nn

from arithmetic import Arithmetic
from higgsx.codecs.codebook import Codebook
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.kernels import ops
from higgsx.nn.packed import is_packed, pack
from higgsx.nn.virtual import VirtualWeight
from higgsx.transforms.hadamard import Hadamard


def linear(outputs: int = 20, inputs: int = 40) -> tuple[nn.Linear, torch.Tensor]:
    """A compressed layer and the values that it stands for."""
    torch.manual_seed(2)
    module = nn.Linear(inputs, outputs)
    transform = Hadamard(32, "x")
    descriptor = Descriptor("F32", (outputs, inputs), "oi", Codebook.plain("gauss16", 32), transform)
    arrays = encode(module.weight, descriptor)
    pack(module, "weight", descriptor, torch.float32, arrays)
    return module, descriptor.decode(arrays)


def experts(axes: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    module = nn.Module()
    module.w = nn.Parameter(torch.randn(3, 24, 40) if axes == "eoi" else torch.randn(3, 40, 24))
    descriptor = Descriptor("F32", tuple(module.w.shape), axes, Codebook.plain("gauss32", 0))
    arrays = encode(module.w, descriptor)
    pack(module, "w", descriptor, torch.float32, arrays)
    # as a model holds it: on some processors the bits of a product depend on how its operands lie in memory
    return module, descriptor.decode(arrays).contiguous()


def test_questions_do_not_decode():
    module, dense = linear()
    weight = module.weight
    with ops.watched() as ran:
        assert weight.shape == dense.shape and weight.size(0) == 20 and len(weight) == 20
        assert (
            weight.dtype == torch.float32
            and weight.device == dense.device
            and weight.ndim == weight.dim() == 2
        )
        assert (
            weight.numel() == dense.numel() and weight.element_size() == 4 and weight.nbytes == dense.nbytes
        )
        assert weight.is_floating_point() and not weight.is_complex() and not weight.requires_grad
        assert weight.stride() == dense.stride() and weight.t().stride() == dense.t().stride()
        assert weight.is_contiguous() and not weight.t().is_contiguous()
        assert weight.T.shape == dense.T.shape and weight.data.shape == weight.detach().shape == dense.shape
        assert isinstance(weight, torch.Tensor) and isinstance(hash(weight), int)
        assert "VirtualWeight((20, 40)" in repr(weight)
    assert ran == []


def test_products_take_kernels(arithmetic: Arithmetic):
    module, dense = linear()
    x = torch.randn(3, 40)
    cases = [
        ("linear", lambda w: F.linear(x, w, module.bias)),
        ("linear", lambda w: F.linear(input=x, weight=w)),
        ("matmul", lambda w: x @ w.t()),
        ("matmul", lambda w: torch.matmul(x, w.T)),
        ("matmul", lambda w: torch.mm(x, w.transpose(0, -1))),
        ("matmul", lambda w: torch.addmm(module.bias, x, w.t())),
        ("embedding", lambda w: F.embedding(torch.tensor([[1, 19], [0, 1]]), w)),
        ("embedding", lambda w: w[torch.tensor([3, -1])]),
        ("embedding", lambda w: w[5]),
        ("embedding", lambda w: w[2:7]),
    ]
    for op, use in cases:
        with torch.no_grad(), ops.watched() as ran:
            assert arithmetic.agree(use(module.weight), use(dense))
        assert ran == [(op, arithmetic.kernel)]


def test_everything_else_decodes_and_is_equal():
    module, dense = linear()
    x, left = torch.randn(3, 40), torch.randn(3, 20)
    uses = [
        lambda w: w @ x.t(),
        lambda w: left @ w,
        lambda w: torch.einsum("oi,ni->no", w, x),
        lambda w: torch.mm(x, mat2=w.t()),
        lambda w: torch.addmm(torch.ones(3, 20), x, w.t(), beta=2),
        lambda w: torch.addmm(torch.ones(3, 1), x, w.t()),
        lambda w: w * 2 + w.sum(),
        lambda w: torch.cat([w, w]),
        lambda w: w.t()[3],
        lambda w: w[:, 3:5],
        lambda w: w[None],
        lambda w: w.float().clone().view(-1),
        lambda w: F.embedding(torch.tensor([1]), w.t()),
    ]
    for use in uses:
        with torch.no_grad():
            got = use(module.weight)
            assert type(got) is torch.Tensor and torch.equal(got, use(dense))


@pytest.mark.parametrize("axes", ["eoi", "eio"])
def test_one_expert_is_served_by_the_kernel_of_a_matrix(axes: str, arithmetic: Arithmetic):
    module, dense = experts(axes)
    x = torch.randn(5, 40)

    def use(w: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w) if axes == "eoi" else x @ w

    for index in (0, -1, torch.tensor(2)):
        with torch.no_grad(), ops.watched() as ran:
            assert arithmetic.agree(use(module.w[index]), use(dense[index]))
        assert ran == [("linear" if axes == "eoi" else "matmul", arithmetic.kernel)]
    with pytest.raises(IndexError):
        module.w[3]
    ids = torch.tensor([2, 0])
    with torch.no_grad():
        assert torch.equal(module.w[ids], dense[ids])
        x3 = torch.randn(3, 2, 40)
        right = (lambda w: w.mT) if axes == "eoi" else (lambda w: w)
        assert torch.equal(torch.bmm(x3, right(module.w)), torch.bmm(x3, right(dense)))


def test_gradient_with_a_matrix_as_bias():
    module, dense = linear()
    x = torch.randn(3, 40)
    grads = []
    for weight in (module.weight, dense):
        bias = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
        torch.addmm(bias, x, weight.t()).square().sum().backward()
        grads.append(bias.grad)
    torch.testing.assert_close(grads[0], grads[1])


WRITES = {
    "copy_": lambda m: m.weight.copy_(torch.ones(20, 40)),
    "iadd": lambda m: m.weight.__iadd__(1.0),
    "data iadd": lambda m: setattr(m.weight, "data", m.weight.data + 1.0),
    "data setitem": lambda m: m.weight.data.__setitem__((0, 0), 5.0),
    "data copy_": lambda m: m.weight.data.copy_(torch.ones(20, 40)),
    "init": lambda m: nn.init.constant_(m.weight, 3.0),
    "setitem": lambda m: m.weight.__setitem__(0, 0.0),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_are_not_lost(write: str):
    module, dense = linear()
    same = nn.Linear(40, 20)
    same.weight = nn.Parameter(dense.clone(), requires_grad=False)
    with torch.no_grad():
        WRITES[write](module)
        WRITES[write](same)
    assert not is_packed(module) and type(module) is nn.Linear
    assert isinstance(module.weight, nn.Parameter) and torch.equal(module.weight, same.weight)
    assert not torch.equal(module.weight, dense)


def test_merging_through_data_twice():
    module, dense = linear()
    weight = module.weight
    with torch.no_grad():
        weight.data += 1.0
        weight.data += 1.0
    assert torch.equal(module.weight, dense + 1.0 + 1.0)
    assert not is_packed(module)


def test_kept_reference_follows_a_write():
    module, dense = linear()
    weight = module.weight
    with torch.no_grad():
        weight.zero_()
        assert (
            weight.sum() == 0 and weight.stride() == (40, 1) and not F.linear(torch.ones(1, 40), weight).any()
        )


def test_writes_that_cannot_be_kept_are_errors():
    module, dense = linear()
    with pytest.raises(ModelError, match="view of a compressed weight"):
        module.weight.t().copy_(dense.t())
    with pytest.raises(ModelError, match="cannot be written to"):
        torch.add(torch.ones(20, 40), 1.0, out=module.weight)
    with pytest.raises(ModelError, match="cannot be trained"):
        module.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="cannot be trained"):
        module.weight.requires_grad = True
    assert is_packed(module) and module.weight.requires_grad_(False).shape == (20, 40)


def test_assigned_parameter_replaces_the_bytes():
    module, _ = linear()
    module.weight = nn.Parameter(torch.ones(20, 40))
    assert type(module) is nn.Linear and dict(module.named_parameters()).keys() == {"weight", "bias"}
    module, _ = linear()
    with pytest.raises(ModelError, match="shape differs"):
        module.weight = nn.Parameter(torch.ones(3, 3))


def test_rows_out_of_range():
    module, _ = linear()
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([20]), module.weight)
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([-1]), module.weight)
    assert F.embedding(torch.zeros(0, 2, dtype=torch.long), module.weight).shape == (0, 2, 40)


def test_autocast_and_float_input_to_a_bfloat16_layer(arithmetic: Arithmetic):
    module, dense = linear()
    x = torch.randn(3, 40)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), F.linear(x, dense, module.bias))
        assert module(x).dtype == torch.bfloat16
    module.to(torch.bfloat16)
    with torch.no_grad():
        assert module(x).dtype == torch.float32
        # the reference rounds the weight to the run dtype first
        rounded = dense.bfloat16().float() if arithmetic.kernel == "reference" else dense
        assert arithmetic.agree(module(x), F.linear(x, rounded, module.bias.float()))


def test_packed_class_is_a_subclass_with_the_same_name():
    module, _ = linear()
    assert (
        isinstance(module, nn.Linear) and type(module).__name__ == "Linear" and type(module) is not nn.Linear
    )
    assert isinstance(module.weight, VirtualWeight)
    other, _ = linear()
    assert type(other) is type(module)
