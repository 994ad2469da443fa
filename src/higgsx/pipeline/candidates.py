"""Every way to store one tensor, with its bytes and the loss that it is predicted to cost.

With data the loss of a tensor is what its row sensitivities say (`calibration/`). Without, it is
`K · f · √weights · e`: e the relative squared error of its code, f a factor for what the model reads or says,
K one constant that turns the product into nats per token. That is a guess, and called one: K and f were
fitted once over several models (docs/ARCHITECTURE.md). Absolute squared error would be worse than no
allocation at all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from higgsx.almpq.table import UNITS, Candidate, Group
from higgsx.calibration.statistics import Statistics
from higgsx.codecs.base import ArrayShape, Codec, MatrixShape, torch_dtype
from higgsx.codecs.dense import Dense
from higgsx.codecs.gaussian import GAUSSIAN_ERROR
from higgsx.codecs.panels import PanelCodec
from higgsx.descriptor import Descriptor
from higgsx.errors import UsageError
from higgsx.pipeline.encode import largest_of
from higgsx.pipeline.survey import Item
from higgsx.rounding.base import exponent_for
from higgsx.rounding.table import rounding_of
from higgsx.source.checkpoint import Checkpoint
from higgsx.units import round_up

NATS = 4.5e-5
"""K: nats per token for one unit of √weights times relative squared error."""
FACTORS = {"embedding": 2.0, "head": 8.0, "inner": 1.0}
NOTE = "no data: K times f times root of weights times relative squared error, a guess"
DENSE_ERROR = {"F32": 0.0, "F16": 4e-8, "BF16": 2.6e-6}
"""Relative squared error of Gaussian weights rounded to a shorter float; float16 of weights far below one
loses more, which samples show."""
IMPOSSIBLE = 1e9
"""The error of a float that is too short for a weight: never chosen where there is anything else."""
ALIGN = 64
SAMPLE = 49_152
"""Weights of a tensor that the errors are measured on: whole rows, evenly spaced over the outputs."""

Errors = Callable[[Descriptor], float]
"""Relative squared error of a tensor when it is stored so."""
Losses = Callable[[Item, Descriptor, float], float]
"""Predicted loss of a tensor that is stored so, with this relative squared error."""


def group_of(
    item: Item, codecs: Sequence[Codec], errors: Errors, order: int, losses: Losses | None = None
) -> Group:
    """All candidates of one tensor and its tied copies; only the exact one where it must stay exact."""
    exact = descriptor_of(item, Dense(item.info.dtype))
    found = [candidate_of(item, exact, 0.0)]
    if not item.why:
        found += [candidate_of(item, lossy, errors(lossy), losses) for lossy in _lossy(item, codecs, exact)]
    return Group(item.name, item.names, item.weights, item.counted, tuple(found), item.why, order)


def descriptor_of(item: Item, codec: Codec) -> Descriptor:
    """How the tensor would be stored with this codec: transformed and in panels, or plain."""
    if not isinstance(codec, PanelCodec):
        return Descriptor(item.info.dtype, item.info.shape, "", codec)
    return Descriptor(item.info.dtype, item.info.shape, item.axes, codec, item.transform)


def _lossy(item: Item, codecs: Sequence[Codec], exact: Descriptor) -> Iterator[Descriptor]:
    for codec in codecs:
        if codec != exact.codec and codec.accepts(item.plain.matrix, item.info.dtype) is None:
            yield descriptor_of(item, codec)


def candidate_of(item: Item, descriptor: Descriptor, error: float, losses: Losses | None = None) -> Candidate:
    """One row of the cost table; error is the relative squared one. Without `losses` the loss is a guess."""
    loss = predicted_loss(item, error) if losses is None else losses(item, descriptor, error)
    arrays = [ArrayShape(dtype, shape).nbytes for dtype, shape in descriptor.arrays().values()]
    data = _unscaled(descriptor).to_json()
    return Candidate(
        label="exact" if descriptor.is_exact else descriptor.codec.label,
        nbytes=sum(arrays),
        stored=sum(round_up(nbytes, ALIGN) for nbytes in arrays),
        loss=0.0 if descriptor.is_exact else loss,
        exact=descriptor.is_exact,
        params={key: data[key] for key in ("axes", "codec", "params", "transform")},  # type: ignore[misc]
    )


def _unscaled(descriptor: Descriptor) -> Descriptor:
    """Channel scales belong to the item: `draft.described` puts them back."""
    transform = descriptor.transform
    if transform is None:
        return descriptor
    return dataclasses.replace(descriptor, transform=dataclasses.replace(transform, scales=""))


def predicted_loss(item: Item, error: float) -> float:
    """Nats per token, a guess. Six digits, so that it is the same on every machine."""
    factor = max((FACTORS[role] for role in item.roles), default=1.0)
    return _short(NATS * factor * item.weights**0.5 * error)


def learned_losses(statistics: Statistics, names: Mapping[str, str]) -> Losses:
    """Losses as statistics predict them; what they do not cover falls back to the guess.

    names  checkpoint name → parameter name
    """
    weights: dict[str, tuple[str, float] | None] = {}

    def loss(item: Item, descriptor: Descriptor, error: float) -> float:
        if item.name not in weights:
            known = (names[one] for one in item.names if one in names)
            name = next((one for one in known if one in statistics.r), None)
            weights[item.name] = (
                None if name is None else (name, statistics.weight(name, item.plain.matrix.inputs))
            )
        found = weights[item.name]
        if found is None:
            return predicted_loss(item, error) if statistics.unit == UNITS[0] else 0.0
        name, weight = found
        whole_rows = isinstance(descriptor.codec, PanelCodec) and descriptor.codec.block == 0
        return _short(weight * error * statistics.bend(name).of(error, whole_rows))

    return loss


def _short(loss: float) -> float:
    """Six digits, as many as are stable on one machine."""
    return float(f"{loss:.6g}")


def gaussian_errors(descriptor: Descriptor) -> float:
    """The error that the code has on Gaussian weights: what can be said from headers alone."""
    codec = descriptor.codec
    if isinstance(codec, Dense):
        return DENSE_ERROR[codec.dtype] if torch_dtype(codec.dtype) != torch_dtype(descriptor.dtype) else 0.0
    return GAUSSIAN_ERROR[codec.label]


def sampled_errors(source: Checkpoint, item: Item, method: str) -> Errors:
    """Errors measured on a sample of the tensor's own rows, by encoding them.

    DataError where a weight among them is NaN or infinite.
    """
    rows = sample_rows(source, item)
    rounding = rounding_of(method)
    mixed = rows.t().contiguous()
    if item.transform is not None:
        mixed = item.transform.encode(mixed)
    largest = float(rows.abs().max()) if item.transform is None else item.transform.largest(rows)
    power = energy_of(mixed)  # butterflies keep it, scales do not

    def measure(descriptor: Descriptor) -> float:
        codec = descriptor.codec
        if power == 0.0:
            return 0.0
        if isinstance(codec, Dense):
            error = energy_of(rows - rows.to(torch_dtype(codec.dtype)).float()) / energy_of(rows)
            return error if math.isfinite(error) else IMPOSSIBLE
        if not isinstance(codec, PanelCodec):
            raise UsageError("no rounding for this codec", got=codec.id)
        codec = dataclasses.replace(codec, exponent=exponent_for(codec, largest))  # type: ignore[type-var]
        payload, of_rows = codec.pack(*rounding.round(codec, mixed))
        arrays = {"_hgs": payload} if of_rows is None else {"_hgs": payload, "_hgsr": of_rows}
        return energy_of(mixed.t() - codec.decode(arrays, MatrixShape(*reversed(mixed.shape)))) / power

    return measure


def energy_of(x: torch.Tensor) -> float:
    """Sum of squares."""
    return float(x.double().square().sum())


def sample_rows(source: Checkpoint, item: Item) -> torch.Tensor:
    """float32 `[rows, inputs]`: whole output rows, evenly spaced. DataError for a NaN or Inf among them."""
    plain = item.plain
    inputs, outputs = plain.matrix.inputs, plain.matrix.outputs * (plain.matrix.experts or 1)
    count = min(outputs, max(4, SAMPLE // inputs))
    picked = [(2 * k + 1) * outputs // (2 * count) for k in range(count)]
    if item.axes == "oi":
        rows = torch.cat([source.read_rows(item.name, row, row + 1) for row in picked]).float()
    else:
        rows = plain.to_matrix(source.read(item.name)).reshape(outputs, inputs)[picked].float()
    for row, values in zip(picked, rows, strict=True):
        largest_of(values[None], plain, row, item.name)
    return rows
