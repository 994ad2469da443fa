"""Native kernels on torch tensors, against the reference: bits where they are defined, bounds elsewhere."""

from __future__ import annotations

import dataclasses
import gc
import threading

import pytest
import torch
from packed_samples import CODECS, SHAPES, packed

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.errors import FormatError
from higgsx.kernels import cpu, native, ops, reference
from higgsx.kernels.packed import Packed

pytestmark = pytest.mark.skipif(
    native.available() is not None, reason=f"no native kernels: {native.available()}"
)
MORE = (
    Uniform.symmetric(2, 64),
    Uniform.symmetric(3, 128),
    Uniform.symmetric(5, 0),
    Uniform.symmetric(6, 64),
    Uniform.symmetric(8, 32),
    Uniform(8, 64, "f16", "f16", 0, 3),
    Uniform(4, 0, "f16", "u8", 0, 0),
    Uniform(2, 0, "f16", "min", 0, 1),
    Uniform(6, 32, "f16", "none", 64, 0),
    Codebook.plain("gauss4", 32),
    Codebook.plain("gauss32", 128),
    Codebook.plain("nf4", 64),
)
EVERY = (*CODECS, *MORE)
IDS = [codec.label for codec in EVERY]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def here() -> None:
    torch.manual_seed(0)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)


def ran_native(seen: list[tuple[str, str]]) -> bool:
    return bool(seen) and all(kernel == "native" for _, kernel in seen)


def bound(x: torch.Tensor, weight: Packed, precision: str) -> torch.Tensor:
    """How far a product may be from the exact one: what csrc/higgsx.h says about rounding activations, in
    units of 128 inputs after the transform, and some roundings of binary32."""
    descriptor = weight.descriptor
    values = descriptor.codec.decode(weight.arrays, descriptor.matrix).double()
    t = x.float().reshape(-1, x.shape[-1])
    if descriptor.transform is not None:
        t = descriptor.transform.encode(t.t().contiguous()).t()
    t = t.double()
    sums = t.abs() @ values.abs().t() * 3e-6
    if precision == "float":
        return sums
    step = 0.51 / (254 if descriptor.codec.code_bits >= 6 else 1)
    for begin in range(0, t.shape[1], 128):
        largest = t[:, begin : begin + 128].abs().amax(1, keepdim=True)
        sums += largest / 127 * step * values[:, begin : begin + 128].abs().sum(1)
    return sums


@pytest.mark.parametrize("codec", EVERY, ids=IDS)
def test_decoded_values_are_equal_to_the_bit(codec):
    for axes in SHAPES:
        for dtype in DTYPES:
            weight = packed(codec, axes, dtype)
            with ops.watched() as seen:
                got = ops.decode(weight)
            assert ran_native(seen) and got.is_contiguous() and got.shape == weight.shape
            assert torch.equal(bits(got), bits(reference.decode(weight)))


@pytest.mark.parametrize("codec", EVERY, ids=IDS)
def test_looked_up_rows_are_equal_to_the_bit(codec):
    ids = torch.tensor([[36, 0, 17], [5, 36, 36]], dtype=torch.int32)
    for dtype in DTYPES:
        weight = packed(codec, "oi", dtype)
        with ops.watched() as seen:
            got = ops.embedding(ids, weight), ops.embedding(ids.t()[::2].long(), weight)
        assert ran_native(seen)
        assert torch.equal(bits(got[0]), bits(reference.embedding(ids, weight)))
        assert torch.equal(bits(got[1]), bits(reference.embedding(ids.t()[::2], weight)))
    assert ops.embedding(torch.zeros(0, 2, dtype=torch.long), weight).shape == (0, 2, 200)
    for wrong in (-1, 37):
        with pytest.raises(IndexError, match="37 rows"):
            ops.embedding(torch.tensor([0, wrong]), weight)


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("codec", EVERY, ids=IDS)
def test_products_keep_their_bound(codec, precision: str):
    x, bias = torch.randn(2, 3, 200), torch.randn(37)
    x[0, 0], x[1, 1, 7] = 0, 300
    for axes in ("oi", "io"):
        weight = packed(codec, axes)
        dense = reference.decode(weight).double()
        exact = x.double() @ (dense.t() if axes == "oi" else dense)
        limit = bound(x, weight, precision).view(exact.shape) + 1e-6
        with ops.precision(precision), ops.watched() as seen:
            got = ops.linear(x, weight), ops.linear(x, weight, bias), ops.matmul(x, weight)
        assert ran_native(seen)
        for y, more in zip(got, (0, bias.double(), 0), strict=True):
            assert ((y.double() - more - exact).abs() <= limit).all()
        assert not got[0][0, 0].any() and torch.equal(got[1][0, 0], bias)


