"""Proof that a model with compressed weights computes what its own classes compute with the decoded ones.

Run on a small instance of the same class (or on single modules): with the reference kernels, which decode,
every bit of the result must be equal. What fails stays exact, with the reason. How far fast kernels may be
off is another question, judged by bounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from higgsx.codecs.panels import Scales
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.kernels import ops
from higgsx.nn.census import Weight
from higgsx.nn.densify import densify
from higgsx.nn.packed import is_packed
from higgsx.nn.swap import swap

Call = Callable[[nn.Module], object]
Encoded = tuple[dict[str, Descriptor], dict[str, dict[str, torch.Tensor]]]

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_SEED = 0


def probe(model: nn.Module, call: Call, weights: Iterable[Weight]) -> tuple[tuple[str, str], ...]:
    """Which weights cannot be served compressed: name and reason, empty if all can.

    model    a real instance, not on meta and not compressed; it is left as it is
    call     one forward pass; random numbers are the same at each
    weights  those to compress, as the census of this instance found them
    Raises ModelError where the model does not run at all, or gives different results for equal inputs.
    """
    wanted = tuple(weights)
    if any(is_packed(module) for module in model.modules()):
        raise ModelError(
            "the model is compressed already", where=type(model).__name__, remedy="densify it first"
        )
    encoded = _encode(model, wanted)
    twin = copy.deepcopy(model)
    swap(twin, *encoded)
    densify(twin)
    expected = _run(twin, call)
    if not _equal(expected, _run(twin, call)):
        raise ModelError(
            "two runs with equal inputs differ, so nothing can be compared", where=type(model).__name__
        )
    if _why_not(twin, call, encoded, wanted, expected) is None:
        return ()
    # one after the other, keeping what works: finds also what fails only beside another
    served: list[Weight] = []
    refused: list[tuple[str, str]] = []
    for weight in wanted:
        reason = _why_not(twin, call, encoded, [*served, weight], expected)
        if reason is None:
            served.append(weight)
        else:
            refused.append((weight.name, reason))
    return tuple(refused)


def probe_packed(model: nn.Module, call: Call) -> str | None:
    """Why a compressed model is not bit for bit its decoded twin, with reference kernels; None if it is."""
    twin = copy.deepcopy(model)
    densify(twin)
    expected = _run(twin, call)
    return _differs(model, call, expected)


def encode_plainly(
    values: torch.Tensor, descriptor: Descriptor
) -> tuple[Descriptor, dict[str, torch.Tensor]]:
    """8 bits, one scale for each row, the largest value at the end of the grid: enough to compare two runs.

    values      in the shape of `descriptor`, whose codec is replaced
    """
    codec = Uniform.symmetric(8, 0)
    matrix = descriptor.to_matrix(values.detach().float()).reshape(-1, descriptor.matrix.inputs)
    # float16 scales: at least one that is not zero, and never infinite
    scale = (matrix.abs().amax(dim=1) / (codec.centre / 2)).clamp(2.0**-14, 2.0**15).half()
    codes = codec.nearest_codes((matrix / scale.float()[:, None]).t().contiguous())
    whole = descriptor.with_codec(codec)
    # the rows of every expert begin a panel of their own
    rows = descriptor.matrix.outputs
    parts = [
        codec.pack(codes[:, begin : begin + rows], Scales(None, scale[begin : begin + rows], None))
        for begin in range(0, matrix.shape[0], rows)
    ]
    arrays = {
        "_hgs": [payload for payload, _ in parts],
        "_hgsr": [row for _, row in parts if row is not None],
    }
    shapes = whole.arrays()
    return whole, {suffix: torch.stack(arrays[suffix]).view(shapes[suffix][1]) for suffix in shapes}


def _encode(model: nn.Module, weights: Iterable[Weight]) -> Encoded:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    descriptors, arrays = {}, {}
    for weight in weights:
        codec = Uniform.symmetric(8, 0)
        plain = Descriptor(_DTYPES[weight.dtype], weight.shape, weight.axes, codec)
        descriptors[weight.name], arrays[weight.name] = encode_plainly(parameters[weight.name], plain)
    return descriptors, arrays


def _why_not(
    twin: nn.Module, call: Call, encoded: Encoded, weights: Iterable[Weight], expected: object
) -> str | None:
    """Why these weights cannot be compressed together; `twin` holds the decoded values of all."""
    names = {weight.name for weight in weights}
    descriptors, arrays = (_only(part, names) for part in encoded)
    model = copy.deepcopy(twin)
    try:
        swap(model, descriptors, arrays)
    except Exception as error:
        return _text(error)
    return _differs(model, call, expected)


def _differs(model: nn.Module, call: Call, expected: object) -> str | None:
    """Why a model does not give the expected result; None if it does, bit for bit."""
    try:
        same = _equal(expected, _run(model, call))
    except Exception as error:
        return _text(error)
    return None if same else "the result differs from that of the decoded weights"


def _only(part: Mapping[str, object], names: set[str]) -> dict:
    return {name: value for name, value in part.items() if name in names}


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def _run(model: nn.Module, call: Call) -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), ops.forced("reference"):
        torch.manual_seed(_SEED)
        return call(model)


def _equal(one: object, other: object) -> bool:
    """Whether two results have the same structure and the same bits."""
    left, right = tree_flatten(one), tree_flatten(other)
    return left[1] == right[1] and all(map(_same, left[0], right[0]))


def _same(one: object, other: object) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        # objects such as caches are compared by what they led to
        return type(one) is type(other)
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    width = one.element_size()
    if one.is_complex() or width > 8:
        return torch.equal(one, other)
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    # bits, so that NaN equals NaN
    return torch.equal(one.contiguous().view(words), other.contiguous().view(words))