def test_precision_is_what_was_asked_for():
    """Errors of the size that rounding gives, not only below the worst case."""
    x = torch.randn(64, 200)
    for codec, low, high in ((CODECS[0], 2e-3, 2e-2), (Uniform.symmetric(6, 64), 1e-6, 1e-4)):
        weight = packed(codec)
        exact = x.double() @ reference.decode(weight).double().t()
        errors = []
        for precision in ("int8", "fast", "float"):
            with ops.precision(precision):
                errors.append(float((ops.linear(x, weight) - exact).norm() / exact.norm()))
        assert low < errors[0] < high and 2e-3 < errors[1] < 2e-2 and errors[2] < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_of_every_dtype(dtype: torch.dtype):
    """What is computed in float32 and rounded once."""
    weight = packed(CODECS[4], dtype=dtype)
    x, bias = torch.randn(5, 200).to(dtype), torch.randn(37).to(dtype)
    for precision in ("int8", "float"):
        with ops.precision(precision):
            got = ops.linear(x, weight, bias)
            assert got.dtype == dtype
            assert torch.equal(got, ops.linear(x.float(), weight, bias.float()).to(dtype))


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_token_alone_or_among_others(precision: str):
    weight, x = packed(CODECS[4], shape=(100, 300)), torch.randn(40, 300)
    with ops.precision(precision):
        together = ops.linear(x, weight)
        for count in (1, 2, 3, 7, 16, 17):
            assert torch.equal(ops.linear(x[:count], weight), together[:count])


def test_parts_of_many_tokens(monkeypatch: pytest.MonkeyPatch):
    weight, x, bias = packed(CODECS[2]), torch.randn(100, 200), torch.randn(37)
    whole = ops.linear(x, weight, bias)
    monkeypatch.setattr(cpu, "_SCRATCH", 20_000)
    assert torch.equal(ops.linear(x, weight, bias), whole)


def test_layouts_of_activations():
    weight = packed(CODECS[0])
    x = torch.randn(6, 5, 400)
    views = [
        x[..., 200:],
        x[:, 2, :200],
        x[..., ::2],
        x[:, :, :200].transpose(0, 1),
        x[0, 0, :200],
        x[:1, 0, :200].expand(4, 200),
        x[:0, :, :200],
    ]
    for view in views:
        with ops.watched() as seen:
            got = ops.linear(view, weight)
        assert ran_native(seen) and got.is_contiguous()
        assert torch.equal(got, ops.linear(view.clone(memory_format=torch.contiguous_format), weight))


@pytest.mark.parametrize("axes", ["eoi", "eio"])
def test_one_matrix_of_a_stack(axes: str):
    for codec in CODECS:
        stack, x = packed(codec, axes), torch.randn(4, 72)
        dense = reference.decode(stack).double()
        for index in range(3):
            with ops.precision("float"):
                got = ops.linear(x, stack.expert(index)).double()
            matrix = dense[index].t() if axes == "eoi" else dense[index]
            torch.testing.assert_close(got, x.double() @ matrix, rtol=1e-5, atol=1e-5)


CONVOLUTIONS = {
    "oik": [
        (1, 0, 1),
        (2, 1, 1),
        (2, 1, 2),
        (1, "same", 1),
        (1, "same", 2),
        (3, (2,), 1),
        (1, "valid", 3),
        (5, 0, 1),
    ],
    "oikk": [(1, 0, 1), ((2, 1), (1, 0), 1), (2, 1, (2, 1)), (1, "same", 1), (3, 1, 1), (1, "valid", 1)],
}


@pytest.mark.parametrize("axes", CONVOLUTIONS)
def test_convolutions(axes: str):
    x, bias = torch.randn(2, 40, *((19,) if axes == "oik" else (9, 11))), torch.randn(10)
    for codec in CODECS:
        weight = packed(codec, axes)
        for sizes in CONVOLUTIONS[axes]:
            with ops.precision("float"), ops.watched() as seen:
                got = ops.conv(x, weight, bias, *sizes), ops.conv(x[1], weight, None, *sizes)
            assert ran_native(seen) and all(one.is_contiguous() for one in got)
            expected = reference.conv(x, weight, bias, *sizes), reference.conv(x[1], weight, None, *sizes)
            for ours, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_declined_is_what_torch_says():
    """The reference serves it, or refuses it with the words of torch."""
    weight, x = packed(CODECS[0]), torch.randn(3, 200)
    served = [
        (x.double(), dataclasses.replace(weight, dtype=torch.float64), None),
        (x, weight, torch.randn(1)),
    ]
    for arguments in served:
        with ops.watched() as seen:
            got = ops.linear(*arguments)
        assert seen == [("linear", "reference")] and got.shape == (3, 37)
    for wrong in (torch.randn(3, 199), torch.tensor(1.0)):
        with pytest.raises(RuntimeError):
            ops.linear(wrong, weight)
    with pytest.raises(RuntimeError):
        ops.conv(torch.randn(1, 39, 9), packed(CODECS[0], "oik"))
    with pytest.raises(RuntimeError):
        ops.conv(torch.randn(1, 40, 2), packed(CODECS[0], "oik"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_traced_and_transformed_calls_see_operations_of_torch():
    weight, x = packed(CODECS[0]), torch.randn(3, 200)
    expected = reference.linear(x, weight, None)
    with ops.watched() as seen, torch.no_grad():
        assert torch.equal(torch.func.vmap(lambda row: ops.linear(row, weight))(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ops.linear(x, weight).dtype == torch.bfloat16
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            ops.linear(x, weight)
        assert counter.get_total_flops() == 2 * 3 * 200 * 37
        _, tangent = torch.func.jvp(lambda row: ops.linear(row, weight), (x,), (x,))
        torch.testing.assert_close(tangent, expected)
    assert {kernel for _, kernel in seen} == {"reference"}


def test_gradients_use_the_decoded_weight():
    for axes in ("oi", "io"):
        weight = packed(CODECS[4], axes)
        matrix = reference.decode(weight) if axes == "io" else reference.decode(weight).t()
        x, bias = torch.randn(2, 3, 200, requires_grad=True), torch.randn(37, requires_grad=True)
        with ops.watched() as seen:
            ops.linear(x, weight, bias).backward(torch.ones(2, 3, 37))
        assert seen == [("linear", "native"), ("decode", "native")]
        torch.testing.assert_close(x.grad, torch.ones(2, 3, 37) @ matrix.t())
        assert torch.equal(bias.grad, torch.full((37,), 6.0))


def test_bytes_that_move_are_found_again():
    weight, other = packed(CODECS[0]), packed(CODECS[0])
    held = torch.nn.Parameter(weight.arrays["_hgs"], requires_grad=False)
    moving = dataclasses.replace(weight, arrays={**weight.arrays, "_hgs": held})
    x = torch.randn(2, 200)
    before = ops.linear(x, moving)
    other.arrays["_hgs"].fill_(0)
    held.data = other.arrays["_hgs"]
    assert torch.equal(ops.linear(x, moving), ops.linear(x, other)) and not torch.equal(
        before, ops.linear(x, other)
    )
    held.copy_(weight.arrays["_hgs"])
    assert torch.equal(ops.linear(x, moving), before)
    # the same bytes under another description
    coarse = dataclasses.replace(CODECS[0], exponent=1)
    doubled = dataclasses.replace(moving, descriptor=moving.descriptor.with_codec(coarse))
    with ops.precision("float"):
        assert torch.equal(ops.linear(x, doubled), 2 * ops.linear(x, moving))


def test_nothing_is_kept_of_a_weight_that_is_gone():
    weight = packed(CODECS[0])
    ops.linear(torch.randn(1, 200), weight)
    key = id(weight.arrays["_hgs"])
    assert key in cpu._handles
    del weight
    gc.collect()
    assert key not in cpu._handles


def test_arrays_of_the_wrong_size_are_refused():
    weight = packed(CODECS[0])
    short = {suffix: array[:-1].clone() for suffix, array in weight.arrays.items()}
    with pytest.raises(FormatError, match="shorter than its shape") as caught:
        ops.linear(torch.randn(1, 200), dataclasses.replace(weight, arrays=short))
    assert caught.value.code == "SIZE"


def test_any_bytes_are_safe():
    generator = torch.Generator().manual_seed(0)
    for codec in EVERY:
        weight = packed(codec)
        noise = {
            suffix: torch.randint(0, 256, array.shape, dtype=torch.uint8, generator=generator)
            for suffix, array in weight.arrays.items()
        }
        spoiled = dataclasses.replace(weight, arrays=noise)
        for precision in ("int8", "float"):
            with ops.precision(precision):
                assert ops.linear(torch.randn(2, 200), spoiled).shape == (2, 37)
        assert torch.equal(ops.decode(spoiled).isnan(), reference.decode(spoiled).isnan())


def test_many_threads_of_python_at_once():
    """Scratch space belongs to one thread; results do not depend on who else computes."""
    weight, x = packed(CODECS[4], shape=(500, 1000)), torch.randn(8, 9, 1000)
    expected = [ops.linear(one, weight) for one in x]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            if not torch.equal(ops.linear(x[index], weight), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_of_torch_do_not_change_results():
    weight, x = packed(CODECS[4], shape=(700, 1100)), torch.randn(33, 1100)
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append((ops.linear(x, weight), ops.linear(x[:1], weight), ops.decode(weight)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_descriptors_of_stacks_and_dense_convolutions_are_refused_by_the_binding():
    from higgsx.codecs.dense import Dense
    from higgsx.errors import UsageError

    with pytest.raises(UsageError, match="one matrix at a time"):
        native.matrix_of(packed(CODECS[0], "eoi").descriptor, {})
    with pytest.raises(UsageError, match="does not read this"):
        native.matrix_of(Descriptor("F32", (4, 4, 3), "oik", Dense("F32")), {"": (0, 0)})
